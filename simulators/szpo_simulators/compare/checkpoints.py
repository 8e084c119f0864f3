"""Measure a policy along its run: held-out reward, guards and cost at a few checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import memory, metrics
from szpo.policies import text_guards
from szpo.types import Answer, Prompt
from szpo_simulators.panels import heldout

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_ONLY: Final = "5"
"""Writing this to `CLEAR` resets the peak of resident memory to the current value."""
Proxy = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""A learned reward: one number per answer."""


@dataclass(frozen=True)
class Yardstick:
    """How every cell of a plan is measured: the same prompts, samples and random numbers."""

    prompts: tuple[Prompt, ...]
    samples: int
    seed: int
    score: Callable[[Prompt, Answer], float]
    base: heldout.Measurement
    """Measurement of the model before any vote."""

    def row(
        self, policy: heldout.Measurable, share: float, cost: Mapping[str, Any],
        proxy: Proxy | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """A checkpoint as plain JSON: reward, gain with its interval over prompts, guards, cost.

        ``by_prompt`` is the gain on each held-out prompt. ``win_rate`` is the share of pairs (an
        answer of the policy, one of the base model to the same prompt; all pairs of samples) in
        which the policy's reward is higher; ties count a half. ``proxy`` is the mean of a learned
        reward.
        """
        seen: list[tuple[Prompt, Answer]] = []

        def score(prompt: Prompt, answer: Answer) -> float:
            seen.append((prompt, answer))
            return self.score(prompt, answer)

        found = heldout.measure(policy, self.prompts, score, samples=self.samples, seed=self.seed)
        mean, low, high = heldout.gain(self.base, found, seed=self.seed)
        learned = None if proxy is None else proxy([p for p, _ in seen], [a for _, a in seen])
        return {
            "share": share,
            **cost,
            "reward": float(found.rewards.mean()),
            "gain": mean,
            "interval": [low, high],
            "by_prompt": (found.rewards.mean(1) - self.base.rewards.mean(1)).tolist(),
            "win_rate": metrics.win_rate(metrics.versus(found.rewards, self.base.rewards)).value,
            "kl": found.kl,
            "kl_stderr": found.kl_stderr,
            "length": found.tokens,
            "logprob": found.logprob,
            "distinct2": found.distinct2,
            "margin": found.margin,
            "guards": [asdict(guard) for guard in text_guards.guards(self.base, found)],
            "proxy": None if learned is None else float(np.mean(learned)),
        }


def measurement_to_json(found: heldout.Measurement) -> dict[str, Any]:
    """A measurement as plain JSON; `measurement_from_json` reads it back."""
    return {**asdict(found), "rewards": found.rewards.tolist()}


def measurement_from_json(body: Mapping[str, Any]) -> heldout.Measurement:
    """The measurement that `measurement_to_json` wrote."""
    texts = tuple(tuple(row) for row in body["texts"])
    return heldout.Measurement(**{**body, "rewards": np.array(body["rewards"]), "texts": texts})


@dataclass
class Checkpoints:
    """The rows of one run, in order, one at each checkpoint."""

    yardstick: Yardstick
    shares: Sequence[float]
    """Shares of the run at which it is measured, ascending."""
    report: Callable[[float], None] = lambda share: None
    """Called with the finished share of the run, in [0, 1]."""
    proxy: Proxy | None = None
    """A learned reward that is measured beside the true one; None until one is trained."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin to count what the machine spends."""
        self.machine = MachineMeter()

    def record(self, policy: Any, share: float, cost: Mapping[str, float]) -> None:
        """Measure the policy if a checkpoint is due; the method is not charged for measuring.

        Args:
            policy: The current policy.
            share: Finished share of the run, in [0, 1].
            cost: Votes, answers_read and tokens so far.
        """
        total = {**cost, **self.machine.cost()}
        with self.machine.aside():
            due = len(self.rows) < len(self.shares)
            if due and share >= self.shares[len(self.rows)] - 1e-9:
                self.rows.append(self.yardstick.row(policy, share, total, self.proxy))
            self.report(share)


def even_shares(points: int | Sequence[float]) -> list[float]:
    """The shares of ``points``: the shares themselves, or the number of even ones.

    >>> even_shares(2), even_shares([0.1, 1.0])
    ([0.5, 1.0], [0.1, 1.0])
    """
    if isinstance(points, int):
        return [(i + 1) / points for i in range(points)]
    return list(points)


class MachineMeter:
    """Seconds, processor seconds and memory of this process since the meter was created.

    A cell has its own process, so everything in that process is counted, but for `aside`.
    """

    def __init__(self) -> None:
        self.before = _read_status("VmRSS:")
        """Resident memory in bytes."""
        self._began = self._now()
        self._apart = (0.0, 0.0)
        self._peak = 0
        self._exact = _reset_peak()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    def cost(self) -> dict[str, float]:
        """Seconds, cpu_seconds, peak_bytes and added_bytes, without what was spent in `aside`.

        If the system cannot reset the peak, it is that of the whole process.
        """
        now = self._now()
        wall, cpu = (now[i] - self._began[i] - self._apart[i] for i in (0, 1))
        peak = max(_read_status("VmHWM:"), self._peak if self._exact else memory.peak_bytes())
        return {
            "seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak,
            "added_bytes": peak - self.before,
        }  # fmt: skip

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Charge nothing within the block."""
        since = self._now()
        self._peak = max(self._peak, _read_status("VmHWM:"))
        try:
            yield
        finally:
            if self._exact:
                _reset_peak()
            now = self._now()
            self._apart = (
                self._apart[0] + now[0] - since[0],
                self._apart[1] + now[1] - since[1],
            )


def _read_status(name: str) -> int:
    """A field of the process in bytes; the peak if the system does not report it."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return memory.peak_bytes()
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else memory.peak_bytes()


def _reset_peak() -> bool:
    """Reset the peak of resident memory; returns whether the system can do so."""
    try:
        CLEAR.write_text(PEAK_ONLY)
    except OSError:
        return False
    return True
