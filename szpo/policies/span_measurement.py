"""Measure a span of proposals: its axes in the metric of KL, and how long a step in it may be.

Everything is measured around the policy's present weights, on its own answers; no vote is read.
The metric is the Fisher matrix of answers along the proposals, E[s sᵀ] of their score functions s,
read without gradients (`szpo.models.scores`). In it the axes are orthonormal, so that a step of
length ℓ in the span costs about ℓ²/2 nats. How far that holds at the radius of a run's comparisons
is measured: the span's part of a direction is scaled until it costs what the Gaussian part costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.errors import RunError
from szpo.models.sampling import Sampling
from szpo.optim import guided_directions, parameters, sample_directions
from szpo.policies import subspace_setup
from szpo.policies.backend import Backend
from szpo.policies.probe import Probe, unit_directions
from szpo.policies.subspaces import Subspace
from szpo.types import Floats, Progress, Prompt, Theta, unseen

ANSWERS: Final = 32
"""Answers by which the metric is read."""
NEAR: Final = 0.5
"""Share of a proposal along which its score is read."""
FLAT: Final = 0.05
"""A dimension with a smaller share of a proposal's squared length depends on the others."""
DIRECTIONS: Final = 12
"""Directions along which a part's KL is measured, each by an answer in either sense."""
PASSES: Final = 4
CLOSE: Final = 0.15
"""Scaling ends where the logarithms of both parts' KL differ by less."""


@dataclass(frozen=True)
class Measured:
    """What a run records of a span besides its proposals."""

    noise: float
    """See `szpo.optim.guided_directions.Span`."""
    mixing: tuple[tuple[float, ...], ...]
    nats: tuple[float, float]
    """KL of the Gaussian part and of the span's part at the run's radius, each alone."""
    answers: int
    """How many answers were drawn."""


def measure(
    host: Backend,
    subspace: Subspace,
    present: Theta,
    proposals: Sequence[Theta],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    mu: float,
    share: float,
    seed: int,
    progress: Progress = unseen,
) -> Measured | None:
    """Measure a span around the moving weights ``present``; None where its proposals move no text.

    ``share``: s. ``mu``: the run's radius, at which both parts of a direction cost the same.
    """
    here = Subspace("full", subspace.sites, subspace.fixed, present, {})
    probe = subspace_setup.probe_of(host, here, prompts, sampling, seed, progress)
    proposals = [{n: v.astype(np.float64) for n, v in each.items()} for each in proposals]
    rows = find_axes(fisher(probe, present, proposals))
    if rows is None:
        return None
    axes = np.stack([orient(row, proposals) for row in rows])
    space = parameters.Space(seed, here.layout, sample_directions.Law())
    drawn = [parameters.direction(space, 0, k) for k in range(DIRECTIONS)]
    target = measure_cost(probe, present, drawn, mu, "noise")
    ways = unit_directions(seed, DIRECTIONS, len(axes), "span") @ axes
    length, cost, passes = math.sqrt(2 * target), target, 0
    while passes < PASSES:
        inside = [combine(length / mu * way, proposals) for way in ways]
        cost, passes = measure_cost(probe, present, inside, mu, f"span {passes}"), passes + 1
        apart = math.log(target / cost)
        if abs(apart) < CLOSE or passes == PASSES:
            break
        length *= math.exp(0.5 * max(-2.0, min(2.0, apart)))
    scaled = (math.sqrt(share / len(axes)) * length / mu * axes).astype(np.float32)
    if guided_directions.lengths(scaled, proposals).max() > guided_directions.LONGEST:
        return None
    return Measured(
        float(np.float32(math.sqrt(1 - share))),
        tuple(tuple(map(float, row)) for row in scaled),
        (target, cost),
        ANSWERS + 2 * DIRECTIONS * (1 + passes),
    )


def fisher(probe: Probe, present: Theta, proposals: Sequence[Theta]) -> Floats:
    """E[s sᵀ] (k, k) of the scores of the policy's own answers along proposals."""
    members = [
        {name: (value + NEAR * each[name]).astype(np.float32) for name, value in present.items()}
        for each in proposals
    ]
    read = probe.read_moves(probe.start_samples(ANSWERS), members)
    return np.asarray(read[:, 1:].mean(0) / NEAR**2)


def find_axes(metric: Floats) -> Floats | None:
    """Axes of a span as rows (k, proposals), orthonormal in the metric; None without length.

    Dimensions that hardly any proposal has are left out.

    >>> find_axes(np.array([[4.0, 0.0], [0.0, 0.25]])).round(3).tolist()
    [[0.5, 0.0], [0.0, 2.0]]
    >>> find_axes(np.array([[4.0, 4.0], [4.0, 4.0]])).round(3).tolist()
    [[0.25, 0.25]]
    """
    size = np.sqrt(np.maximum(np.diag(metric), 0.0))
    if not (np.isfinite(metric).all() and (size > 0).any()):
        return None
    unit = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 0.0)
    values, vectors = np.linalg.eigh(unit[:, None] * metric * unit)
    kept = values > FLAT
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])).T * unit)


def combine(weights: Floats, proposals: Sequence[Theta]) -> Theta:
    """The sum of proposals with these weights (proposals,)."""
    return {
        name: np.asarray(sum(w * each[name] for w, each in zip(weights, proposals, strict=True)))
        for name in proposals[0]
    }


def orient(row: Floats, proposals: Sequence[Theta]) -> Floats:
    """The axis in the sense in which its largest weight is above 0, whatever its proposals'."""
    flat = np.concatenate([value.ravel() for value in combine(row, proposals).values()])
    return np.asarray(row * np.sign(flat[np.abs(flat).argmax()]))


def measure_cost(
    probe: Probe, present: Theta, ways: Sequence[Theta], mu: float, name: str
) -> float:
    """Mean KL of policies ± μ away along these ways to the present one, nats an answer.

    Raises:
        RunError: it is not a number above 0.
    """
    members = [
        {n: (value + sense * mu * way[n]).astype(np.float32) for n, value in present.items()}
        for way in ways
        for sense in (1, -1)
    ]
    nats = float(probe.kl(members, 1, name).mean())
    if not math.isfinite(nats) or nats <= 0:
        raise RunError(f"KL of a guided direction's {name} is {nats}; set model.dtype to fp32")
    return nats
