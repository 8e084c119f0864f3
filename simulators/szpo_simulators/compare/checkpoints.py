"""Measure a policy along its run: held-out reward, guards and cost at a few checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from szpo import metrics
from szpo.policies import text_guards
from szpo.types import Answer, Prompt
from szpo_simulators.panels import heldout

if TYPE_CHECKING:
    from szpo_simulators.compare.machine_meter import MachineMeter

Proxy = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""A learned reward: one number per answer."""


@dataclass(frozen=True)
class Yardstick:
    """How every cell of a comparison is measured: the same prompts, samples and random numbers."""

    prompts: tuple[Prompt, ...]
    samples: int
    seed: int
    score: Callable[[Prompt, Answer], float]
    base: heldout.Measurement
    """Measurement of the model before any vote."""

    def measure(
        self, policy: heldout.Measurable, score: Callable[[Prompt, Answer], float] | None = None
    ) -> heldout.Measurement:
        """The measurement of a policy, by the yardstick's score or another."""
        return heldout.measure(
            policy, self.prompts, score or self.score, samples=self.samples, seed=self.seed
        )


@dataclass
class Checkpoints:
    """The rows of one run, in order: one at its start, then one at each checkpoint."""

    yardstick: Yardstick
    machine: MachineMeter
    points: int | Sequence[float]
    """Checkpoints after the start: their number, at even shares of the run, or their shares."""
    report: Callable[[float], None] = lambda share: None
    """Called with the finished share of the run, in [0, 1]."""
    proxy: Proxy | None = None
    """A learned reward that is measured beside the true one; None until one is trained."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: int = 0

    def record_start(self, cost: Mapping[str, float] | None = None) -> None:
        """Add a row for the model before any update, without measuring it again.

        Args:
            cost: Votes, answers_read and tokens so far, for a method that collects votes before
                its first update; None: nothing was spent.
        """
        total = NO_COST if cost is None else self._add_machine_cost(cost)
        self.rows.append(make_row(self.yardstick, self.yardstick.base, 0.0, total))

    def is_due(self, share: float) -> bool:
        """Whether this share of the run, in [0, 1], reaches the next checkpoint."""
        if isinstance(self.points, int):
            return share >= (self.measured + 1) / self.points - 1e-9
        return self.measured < len(self.points) and share >= self.points[self.measured] - 1e-9

    def record(
        self,
        policy: heldout.Measurable,
        share: float,
        cost: Mapping[str, float],
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Measure the policy if a checkpoint is due; the method is not charged for measuring.

        Args:
            policy: The current policy.
            share: Finished share of the run, in [0, 1].
            cost: Votes, answers_read and tokens so far.
            figures: The method's own figures of its last step.
        """
        total = self._add_machine_cost(cost)
        with self.machine.aside():
            if self.is_due(share):
                self.rows.append(self._measure(policy, share, total, figures))
                self.measured += 1
            self.report(share)

    def _add_machine_cost(self, cost: Mapping[str, float]) -> dict[str, float]:
        wall, cpu = self.machine.seconds()
        peak = self.machine.peak()
        return {**cost, "seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}

    def _measure(
        self,
        policy: heldout.Measurable,
        share: float,
        cost: Mapping[str, float],
        figures: Mapping[str, float] | None,
    ) -> dict[str, Any]:
        seen: list[tuple[Prompt, Answer]] = []

        def score(prompt: Prompt, answer: Answer) -> float:
            seen.append((prompt, answer))
            return self.yardstick.score(prompt, answer)

        found = self.yardstick.measure(policy, score)
        row = make_row(self.yardstick, found, share, cost, figures)
        if self.proxy is not None:
            values = self.proxy([p for p, _ in seen], [a for _, a in seen])
            row["proxy"] = float(np.mean(values))
        return row


NO_COST: Mapping[str, float] = {
    "votes": 0, "answers_read": 0, "tokens": 0, "seconds": 0.0, "cpu_seconds": 0.0,
    "peak_bytes": 0,
}  # fmt: skip


def make_row(
    yardstick: Yardstick,
    found: heldout.Measurement,
    share: float,
    cost: Mapping[str, float],
    figures: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """A checkpoint as plain JSON: reward, gain with its interval over prompts, guards, cost.

    ``by_prompt`` is the gain on each held-out prompt.
    ``win_rate`` is the share of pairs (an answer of the policy, one of the base model to the same
    prompt; all pairs of samples) in which the policy's reward is higher; ties count a half.
    """
    mean, low, high = heldout.gain(yardstick.base, found, seed=yardstick.seed)
    return {
        "share": share,
        **cost,
        "reward": float(found.rewards.mean()),
        "gain": mean,
        "interval": [low, high],
        "by_prompt": (found.rewards.mean(1) - yardstick.base.rewards.mean(1)).tolist(),
        "win_rate": metrics.win_rate(metrics.versus(found.rewards, yardstick.base.rewards)).value,
        "kl": found.kl,
        "kl_stderr": found.kl_stderr,
        "length": found.tokens,
        "logprob": found.logprob,
        "distinct2": found.distinct2,
        "margin": found.margin,
        "guards": [asdict(guard) for guard in text_guards.guards(yardstick.base, found)],
        "proxy": None,
        "figures": {name: float(value) for name, value in (figures or {}).items()},
    }


def measurement_to_json(found: heldout.Measurement) -> dict[str, Any]:
    """A measurement as plain JSON; `measurement_from_json` reads it back."""
    return {**asdict(found), "rewards": found.rewards.tolist()}


def measurement_from_json(body: Mapping[str, Any]) -> heldout.Measurement:
    """The measurement that `measurement_to_json` wrote."""
    texts = tuple(tuple(row) for row in body["texts"])
    return heldout.Measurement(**{**body, "rewards": np.array(body["rewards"]), "texts": texts})
