"""What needs no votes, in the sixteen adapters of the plan of adapters, and measured as its cells.

    python experiments/mix_rivals.py FOLDER [--tastes sentiment,no-comma] [--only single,asked]

Model, prompts, sampling and rewards are those of ``frozen/adapters.toml``; answers to its prompts
48 to 95 are measured. Gains count from the mean of eighty answers of the base, which the plan's
own cells count from. z is that of the set that ships, the cells' was measured on their prompts.

- single: the adapter made for the taste, by its name alone, at 3 nats by its curve;
- asked: the taste in one plain sentence as a system turn, without any training;
- equal: all sixteen weights alike, as far as 3 nats measured on prompts 0 to 23;
- sweep: of every adapter in both senses, 3 nats far, what scores highest by the true reward on
  sixteen answers (512 scored), then that with the best second one (as many), 3 nats at most;
- nevergrad: its optimizer NGOpt by the true reward, forty mixes of sixteen answers each (640
  scored), no mix more than 3 nats long (`pip install nevergrad`; no dependency of szpo).

What was measured is kept in the folder, so a stopped pass goes on, and a taste that comes later
scores the texts that are there.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from szpo.policies import text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.runs import other_weights
from szpo.types import Answer, Floats, Prompt
from szpo_simulators import bench_study, cell_start, plan
from szpo_simulators.panels import heldout, text_rewards

HERE: Final = Path(__file__).parent
SEED: Final = 5000
NATS: Final = 3.0
EACH: Final = 16
"""Answers by which a mix is scored."""
BUDGET: Final = 40
"""Mixes that an optimizer asks about."""
TASTES: Final[Mapping[str, tuple[str, int, str]]] = {
    "sentiment": ("positive tone", 1, "Answer in a positive and happy tone."),
    "no-comma": ("commas", -1, "Do not use any commas in your answer."),
    "first-person": ("first person", 1, "Answer in the first person, with I, my and me."),
    "reader": ("reader", 1, "Speak to the reader directly, as you."),
}
"""The adapter of each taste, its sense, and the taste in words."""


class Told:
    """A policy as `heldout.measure` reads it, with turns before each prompt if any.

    The topic's guard, which takes more than all else, is left out. KL is to the start without the
    turns, from the first of the answers that were measured.
    """

    def __init__(self, policy: LoraPolicy, before: Sequence[tuple[str, str]] = ()):
        self.policy, self.before, self.logprob_base = policy, (*before,), policy.logprob_base

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        """Answers to the prompts with the turns."""
        self.asked = [Prompt((*self.before, *prompt.turns)) for prompt in prompts]
        rows = self.policy.sample_tokens(self.asked, samples, seed=seed)
        self.rows = rows[::samples]
        answers = [self.policy.answer(row) for row in rows]
        return [answers[i : i + samples] for i in range(0, len(rows), samples)]

    def sample_with_kl(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int
    ) -> tuple[list[list[Answer]], tuple[float, float]]:
        """Answers, nats an answer at the sampling's temperature, and the error over prompts."""
        drawn = self.sample(prompts, samples, seed=seed)
        if not self.before:
            return drawn, self.policy.kl_of(prompts, self.rows)
        pairs = zip(self.asked, prompts, self.rows, strict=True)
        found = [self._kl(*map(self.policy.encode, pair), row) for *pair, row in pairs]
        return drawn, (float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5))

    @torch.no_grad()
    def _kl(self, told: Sequence[int], plain: Sequence[int], row: Sequence[int]) -> float:
        each = []
        for before in (told, plain):
            logits = self.policy.held.model(torch.tensor([[*before, *row]])).logits[0]
            at = logits[len(before) - 1 : -1].float() / self.policy.sampling.temperature
            each.append(at.log_softmax(-1))
        return float((each[0].exp() * (each[0] - each[1])).sum())


class Rivals:
    """One mixer, its prompts, and the folder of what was drawn."""

    def __init__(self, folder: Path, answers: int):
        self.frozen = plan.read(HERE / "frozen" / "adapters.toml")
        spec = self.spec("sentiment")
        # With szpo's own prompts the set's metric is there; the plan's cells measured their own.
        ours = {**spec, "sets": [each for each in spec["sets"] if "prompts.path" not in each]}
        mixer = other_weights.mixer_of_set(cell_start.load_config(ours), say=print)
        self.policy, self.blocks = mixer.policy, mixer.blocks
        self.asked = cell_start.heldout_prompts(spec)
        self.voting = cell_start.load_prompts(spec).train
        self.folder, self.answers = folder, answers

    def spec(self, taste: str) -> Mapping[str, Any]:
        """The plan's own cell of this taste."""
        group = self.frozen.group(f"{taste}-rows-regression")
        return plan.cell(self.frozen, group, SEED).spec

    def reward(self, taste: str) -> Any:
        """The panel's reward."""
        return text_rewards.parse(self.spec(taste)["reward"])

    def kept(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What was made under this name, made now if it was not."""
        path = self.folder / f"{name}.json"
        bench_study.make_once(
            path, self.folder, lambda: bench_study.write_record(path, {}, make())
        )
        return dict(bench_study.read_record(path)["found"])

    def measure(
        self, name: str, z: Floats | None, words: str | None = None
    ) -> heldout.Measurement:
        """Texts, KL and guards' figures at a point, z None: the start; asked in words if any."""
        before = (("system", words),) if words else ()

        def make() -> Mapping[str, Any]:
            with moved(self.policy, self.at(z)):
                found = heldout.measure(
                    Told(self.policy, before), self.asked, lambda *_: 0.0, samples=self.answers,
                    seed=cell_start.MEASURING, moved=z is not None or words is not None,
                )  # fmt: skip
            return cell_start.measurement_to_json(found)

        return cell_start.measurement_from_json(self.kept(f"measured-{name}", make))

    def at(self, z: Floats | None) -> dict[str, Any]:
        """Coordinates of a point."""
        return {"z": np.zeros(self.policy.dim, np.float32) if z is None else np.float32(z)}

    def row(self, taste: str, rival: str, found: heldout.Measurement) -> None:
        """Print a line: gain with its error over prompts, KL, guards that failed."""
        reward, base = self.reward(taste), self.measure("start", None)

        def score(measured: heldout.Measurement) -> Floats:
            texts = [[Answer(text) for text in row] for row in measured.texts]
            return text_rewards.matrix(reward, self.asked, texts).mean(1)

        values = score(found)
        error = (values - score(base)).std(ddof=1) / len(values) ** 0.5
        guards = text_guards.guards(base, found)
        failed = ", ".join(f"{g.name} {g.value:.2f}" for g in guards if not g.ok) or "hold"
        print(
            f"{taste}; {rival}; {values.mean() - level(taste):+.3f} ± {error:.3f}; "
            f"{found.kl:.2f} ± {found.kl_stderr:.2f} nats; guards: {failed}", flush=True,
        )  # fmt: skip


def level(taste: str) -> float:
    """Mean reward of the base's eighty answers to each prompt, from the plan's own cells."""
    lines = (HERE / "cells" / "adapters.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    row = next(row for row in rows if row["group"] == f"{taste}-rows-regression")
    return float(row["reward"]) - float(row["gain"])


def single(rivals: Rivals, taste: str) -> None:
    """The adapter of the taste, by its name."""
    name, sense, _ = TASTES[taste]
    z = rivals.blocks.point({name: sense * NATS})
    rivals.row(taste, f"{name} alone", rivals.measure(f"{name}-{NATS:g}", z))


def asked(rivals: Rivals, taste: str) -> None:
    """The taste in words."""
    rivals.row(taste, "asked", rivals.measure(f"asked-{taste}", None, TASTES[taste][2]))


def equal(rivals: Rivals, taste: str) -> None:
    """All weights alike: the longest of a few lengths that costs at most 3 nats."""
    alike = np.linalg.inv(rivals.blocks.mixing.astype(float)).sum(1)
    alike /= np.linalg.norm(alike)

    def make() -> Mapping[str, Any]:
        length = math.sqrt(2 * NATS)
        for _ in range(3):
            with moved(rivals.policy, rivals.at(alike * length)):
                kl, _ = rivals.policy.kl(rivals.voting[:24], seed=SEED)
            if 0.9 * NATS <= kl <= NATS:
                break
            length *= math.sqrt(0.95 * NATS / kl)
        return {"z": (alike * length).tolist(), "kl": kl}

    z = np.array(rivals.kept("equal", make)["z"])
    rivals.row(taste, "equal weights", rivals.measure("equal", z))


def scored(rivals: Rivals, taste: str, z: Floats, step: int) -> float:
    """Mean of the true reward of sixteen answers at a mix, to prompts that cells vote on."""
    prompts = [rivals.voting[(step * EACH + i) % len(rivals.voting)] for i in range(EACH)]
    with moved(rivals.policy, rivals.at(z)):
        drawn = rivals.policy.sample(prompts, 1, seed=SEED + step)
    return float(text_rewards.matrix(rivals.reward(taste), prompts, drawn).mean())


def sweep(rivals: Rivals, taste: str) -> None:
    """The best adapter, and the best second one beside it, by the true reward."""

    def make() -> Mapping[str, Any]:
        blocks = rivals.blocks
        ends = [blocks.point({name: s * NATS}) for name in blocks.names for s in (1, -1)]
        best = np.zeros(rivals.policy.dim)
        for _ in range(2):  # the same prompts and seeds for all mixes
            tried = [within(best + end) for end in ends if np.any(best + end)]
            best = max(tried, key=lambda z: scored(rivals, taste, z, 0))
        return {"z": best.tolist()}

    z = np.array(rivals.kept(f"sweep-{taste}", make)["z"])
    rivals.row(taste, "sweep", rivals.measure(f"sweep-{taste}", z))


def nevergrad(rivals: Rivals, taste: str) -> None:
    """A mix found by a library of gradient-free optimizers, by the true reward."""

    def make() -> Mapping[str, Any]:
        import nevergrad as ng

        far = math.sqrt(2 * NATS)
        space = ng.p.Array(shape=(rivals.policy.dim,)).set_bounds(-far, far)
        space.function.deterministic = False
        search = ng.optimizers.NGOpt(space, budget=BUDGET)
        space.random_state.seed(SEED)
        for step in range(BUDGET):
            asked = search.ask()
            search.tell(asked, -scored(rivals, taste, within(asked.value), step))
        return {"z": within(search.provide_recommendation().value).tolist()}

    z = np.array(rivals.kept(f"nevergrad-{taste}", make)["z"])
    rivals.row(taste, "nevergrad", rivals.measure(f"nevergrad-{taste}", z))


def within(z: Floats) -> Floats:
    """The mix, shortened where it should cost more than `NATS`."""
    return np.asarray(z * min(1.0, math.sqrt(2 * NATS) / max(float(np.linalg.norm(z)), 1e-9)))


RIVALS: Final = {each.__name__: each for each in (single, asked, equal, sweep, nevergrad)}


def main() -> None:
    """Run the rivals of each taste that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tastes", default="sentiment,no-comma")
    parser.add_argument("--only", default="single,asked,equal")
    parser.add_argument("--answers", type=int, default=2, help="to each prompt that measures")
    given = parser.parse_args()
    rivals = Rivals(given.folder, given.answers)
    for taste in given.tastes.split(","):
        for rival in given.only.split(","):
            RIVALS[rival](rivals, taste)


if __name__ == "__main__":
    main()
