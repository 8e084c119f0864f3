"""What votes on the base's own answers gain without coordinates and without improving.

    python experiments/taste_rivals.py FOLDER [--tastes sentiment,reader] [--only best,told]

Part U of ``frozen/improve.toml``: its votes are asked for now unless they are in FOLDER, which may
be that of `szpo compare`. Measured as all cells of the plan: gains count from the base's eighty
answers to each prompt, KL is to the base as it answers without any turn before.

- best: of eight answers of the base that which the taste scores highest, by the votes until each
  look; over all ten groups of eight of the base's answers. KL: log 8 − 7/8 at most;
- told: what was liked, as one instruction in a system turn (``szpo taste --as-prompt``);
- shown: three liked answers as turns before, the highest by the taste of different prompts;
- taught: ``szpo baseline sft`` on the best of eight new answers to each training prompt;
- both: the best of eight of the improved policy of part I, by its own votes' taste; its cell must
  have ended in FOLDER, and its KL is the policy's alone.

It prints CSV (``cells/untrained.csv``). What was measured is kept in FOLDER/rivals, so a stopped
pass goes on.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from mix_rivals import Told

from szpo.analysis import run_taste, vote_rows
from szpo.baselines import recipes, trainer
from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo.models.loading import answer_tokens
from szpo.policies.lora_policy import LoraPolicy
from szpo.runs import assemble, samples
from szpo.taste import Taste
from szpo.types import Answer, Floats, Prompt
from szpo_simulators import bench_study, cell_start, cells, plan
from szpo_simulators.panels import text_rewards

HERE: Final = Path(__file__).parent
EIGHT: Final = 8
SEED: Final = 4000
SHOWN: Final = 3
BASE: Final = 80
"""Answers of the base to each prompt."""
RATE: Final = 1e-2
"""Learning rate of *taught*: the default of szpo's DPO; that of its SFT, 1e-4, moves nothing."""
EPOCHS: Final = 8


def pick(taste: Taste, prompt: Prompt, texts: Sequence[str]) -> int:
    """Place of the text that the taste scores highest."""
    return int(taste.score([prompt.text] * len(texts), texts).argmax())


class Best:
    """The best of eight stored answers of the base, as `heldout.measure` reads a policy."""

    def __init__(self, policy: LoraPolicy, taste: Taste, texts: Sequence[Sequence[str]]):
        self.logprob_base, self.taste, self.texts = policy.logprob_base, taste, texts
        self.tokens = partial(answer_tokens, policy.loaded)

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        """The best of each of the first ``samples`` groups of eight."""
        found = [
            best_of_eight(self.taste, prompt, row)[:samples]
            for prompt, row in zip(prompts, self.texts, strict=True)
        ]
        return [
            [Answer(text, tokens=len(self.tokens(Answer(text)))) for text in row] for row in found
        ]

    def sample_with_kl(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int
    ) -> tuple[list[list[Answer]], tuple[float, float]]:
        """The same, with the bound on the KL of best-of-eight."""
        return self.sample(prompts, samples, seed=seed), (cells.kl_of_best(EIGHT), 0.0)


def best_of_eight(taste: Taste, prompt: Prompt, texts: Sequence[str]) -> list[str]:
    """The text that the taste scores highest of each group of eight in turn."""
    groups = [texts[i : i + EIGHT] for i in range(0, len(texts), EIGHT)]
    return [group[pick(taste, prompt, group)] for group in groups]


class Run:
    """A run of part U with its yardstick, the base's answers, and its tastes."""

    def __init__(
        self, folder: Path, name: str, spec: Mapping[str, Any], ledger: Ledger, policy: LoraPolicy
    ):
        self.spec, self.name, self.folder = spec, name, folder / "rivals"
        self.ledger, self.policy = ledger, policy
        self.yardstick, _ = cell_start.load(spec, folder)
        offset = cell_start.offset(spec, folder, BASE)
        assert offset is not None
        self.offset: Floats = offset
        many = cell_start.path_of_many(spec, folder, BASE)
        self.texts = bench_study.read_record(many)["found"]["measurement"]["texts"]
        self.train = cell_start.load_prompts(spec).train

    def taste(self, votes: int) -> Taste:
        """The taste of the first so many votes."""
        steps, _, _ = cells.steps_of(self.ledger, votes)
        closed = [event["event"] for event in self.ledger.events("step")]
        return run_taste.read(self.ledger, before=closed[steps - 1] + 1)[0]

    def measure(self, rival: str, make: Callable[[], Any], words: str = "") -> None:
        """Write a rival's line, measured now unless it was before."""

        def work() -> None:
            began = time.process_time()
            found = self.yardstick.row(make(), 1.0, {})
            each = len(self.yardstick.prompts) * self.yardstick.samples
            spent = {"seconds": (time.process_time() - began) / each}
            bench_study.write_record(path, {}, {**found, **spent})

        path = self.folder / f"{self.name}-{rival.split(',')[0].replace(' ', '-')}.json"
        bench_study.make_once(path, self.folder, work)
        found = bench_study.read_record(path)["found"]
        failed = [f"{g['name']} {g['value']:.2f}" for g in found["guards"] if not g["ok"]]
        seen = [f"{found[name]:.3f}" for name in ("kl", "seconds")]
        gains = np.array(found["by_prompt"]) + self.offset
        self.write(rival, self.spec["votes"], gains, *seen, ", ".join(failed) or "hold", words)

    def write(self, rival: str, votes: int, gains: Floats, *others: str) -> None:
        """Write a line: gain with its error over prompts, and what else is known."""
        error = gains.std(ddof=1) / len(gains) ** 0.5
        csv.writer(sys.stdout, lineterminator="\n").writerow(
            [self.name, rival, votes, f"{gains.mean():.4f}", f"{error:.4f}", *others]
        )
        sys.stdout.flush()


COLUMNS: Final = (
    "taste", "rival", "votes", "gain", "stderr", "kl", "seconds", "guards", "words"
)  # fmt: skip


def best(run: Run) -> None:
    """The best of eight at each look, by the taste, and by the true reward."""
    reward, asked = text_rewards.parse(run.spec["reward"]), run.yardstick.prompts
    values = text_rewards.matrix(reward, asked, [[*map(Answer, row)] for row in run.texts])
    bound, base = f"{cells.kl_of_best(EIGHT):.3f}", values.mean(1)
    largest = values.reshape(len(asked), -1, EIGHT).max(2).mean(1)
    run.write("best of eight by the true reward", 0, largest - base, bound)
    for votes in run.spec["at"]:
        try:
            taste = run.taste(votes)
        except RunError:
            run.write("best of eight", votes, 0 * base, "0", "", "", "no taste shown")
            continue
        chosen = [
            [Answer(text) for text in best_of_eight(taste, prompt, row)]
            for prompt, row in zip(asked, run.texts, strict=True)
        ]
        gains = text_rewards.matrix(reward, asked, chosen).mean(1) - base
        run.write("best of eight", votes, gains, bound, "", "", taste.words)
        if votes == run.spec["votes"]:
            run.measure("best of eight, first five", partial(Best, run.policy, taste, run.texts))


def told(run: Run) -> None:
    """The taste as an instruction."""
    words = run.taste(run.spec["votes"]).instruction()
    run.measure("told", lambda: Told(run.policy, (("system", words),)), words)


def shown(run: Run) -> None:
    """Three liked answers as turns before."""
    taste, found = run.taste(run.spec["votes"]), dict[str, tuple[float, str]]()
    for comparison in vote_rows.read_judged(run.ledger).comparisons:
        for row in comparison.rows:
            texts = [row.plus.text, row.minus.text]
            scores = taste.score([row.prompt.text] * 2, texts)
            liked = max(zip(map(float, scores), texts, strict=True))
            found[row.prompt.text] = max(found.get(row.prompt.text, liked), liked)
    first = sorted(found.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
    turns = [
        turn for prompt, (_, text) in first for turn in (("user", prompt), ("assistant", text))
    ]
    run.measure("shown", lambda: Told(run.policy, turns))


def taught(run: Run) -> None:
    """SFT on the best of eight answers to each training prompt."""

    def make() -> Any:
        actor, taste = cell_start.load_actor(run.spec), run.taste(run.spec["votes"])
        drawn = actor.sample(run.train, EIGHT, seed=SEED)
        examples = [
            (prompt, row[pick(taste, prompt, [each.text for each in row])])
            for prompt, row in zip(run.train, drawn, strict=True)
        ]
        how = recipes.make(trainer.SFT, {"learning_rate": RATE, "epochs": EPOCHS})
        trainer.train_sft(actor, examples, how, seed=SEED)
        return actor

    run.measure("taught", make)


class BestOfImproved:
    """The best of eight answers of an improved policy, as `heldout.measure` reads one."""

    def __init__(self, policy: LoraPolicy, taste: Taste):
        self.policy, self.taste, self.logprob_base = policy, taste, policy.logprob_base

    def sample_with_kl(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int
    ) -> tuple[list[list[Answer]], tuple[float, float]]:
        """The best of each group of eight, and the policy's KL."""
        drawn, kl = self.policy.sample_with_kl(prompts, EIGHT, seed=seed)
        best = [
            row[pick(self.taste, prompt, [answer.text for answer in row])]
            for prompt, row in zip(prompts, drawn, strict=True)
        ]
        return [[answer] for answer in best], kl


def both(run: Run) -> None:
    """The best of eight of the improved policy."""
    frozen = plan.read(HERE / "frozen" / "improve.toml")
    group = next(g for g in frozen.groups if g.part == "I" and run.name in g.name)
    path = cells.ledger_path(run.folder.parent, plan.cell(frozen, group, SEED).name)
    with (
        Ledger.open(path, readonly=True) as ledger,
        closing(assemble.reopen(ledger, panel=False, say=lambda line: None)) as parts,
        samples.policy_at(ledger, parts, None),
    ):
        taste, _ = run_taste.read(ledger)
        run.measure("both", lambda: BestOfImproved(parts.language, taste), taste.words)


RIVALS: Final = {each.__name__: each for each in (best, told, shown, taught, both)}


def main() -> None:
    """Run the rivals of each taste that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tastes", default="sentiment,no-comma,first-person,reader")
    parser.add_argument("--only", default="best,told,shown,taught")
    given = parser.parse_args()
    print(",".join(COLUMNS), flush=True)
    frozen = plan.read(HERE / "frozen" / "improve.toml")
    for taste in given.tastes.split(","):
        group = frozen.group(f"votes-{taste}-regression")
        cell = plan.cell(frozen, group, SEED)
        cell_start.draw_many(cell.spec, given.folder, BASE)
        # Votes alone: the policy stays where it is, so that no look is measured.
        cells.run_votes(
            {**cell.spec, "at": [], "points": 0}, given.folder, cell.name, lambda _: None
        )
        path = cells.ledger_path(given.folder, cell.name)
        with (
            Ledger.open(path, readonly=True) as ledger,
            closing(assemble.reopen(ledger, panel=False, say=lambda line: None)) as parts,
        ):
            run = Run(given.folder, taste, cell.spec, ledger, parts.language)
            for rival in given.only.split(","):
                RIVALS[rival](run)


if __name__ == "__main__":
    main()
