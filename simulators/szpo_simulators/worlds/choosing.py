"""Many repetitions on one world that select their comparisons or stop asking early.

The arithmetic is that of `szpo.optim.comparison_selection` and `szpo.optim.stopping` on arrays;
directions, walks and votes come as in `szpo_simulators.worlds.repetitions`, whose block of
repetitions this drives. Identical walks cost no vote here, as in a run's ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.errors import UsageError
from szpo.optim import comparison_selection, stopping
from szpo.optim.rules import regression
from szpo.optim.rules.rule import Perturbations
from szpo.optim.settings import Settings
from szpo.optim.weighted_votes import weigh
from szpo.types import Floats, Tally
from szpo_simulators.worlds import oracle, repetitions
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.repetitions import Block
from szpo_simulators.worlds.world import World

PORTION = 4
"""Comparisons that are asked before a run with a price of votes looks again."""


@dataclass(frozen=True, slots=True, eq=False)
class Spending:
    """Values and votes spent along the runs, (S, steps)."""

    curve: Floats
    spent: Floats


def train(
    world: World, settings: Settings, root_seeds: Sequence[int], steps: int, *,
    panel: LinkPanel | None = None, block: int = 50,
) -> Spending:  # fmt: skip
    """Run every root seed for T steps, both sides by the same uniform numbers.

    Raises:
        UsageError: several directions, or settings that no world can run (`repetitions.check`).
    """
    if settings.K != 1 or settings.carries:
        raise UsageError("choosing: one direction per step, no momentum, no Adam")
    repetitions.check(settings, panel or LinkPanel())
    curves, spent = [], []
    for first in range(0, len(root_seeds), block):
        part = root_seeds[first : first + block]
        run = Block(world, settings, part, panel or LinkPanel())
        votes = np.zeros(len(part))
        lines: tuple[list[Floats], list[Floats]] = ([], [])
        for step in range(steps):
            votes = votes + _advance(run, panel or LinkPanel(), step)
            lines[0].append(world.value(run.theta))
            lines[1].append(votes)
        curves.append(np.stack(lines[0], 1))
        spent.append(np.stack(lines[1], 1))
    return Spending(np.concatenate(curves), np.concatenate(spent))


def content(plus: NDArray[Any], minus: NDArray[Any], by: str) -> Floats:
    """`comparison_selection.content` of two walks by their states (S, n, H + 1), as (S, n).

    ``rows`` and ``uniform``: 1 where the walks differ. ``words``: Jaccard's distance of the cells
    visited, a half if that is 0 for walks that differ.
    """
    differ: NDArray[np.bool_] = np.asarray((plus != minus).any(-1), dtype=np.bool_)
    if by != "words":
        return differ.astype(np.float64)
    cells = np.arange(int(max(plus.max(), minus.max())) + 1)
    one, other = ((side[..., None] == cells).any(-2) for side in (plus, minus))
    apart = (one ^ other).sum(-1) / (one | other).sum(-1)
    return np.where(differ, np.where(apart > 0, apart, 0.5), 0.0)


def _advance(run: Block, panel: LinkPanel, step: int) -> Floats:
    """One step of all repetitions; returns the votes that it asked of each (S,)."""
    settings, at = run.settings, run.perturb(step)
    gap, score = _candidates(run, at)
    q, index = _draw(settings, run.root_seeds, step, score)
    taken = np.take_along_axis(q, index, -1)
    same = (taken == 0)[:, None]
    gap = np.take_along_axis(gap, index, -1)[:, None]
    coins = oracle.coins(run.root_seeds, step, (1, settings.N, settings.M))[0]
    plus = oracle.votes(panel.chance(gap), coins)
    share = None
    if settings.selection is not None:
        share = 1 / (q.shape[-1] * np.where(same, 1.0, taken[:, None]))  # 1/(C·q)
    tally = Tally(plus, settings.M - plus, np.zeros_like(plus), same, share)
    if settings.vote_price is not None:
        tally = _stop_asking(run, at, tally, settings.vote_price)
    votes = weigh(settings, None, step, tally, None)
    run.apply(run.rule.move(settings, run.carried, at, votes, None), at)
    return np.asarray(settings.M * (~tally.identical).sum((1, 2)), dtype=np.float64)


def _candidates(run: Block, at: Perturbations) -> tuple[Floats, Floats]:
    """Differences of mean returns and content of all candidates, (S, C)."""
    settings, world = run.settings, run.world
    u = run.draw(at.step, 0, settings.made * settings.D, None)
    up, down = (world.walks(theta, u) for theta in run.sides(at, 0))
    shape = (len(run.root_seeds), settings.made, settings.D)
    gap = (up.returns - down.returns).reshape(shape).mean(-1)
    by = "rows" if settings.selection is None else settings.selection.by
    score = content(up.states, down.states, by).reshape(shape).mean(-1)
    return np.asarray(gap), np.asarray(score)


def _draw(
    settings: Settings, root_seeds: Sequence[int], step: int, score: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities (S, C) of the candidates, and the places (S, N) of those shown."""
    if settings.selection is None:
        index = np.tile(np.arange(settings.N), (len(score), 1))
        return (score > 0).astype(np.float64), index
    if settings.selection.by == "uniform":
        score = (score > 0).astype(np.float64)
    q = comparison_selection.inclusion(score, settings.N, settings.selection.floor)
    keys = (seeds.derive(int(s), "selection", step=step, k=0) for s in root_seeds)
    shown = [
        comparison_selection.draw(one, settings.N, key) for one, key in zip(q, keys, strict=True)
    ]
    return q, np.array(shown)


def _stop_asking(run: Block, at: Perturbations, tally: Tally, price: float) -> Tally:
    """The tally without what is not asked: each repetition stops where a vote is worth less.

    Looks after every `PORTION` comparisons.
    """
    settings, x = run.settings, at.features(run.settings.distance)
    going = np.ones(len(x), dtype=np.bool_)
    asked = np.zeros(tally.identical.shape, dtype=np.bool_)
    start = 0
    for end in (*range(PORTION, settings.N, PORTION), settings.N):
        asked[going, :, start:end] = ~tally.identical[going, :, start:end]
        part = weigh(settings, None, at.step, replace(tally, identical=~asked), None)
        known, length = regression.posterior_so_far(settings, run.carried, at, part)
        worth = stopping.worth(known, x[:, 0], length)
        going = going & (worth >= price)
        if not going.any():
            break
        start = end
    return replace(tally, identical=~asked)
