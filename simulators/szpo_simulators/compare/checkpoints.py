"""What an arm looks like along its way: held-out reward, guards and cost at a few points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from szpo import metrics
from szpo.types import Answer, Prompt
from szpo_simulators.rewards import heldout

if TYPE_CHECKING:
    from szpo_simulators.compare.measurements import Instruments

Proxy = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""A learned reward, one number per answer."""


@dataclass(frozen=True)
class Yardstick:
    """How every arm of a comparison is measured: the same prompts, samples and random numbers."""

    prompts: tuple[Prompt, ...]
    samples: int
    seed: int
    score: Callable[[Prompt, Answer], float]
    base: heldout.Measurement
    """Of the model before any vote."""


@dataclass
class Course:
    """The points of one arm, in the order of its way."""

    yardstick: Yardstick
    instruments: Instruments
    points: int
    """How many are measured after the start."""
    say: Callable[[float], None] = lambda share: None
    """Told how much of the way is done."""
    proxy: Proxy | None = None
    """A learned reward that is drawn beside the true one, once there is one."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: int = 0

    def still(self, cost: Mapping[str, float] | None = None) -> None:
        """The model as it was before any vote: at no cost, or with votes that taught nothing yet.

        The second is where a method stands that asks for all its votes before its first step.
        """
        spent = COSTLESS if cost is None else self._spent(cost)
        self.rows.append(point(self.yardstick, self.yardstick.base, 0.0, spent))

    def due(self, share: float) -> bool:
        """Whether the next point is reached at this share of the way, in [0, 1]."""
        return share >= (self.measured + 1) / self.points - 1e-9

    def reached(
        self,
        policy: heldout.Measurable,
        share: float,
        cost: Mapping[str, float],
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Note where the arm stands, if a point is due; measured with the instruments aside.

        Args:
            policy: the tuned policy as it is now.
            share: of the way, in [0, 1].
            cost: votes, answers_read and tokens so far.
            figures: what the method itself says of its last step.
        """
        spent = self._spent(cost)
        with self.instruments.aside():
            if self.due(share):
                self._measure(policy, share, spent, figures or {})
            self.say(share)

    def _spent(self, cost: Mapping[str, float]) -> dict[str, float]:
        wall, cpu = self.instruments.seconds()
        peak = self.instruments.peak()
        return {**cost, "seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}

    def _measure(
        self,
        policy: heldout.Measurable,
        share: float,
        cost: Mapping[str, float],
        figures: Mapping[str, float],
    ) -> None:
        told = self.yardstick
        seen: list[tuple[Prompt, Answer]] = []

        def score(prompt: Prompt, answer: Answer) -> float:
            seen.append((prompt, answer))
            return told.score(prompt, answer)

        found = heldout.measure(policy, told.prompts, score, samples=told.samples, seed=told.seed)
        row = point(told, found, share, cost, figures)
        if self.proxy is not None:
            liked = self.proxy([p for p, _ in seen], [a for _, a in seen])
            row["proxy"] = float(np.mean(liked))
        self.rows.append(row)
        self.measured += 1


COSTLESS: Mapping[str, float] = {
    "votes": 0, "answers_read": 0, "tokens": 0, "seconds": 0.0, "cpu_seconds": 0.0,
    "peak_bytes": 0,
}  # fmt: skip


def point(
    yardstick: Yardstick,
    found: heldout.Measurement,
    share: float,
    cost: Mapping[str, float],
    figures: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One point as plain JSON: reward, gain with its interval over prompts, guards, cost.

    ``win_rate`` is how often one of the answers has the higher reward of it and one of the base
    model's to the same prompt, all pairs of samples, ties a half.
    """
    mean, low, high = heldout.gain(yardstick.base, found, seed=yardstick.seed)
    return {
        "share": share,
        **cost,
        "reward": float(found.rewards.mean()),
        "gain": mean,
        "interval": [low, high],
        "win_rate": metrics.win_rate(metrics.versus(found.rewards, yardstick.base.rewards)).value,
        "kl": found.kl,
        "kl_stderr": found.kl_stderr,
        "length": found.tokens,
        "logprob": found.logprob,
        "distinct2": found.distinct2,
        "guards": [asdict(guard) for guard in heldout.guards(yardstick.base, found)],
        "proxy": None,
        "figures": {name: float(value) for name, value in (figures or {}).items()},
    }


def kept(found: heldout.Measurement) -> dict[str, Any]:
    """A measurement as plain JSON; `restored` reads it back."""
    return {**asdict(found), "rewards": found.rewards.tolist()}


def restored(body: Mapping[str, Any]) -> heldout.Measurement:
    """The measurement that `kept` wrote."""
    texts = tuple(tuple(row) for row in body["texts"])
    return heldout.Measurement(**{**body, "rewards": np.array(body["rewards"]), "texts": texts})
