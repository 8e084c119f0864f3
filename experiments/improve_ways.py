"""Ways to improve on a taste, side by side: gain at 1, 2 and 3 nats, processor minutes, memory.

    python experiments/improve_ways.py                       # SmolLM2, both tastes, two seeds
    python experiments/improve_ways.py --preset tiny --tastes sentiment --seeds 3 --answers 24
    python experiments/improve_ways.py --true --ways natural # by the panel's reward itself

For each taste and seed one run of a simulated panel (``szpo run``), whose votes give the taste.
Each way then improves a copy of it in a process of its own, up to 3.3 nats. Each line of
``cells.jsonl`` has a cell: where it began, and for every kept step, the measured KL, the gain of
the panel's true reward on held-out prompts, answers drawn and processor seconds so far; and the
largest memory of the process before and while it improved. Printed: for each way the mean over
cells of the gain at the last step within 1, 2 and 3 nats, and what it took to get there. A cell
that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

LOOKS: Final = (1.0, 2.0, 3.0)
NATS: Final = 3.3
WAYS: Final = ("policy", "natural", "zeroth", "known 1", "known 5", "sign 1")
"""Ways of ``improve.way``; then rules of drawn votes with M."""
TRUE: Final = " true"
"""Ends the name of a way that follows the panel's reward itself."""
EACH: Final = 2
"""Answers to each held-out prompt."""


def main() -> None:
    """Make the cells that are missing, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--tastes", default="sentiment,reader")
    parser.add_argument("--seeds", default="4000,4001")
    parser.add_argument("--votes", type=int, default=320)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--answers", type=int, default=96, help="drawn for a step")
    parser.add_argument("--kind", default="none", help="subspace.kind of the runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/ways"))
    parser.add_argument("--true", action="store_true", help="by the panel's reward, not by votes")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell is not None:
        run, way = Path(given.cell[0]), given.cell[1].removesuffix(TRUE)
        print(json.dumps(improve_cell(run, way, given.answers, given.cell[1].endswith(TRUE))))
        return
    if given.true:
        given.ways = ",".join(way + TRUE for way in given.ways.split(","))
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "cells.jsonl"
    cells = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(cell["run"], cell["way"]) for cell in cells}
    for seed in given.seeds.split(","):
        for taste in given.tastes.split(","):
            run = make_run(given, taste, seed)
            for way in given.ways.split(","):
                if (run.stem, way) in done:
                    continue
                again = ["--answers", str(given.answers), "--cell", str(run), way]
                found = subprocess.run(
                    [sys.executable, __file__, *again],
                    check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                cell = {"run": run.stem, "way": way, **json.loads(found.stdout.splitlines()[-1])}
                cells.append(cell)
                with kept.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
    print_table(cells, given.ways.split(","))


def make_run(given: argparse.Namespace, taste: str, seed: str) -> Path:
    """The run whose votes give the taste."""
    name = f"{given.preset}-{taste.replace(' ', '-')}-{seed}"
    path = Path(given.folder) / f"{name}.db"
    if not path.exists():
        sets = {
            "run.name": name, "run.folder": given.folder, "run.seed": seed, "panel.reward": taste,
            "run.votes": given.votes, "panel.verdict": "rows", "subspace.kind": given.kind,
        }  # fmt: skip
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "szpo", "run", "--preset", given.preset, *words]
        code = subprocess.run(command, stdout=sys.stderr).returncode
        assert code in (0, 1), f"{name}: szpo run ended with {code}"
    return path


def improve_cell(run: Path, way: str, answers: int, true: bool = False) -> dict[str, Any]:
    """Improve a copy of a run by one way: its steps as `Step` figures, and memory in MB.

    ``true``: on the panel's reward in place of the taste.
    """
    from szpo.improvement import between_rounds, policy_search
    from szpo.improvement.score_ascent import Improved, Plan, zeroth_order
    from szpo.ledger.database import Ledger
    from szpo.policies.protocol import moved
    from szpo.runs import assemble
    from szpo.voting import lease, panel_evaluator

    rule, _, voters = way.partition(" ")
    if voters:
        drawn: Any = rule
        policy_search.WAYS[way] = partial(zeroth_order, votes=drawn, voters=int(voters))
    setattr(policy_search, "Plan", partial(Plan, answers=answers))  # noqa: B010
    states: list[tuple[Improved, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.open(Path(shutil.copy(run, folder))) as ledger,
        lease.hold(ledger),
    ):
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        score, policy = panel_evaluator.find_reward(ledger), parts.language
        assert score is not None

        def by_reward(*_: object) -> Any:
            def worth(prompts: Any, answers: Any) -> Any:
                return np.array([score(*pair) for pair in zip(prompts, answers, strict=True)])

            return worth, lambda *_: math.inf  # of no vote's gain it could be unsure

        if true:
            setattr(policy_search, "scorer", by_reward)  # noqa: B010
        before, began = peak(), time.process_time()
        between_rounds.improve_run(
            ledger, parts, nats=NATS, way=way,
            report=lambda state: states.append((state, time.process_time() - began)),
        )  # fmt: skip
        after = peak()
        asked = parts.prompts.heldout[:64]

        def reward(base: bool = False) -> float:
            drawn = policy.sample(asked, EACH, seed=1, base=base)
            pairs = [(p, a) for p, row in zip(asked, drawn, strict=True) for a in row]
            return float(np.mean([score(*pair) for pair in pairs]))

        start, steps, seen = reward(base=True), [], -1
        for state, seconds in states:
            if len(state.steps) == seen or (state.steps and not state.steps[-1].kept):
                continue
            seen, last = len(state.steps), state.steps[-1].checked if state.steps else state.begun
            with moved(policy, state.last):
                gain = reward() - start
            steps.append({
                "nats": last.nats, "score": last.score, "gain": gain, "answers": state.answers,
                "seconds": seconds,
            })  # fmt: skip
    end = states[-1][0]
    return {"steps": steps, "start": start, "stopped": end.stopped, "mb": [before, after]}


def peak() -> float:
    """The largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(cells: list[dict[str, Any]], ways: list[str]) -> None:
    """Means over the cells of each way."""
    first = next(iter(ways))
    print(f"ratios of memory are to {first}, in the same run")
    for way in ways:
        mine = [cell for cell in cells if cell["way"] == way]
        if not mine:
            continue
        memory = float(np.mean([cell["mb"][1] for cell in mine]))
        other = [cell["mb"][1] for cell in cells if cell["way"] == first]
        line = [f"{way:10} {len(mine)} cells, {memory:.0f} MB ({memory / np.mean(other):.2f})"]
        for nats in LOOKS:
            at = [[s for s in cell["steps"] if s["nats"] <= nats] for cell in mine]
            ends = [steps[-1] for steps in at if steps]
            if ends:
                gain, spent, seconds, answers = (
                    float(np.mean([end[name] for end in ends]))
                    for name in ("gain", "nats", "seconds", "answers")
                )
                line.append(
                    f"≤ {nats:g} nats {gain:+.2f} at {spent:.1f} ({seconds / 60:.1f} processor "
                    f"minutes, {answers:.0f} answers)"
                )
        print("; ".join(line))


if __name__ == "__main__":
    main()
