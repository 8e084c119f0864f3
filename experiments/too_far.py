"""A taste followed to ten nats: its score, the true reward and who wins, with and without care.

    python experiments/too_far.py [--preset tiny] [--taste sentiment] [--seeds 4000,4001,4002]

For each seed one run of a simulated panel (``szpo run``, pairs of the start's own answers), whose
votes give the taste. Copies of it follow that taste by improve.way = "natural" to ten nats, where
neither a guard nor a score that no longer rises ends them: by the score as shipped (cautious and
bounded), by the mean alone, without bounds, and without both. Each line of CSV is a policy on its
way: KL, its own score and the shipped one's on prompts that no step learned from, the true reward
and the share of pairs that it wins against the start's on held-out prompts, and which guards fail.
The last line of an arm says at which step the rules would have ended it (or begun to halve steps,
where a guard fails), and what share of the largest true reward on the way that policy has.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from improve_ways import make_run

from szpo.analysis import run_taste
from szpo.improvement import between_rounds, policy_search
from szpo.improvement.aims import waived_by
from szpo.improvement.score_ascent import Improved, Plan
from szpo.ledger.database import Ledger
from szpo.policies.protocol import moved
from szpo.policies.text_guards import NAMES
from szpo.runs import assemble
from szpo.taste import Taste
from szpo.types import Answer, Floats, Prompt
from szpo.voting import lease, panel_evaluator

NATS: Final = 10.0
EACH: Final = 8
"""Answers to each held-out prompt."""
WIDE: Final = 10**9
"""A bound that nothing reaches, in units of the grid."""
ARMS: Final = {
    "shipped": (1.0, True),
    "mean alone": (0.0, True),
    "no bounds": (1.0, False),
    "neither": (0.0, False),
}
"""Deviations taken from the mean; whether features are bounded."""
COLUMNS: Final = ("seed", "arm", "step", "kl", "own_score", "score", "reward", "wins", "guards")


def widened(taste: Taste) -> Taste:
    """The taste without bounds."""
    return replace(taste, features=tuple(replace(f, low=-WIDE, high=WIDE) for f in taste.features))


def follow(run: Path, arm: str, write: Any) -> None:
    """Follow one arm's score, and write a line for each policy on the way."""
    caution, bounded = ARMS[arm]
    read, states = run_taste.read, list[Improved]()
    plan = partial(Plan, waived=NAMES, patience=10**6, steps=120)
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(Path(shutil.copy(run, folder))) as ledger,
        lease.hold(ledger),
    ):
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        taste = read(ledger)
        with (
            patch.object(run_taste, "read", lambda *a, **k: taste if bounded else widened(taste)),
            patch.object(Taste, "score", partialmethod(Taste.score, caution=caution)),
            patch.object(policy_search, "Plan", lambda **k: plan(nats=NATS)),
        ):
            between_rounds.improve_run(
                ledger, parts, nats=NATS, way="natural", report=states.append
            )
        reward, policy = panel_evaluator.find_reward(ledger), parts.language
        assert reward is not None
        asked = parts.prompts.heldout[:48]

        def sample(seed: int, base: bool) -> list[tuple[Prompt, Answer]]:
            drawn = policy.sample(asked, EACH, seed=seed, base=base)
            return [(p, a) for p, row in zip(asked, drawn, strict=True) for a in row]

        def draw(base: bool = False) -> tuple[Floats, Floats]:
            """True rewards (prompts, answers) and the shipped score of each answer."""
            pairs = sample(1, base)
            rewards = np.array([reward(*pair) for pair in pairs]).reshape(len(asked), EACH)
            return rewards, taste.score(*texts_of(pairs), starts=starts)

        starts = taste.starts(*texts_of(sample(2, base=True)))
        base, _ = draw(base=True)
        path = [state for state in states if not state.steps or state.steps[-1].kept]
        rewards, last = list[float](), -1
        for state in path:
            if len(state.steps) == last:
                continue
            last = len(state.steps)
            here = state.steps[-1].checked if state.steps else state.begun
            with moved(policy, state.last):
                now, scores = draw()
            gap = now[:, :, None] - base[:, None, :]
            wins = float(((gap > 0) + (gap == 0) / 2).mean())
            guards = state.steps[-1].guards if state.steps else ()
            failed = " ".join(g.name.split()[0] for g in guards if not g.ok)
            rewards.append(float(now.mean() - base.mean()))
            write(arm, last, here.nats, here.score, scores.mean(), rewards[-1], wins, failed)
        end, why = stop(path[-1], waived_by(taste))
        share = rewards[end] / max(rewards)
        write(arm, end, "", "", "", f"{share:.2f} of the largest", "", f"ends: {why}")


def texts_of(pairs: Sequence[tuple[Prompt, Answer]]) -> tuple[list[str], list[str]]:
    """The texts of prompts and of answers, as a taste reads them."""
    return [p.text for p, _ in pairs], [a.text for _, a in pairs]


def stop(state: Improved, waived: Sequence[str]) -> tuple[int, str]:
    """The step whose policy the rules would have kept, without halving, and what ends them."""
    rules, best = Plan(), state.begun.score
    kept = 0
    for number, step in enumerate(state.steps, 1):
        if any(not guard.ok and guard.name not in waived for guard in step.guards):
            return kept, "guard"
        if step.checked.nats > rules.nats:
            return kept, f"{rules.nats:g} nats"
        if step.checked.score > best:
            best, kept = step.checked.score, number
        if number - kept >= rules.patience:
            return kept, "the score no longer rises"
    return kept, state.stopped


def main() -> None:
    """Follow every arm on every seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--taste", default="sentiment")
    parser.add_argument("--seeds", default="4000,4001,4002")
    parser.add_argument("--votes", type=int, default=320)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--kind", default="none", help="subspace.kind of the runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/too-far"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)

    for seed in given.seeds.split(","):
        run = make_run(given, given.taste, seed)

        def write(*row: Any, seed: str = seed) -> None:
            out.writerow([seed, *(f"{x:.3f}" if isinstance(x, float) else x for x in row)])
            sys.stdout.flush()

        for arm in given.arms.split(","):
            follow(run, arm, write)


if __name__ == "__main__":
    main()
