"""Many runs that select their comparisons or stop asking, on one world, all at a time.

The arithmetic is that of `szpo.optim.comparison_selection` and `szpo.optim.stopping` on arrays;
directions, walks and votes come as in `szpo_simulators.worlds.repetitions`, whose block of
repetitions this drives. Identical walks cost no vote here, as in a run's ledger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.errors import UsageError
from szpo.optim import (
    bayes_rule,
    comparison_selection,
    count_rules,
    optimizer,
    posterior,
    stopping,
)
from szpo.optim.settings import Settings
from szpo.optim.step_size import longest
from szpo.types import Floats, Tally
from szpo_simulators.worlds import oracle, repetitions
from szpo_simulators.worlds.oracle import Panel
from szpo_simulators.worlds.world import World

PORTION = 4
"""Comparisons that are asked before a run with a price of votes looks again."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Values and votes spent along the runs, (S, steps)."""

    curve: Floats
    spent: Floats


def train(
    world: World, chosen: Settings, root_seeds: Sequence[int], steps: int, *,
    panel: Panel | None = None, block: int = 50,
) -> Chosen:  # fmt: skip
    """Run every root seed for so many steps, both sides by the same uniform numbers.

    Raises:
        UsageError: several directions, or settings that no world can run (`repetitions.check`).
    """
    if chosen.K != 1 or (chosen.vectored and chosen.rule != "bayes"):
        raise UsageError("choosing: one direction per step, no momentum, no Adam")
    repetitions.check(chosen, panel or Panel())
    curves, spent = [], []
    for first in range(0, len(root_seeds), block):
        part = root_seeds[first : first + block]
        run = repetitions._Block(
            world, chosen, part, panel or Panel(), True, False, repetitions._Clock()
        )
        votes = np.zeros(len(part))
        lines: tuple[list[Floats], list[Floats]] = ([], [])
        for step in range(steps):
            votes = votes + _advance(run, panel or Panel(), step)
            lines[0].append(world.value(run.theta))
            lines[1].append(votes)
        curves.append(np.stack(lines[0], 1))
        spent.append(np.stack(lines[1], 1))
    return Chosen(np.concatenate(curves), np.concatenate(spent))


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


def _advance(run: Any, panel: Panel, step: int) -> Floats:
    """One step of all repetitions; returns the votes that it asked of each (S,)."""
    chosen: Settings = run.chosen
    query = optimizer.ask(dataclasses.replace(run.state, step=step))
    v, factor = run._directions(step)
    radius = repetitions._rounded(query.mu * factor)
    gap, score = _candidates(run, step, radius[:, 0], v[:, 0])
    q, index = _drawn(chosen, run.root_seeds, step, score)
    taken = np.take_along_axis(q, index, -1)
    same = (taken == 0)[:, None]
    gap = np.take_along_axis(gap, index, -1)[:, None]
    coins = oracle.coins(run.root_seeds, step, (1, chosen.N, chosen.M))[0]
    plus = oracle.votes(panel.chance(gap), coins)
    share = None
    if chosen.selection is not None:
        share = 1 / (q.shape[-1] * np.where(same, 1.0, taken[:, None]))
    tally = Tally(plus, chosen.M - plus, np.zeros_like(plus), same, share)
    if chosen.rule == "bayes":
        x = chosen.distance * radius[..., None] * v
        move, asked = _posterior_step(run, step, tally, x)
        run.theta = run.theta + move.astype(np.float32)
        return np.asarray(chosen.M * asked.sum((1, 2)), dtype=np.float64)
    found = count_rules.coefficients(chosen, tally, mu=query.mu, alpha=query.alpha or 0.0)
    coef = repetitions._rounded(found.coef * factor)[:, 0].astype(np.float32)
    run.theta = run.theta + coef[:, None] * v[:, 0].astype(np.float32)
    return np.asarray(chosen.M * (~same).sum((1, 2)))


def _candidates(run: Any, step: int, radius: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Differences of mean returns and content of all candidates, (S, C)."""
    chosen, world = run.chosen, run.world
    shift = radius.astype(np.float32)[:, None] * v.astype(np.float32)
    below = run.theta - shift if chosen.pairing == "antithetic" else run.theta
    u = run._drawn(step, 0, chosen.made * chosen.D, None)
    up, down = world.walks(run.theta + shift, u), world.walks(below, u)
    shape = (len(run.root_seeds), chosen.made, chosen.D)
    gap = (up.returns - down.returns).reshape(shape).mean(-1)
    by = "rows" if chosen.selection is None else chosen.selection.by
    score = content(up.states, down.states, by).reshape(shape).mean(-1)
    return np.asarray(gap), np.asarray(score)


def _drawn(
    chosen: Settings, root_seeds: Sequence[int], step: int, score: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities (S, C) of the candidates, and the places (S, N) of those shown."""
    if chosen.selection is None:
        index = np.tile(np.arange(chosen.N), (len(score), 1))
        return (score > 0).astype(np.float64), index
    if chosen.selection.by == "uniform":
        score = (score > 0).astype(np.float64)
    q = comparison_selection.inclusion(score, chosen.N, chosen.selection.floor)
    keys = (seeds.derive(int(s), "selection", step=step, k=0) for s in root_seeds)
    shown = [
        comparison_selection.drawn(one, chosen.N, key) for one, key in zip(q, keys, strict=True)
    ]
    return q, np.array(shown)


def _posterior_step(
    run: Any, step: int, tally: Tally, x: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """The step of ``bayes`` and which comparisons were asked, `PORTION` after `PORTION`."""
    chosen: Settings = run.chosen
    price, length = chosen.vote_price, longest(chosen, step)
    going = np.ones(len(x), dtype=np.bool_)
    asked = np.zeros(tally.identical.shape, dtype=np.bool_)
    ends = [chosen.N] if price is None else [*range(PORTION, chosen.N, PORTION), chosen.N]
    start = 0
    for end in ends:
        asked[going, :, start:end] = ~tally.identical[going, :, start:end]
        window = posterior.add(
            run.window, step, x, tally.plus, tally.minus, tally.tie, ~asked, forget=chosen.forget
        )
        known = bayes_rule.gradient(chosen, window, step)
        if price is not None:
            worth = stopping.worth(known, x[:, 0], length)
            going = going & (worth >= price)
            if not going.any():
                break
        start = end
    run.window = window
    return posterior.step_vector(known, length), asked
