"""Measures points on the line from a run's start to its end, to find how far to go.

Shrinking weights towards the start loses some of the gain and undoes more of the damage (WARP,
arXiv 2406.16768, calls it linear interpolation towards initialization). Guards need no votes, so
several points can be measured after a run. Nothing is written into the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from szpo import intervals
from szpo.errors import UsageError
from szpo.intervals import Estimate
from szpo.optim import parameters
from szpo.policies import text_guards
from szpo.policies.protocol import moved
from szpo.policies.text_guards import Guard, TextFigures
from szpo.types import Answer, Floats, Prompt, Theta

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy

SHARES: Final = (0.25, 0.5, 0.7, 1.0)
"""The measured points, as shares of the way from the start."""
SAMPLES: Final = 4
"""Answers to each held-out prompt."""

Score = Callable[[Prompt, Answer], float]


@dataclass(frozen=True, slots=True)
class Point:
    """One point on the line."""

    share: float
    """Of the way from the start, in (0, 1]; 0 is the base model."""
    kl: float
    kl_stderr: float
    figures: TextFigures
    guards: tuple[Guard, ...] = ()
    """Against the base; none for the base itself."""
    gap: str | None = None
    """Why the topic guard is missing; None if it is there."""
    gain: Estimate | None = None
    """Mean reward above the base's, 95 % interval over prompts; None where there is no reward."""

    @property
    def holds(self) -> bool:
        """Every guard holds here."""
        return all(guard.ok for guard in self.guards)


def measure_points(
    policy: LoraPolicy,
    start: Theta,
    prompts: Sequence[Prompt],
    shares: Sequence[float] = SHARES,
    *,
    seed: int,
    samples: int = SAMPLES,
    score: Score | None = None,
) -> Iterator[Point]:
    """Measure the base, then each point, with the same random numbers; θ is restored at the end.

    Args:
        policy: At the end of the line.
        start: The start of the line.
        prompts: Held out.
        shares: Of the way from the start, each in (0, 1].
        seed: Names the draws.
        samples: Answers to each prompt.
        score: The reward of a simulated panel.

    Yields:
        The base at share 0, then a point for each of ``shares``, in their order.

    Raises:
        UsageError: no prompts are held out.
    """
    if not prompts:
        raise UsageError("no prompts are held out to measure on; raise prompts.heldout")
    end = policy.theta()
    drawn = policy.sample(prompts, samples, seed=seed, base=True)
    base = text_guards.measure(policy, prompts, drawn, seed=seed)
    rewards = _mean(score, prompts, drawn)
    yield Point(0.0, 0.0, 0.0, base)
    for share in shares:
        with moved(policy, parameters.between(start, end, share)):
            drawn = policy.sample(prompts, samples, seed=seed)
            figures = text_guards.measure(policy, prompts, drawn, seed=seed)
            kl = policy.kl(prompts, seed=seed)
        found, gain = _mean(score, prompts, drawn), None
        if rewards is not None and found is not None:
            gain = intervals.mean((found - rewards).tolist())
        guards, gap = text_guards.guards(base, figures), text_guards.topic_gap(base, figures)
        yield Point(share, *kl, figures, guards, gap, gain)


def largest_that_holds(points: Sequence[Point]) -> Point | None:
    """The point furthest from the start at which every guard holds; None where there is none."""
    return max((p for p in points if p.holds), key=lambda point: point.share, default=None)


def _mean(
    score: Score | None, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Answer]]
) -> Floats | None:
    """Mean reward of the answers to each prompt."""
    if score is None:
        return None
    values = [
        [score(prompt, answer) for answer in row]
        for prompt, row in zip(prompts, drawn, strict=True)
    ]
    found: Floats = np.array(values, np.float64).mean(1)
    return found
