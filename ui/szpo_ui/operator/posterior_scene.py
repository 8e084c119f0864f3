"""The content of a picture of a two-dimensional posterior: density, particles, entropy, next pair.

Pure: the page of ``szpo visualize`` draws it in a browser,
`szpo_ui.operator.posterior_pictures` into files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from szpo.analysis import acquisition, svgd
from szpo.analysis.posterior import BradleyTerry
from szpo.seeds import derive
from szpo.types import Floats

_Answers: TypeAlias = tuple[tuple[float, float], ...]
EXTENT = 4.0
"""Weights and differences are shown from −4 to 4."""
CELLS = 61
PARTICLES, STEPS, EVERY = 120, 30, 3
TRAINING, DRAWN = 100, 8
"""Training steps of the initial sampler, and snapshots taken between its start and end."""
CANDIDATES = 48
"""Default number of candidates for the next pair: evenly spaced directions."""
TAU = 1.5
"""Standard deviation of the prior of each weight."""
MAX_VOTES = 200
"""Most votes in a picture: with more it is slow and hard to read."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One picture; see `scene`.

    Shapes: deltas (n, 2), winner − loser; log_density (CELLS, CELLS), with maximum 0 and rows from
    the largest second weight down; frames (f, m, 2), the particles' path; mean (2,).
    """

    deltas: Floats
    log_density: Floats
    frames: Floats
    rounds: tuple[dict[str, float], ...]
    """After each answer the posterior's entropy in nats, estimated in three ways: gaussian;
    neighbours; svgd, by the particles' change of variables, drifts down (docs/active.md)."""
    mean: Floats
    log_likelihood: float
    """The log-likelihood of the answers at the mean weights; at w = 0 it is −n log 2."""
    suggested: Floats | None
    """The candidate with the largest information gain, (2,); None if every gain is 0."""
    information: float
    """Its information gain, nats."""


def scene(
    deltas: Sequence[Sequence[float]] | Floats,
    candidates: Floats | None = None,
) -> Scene:
    """The picture for these answers.

    Args:
        deltas: (n, 2), winner − loser, within ±`EXTENT`, at most `MAX_VOTES`.
        candidates: (c, 2) differences of the pairs that may be asked next.
    """
    rows = np.asarray(deltas, dtype=np.float64).reshape(-1, 2)
    answers: _Answers = tuple((float(x), float(y)) for x, y in rows)
    shown = _trace_particles(answers)
    posterior = _posterior(rows)
    mean = shown[-1].x.mean(0)
    fan = fan_of(CANDIDATES) if candidates is None else candidates
    suggested, information = _next(shown[-1].x, fan)
    return Scene(
        deltas=rows,
        log_density=_map(posterior),
        frames=np.stack([part.x for part in shown]),
        rounds=tuple(_round(answers[:n]) for n in range(len(answers) + 1)),
        mean=mean,
        log_likelihood=float(posterior.log_likelihood(mean[None])[0]),
        suggested=suggested,
        information=information,
    )


def scenes(
    deltas: Sequence[Sequence[float]] | Floats, candidates: Floats | None, last: int
) -> list[Scene]:
    """The scenes after 0, 1, … of these answers, but only the ``last`` few; see `scene`."""
    first = max(0, len(deltas) + 1 - last)
    return [scene(deltas[:n], candidates) for n in range(first, len(deltas) + 1)]


def fan_of(count: int) -> Floats:
    """Differences (count, 2) of length 2, evenly spaced over half a turn.

    The other half would be the same questions with the two answers swapped.
    """
    angle = np.pi * np.arange(count) / count
    return 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _posterior(rows: Floats) -> BradleyTerry:
    return BradleyTerry(rows, np.ones(len(rows)), TAU)


@lru_cache(maxsize=64)
def _trace_particles(answers: _Answers) -> tuple[svgd.Particles, ...]:
    """Snapshots of the particles from the prior to the posterior of these answers.

    First draws of the sampler on its way from prior to trained, then SVGD from the last draw.
    """
    target = _posterior(np.array(answers).reshape(-1, 2))
    key, broad = derive(0, "scene"), np.full(2, TAU)
    mean, sd = svgd.train(target, key=key, steps=TRAINING, start=(np.zeros(2), broad))
    shares = np.linspace(0, 1, DRAWN)
    drawn = [
        svgd.draw(share * mean, broad ** (1 - share) * sd**share, PARTICLES, key)
        for share in shares
    ]
    view = svgd.whiten(target)
    wide = float(np.log(np.diag(view.root)).sum())
    start = svgd.Particles(view.z(drawn[-1].x), drawn[-1].log_q + wide)
    moved = svgd.run(view, start, steps=STEPS, every=EVERY)
    return (*drawn[:-1], *map(view.back, moved))


@lru_cache(maxsize=1024)
def _round(answers: _Answers) -> dict[str, float]:
    """The entropies after these answers; cached, since dragging changes few of the rounds."""
    found = _trace_particles(answers)[-1]
    return {
        "gaussian": svgd.gaussian_entropy(found.x),
        "neighbours": svgd.nearest_entropy(found.x),
        "svgd": found.entropy,
    }


def _map(posterior: BradleyTerry) -> Floats:
    line = (np.arange(CELLS) + 0.5) / CELLS * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(line, line[::-1])
    found = posterior.log_density(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    return np.asarray(found - found.max())


def _next(x: Floats, candidates: Floats) -> tuple[Floats | None, float]:
    if not len(candidates):
        return None, 0.0
    worth = acquisition.gains(x, np.asarray(candidates, dtype=np.float64))
    best = int(np.argmax(worth))
    return (candidates[best], float(worth[best])) if worth[best] > 0 else (None, 0.0)
