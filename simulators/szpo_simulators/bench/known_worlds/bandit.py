"""`szpo bench bandit`: votes on single walks favour the arm that wins more often, not the better.

The risky arm pays 4 with probability .3, the safe one 1: better by .2 on average, and the loser of
seven comparisons in ten. The size of the batches that are compared decides which arm is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from szpo.aggregation.invert_and_average import inversion, moments
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_curve,
    interval,
    put_legend_below,
    seed_range,
)
from szpo_simulators.worlds import repetitions
from szpo_simulators.worlds.bandit import Bandit
from szpo_simulators.worlds.oracle import LinkPanel

WAYS = (
    *(("known", M, 1) for M in (1, 5, 20, 100)),
    ("known", 1, 2), ("known", 1, 8),
    ("sign", 1, 1), ("sign", 100, 1), ("sign", 1, 8),
)  # fmt: skip
"""Rule, M, D."""
SHARPNESS = (1.0, 5.0)
"""β of the two logistic panels."""
ALPHA = {"known": 0.3, "sign": 0.06}
"""Fixed, not tuned: the limit of a run is measured, not its speed."""
WALKS = 8192
"""Walks that are made together, as many as fit a cache."""


def mean_vote_margin(beta: float, rows: int) -> float:
    """E σ(β·gap) − ½ for means of ``rows`` pulls, exact: its sign is the arm that votes favour."""
    gaps, chances = Bandit().gaps(rows)
    return float((chances * (LinkPanel("logistic", beta).chance(gaps) - 0.5)).sum())


def mean_estimate(beta: float, voters: int, rows: int = 1) -> float:
    """E[Δ̂] of the rule `known` for risky against safe; exact."""
    gaps, chances = Bandit().gaps(rows)
    each, _ = moments(LinkPanel("logistic", beta).chance(gaps), voters, inversion("haldane"))
    return float((chances * each).sum())


def work(spec: Spec) -> dict[str, Any]:
    """P(risky) of a row's seeds: ``values`` at the end, ``curve`` of means at ``marks``.

    ``votes`` and ``answers`` (pulls read by voters) are those of the whole run.
    """
    world, steps = Bandit(), spec["steps"]
    how = repetitions.settings_for(
        world, **{name: spec[name] for name in ("rule", "N", "M", "D", "alpha")}
    )
    runs = repetitions.train(
        world, how, spec["seeds"], steps, panel=LinkPanel("logistic", spec["beta"]), crn=False,
        marks=space_marks(steps),
        batching=repetitions.Batching(max(25, WALKS // (spec["N"] * spec["D"]))),
    )  # fmt: skip
    safe, risky = world.value(np.array([[-60.0], [60.0]])).tolist()
    shares = (runs.curve - safe) / (risky - safe)
    return {
        "values": shares[:, -1].tolist(),
        "marks": list(runs.marks),
        "curve": [interval(values) for values in shares.T.tolist()],
        "votes": runs.votes * steps,
        "answers": runs.answers * steps,
    }


def space_marks(steps: int, count: int = 12) -> list[int]:
    """Steps at which the value is measured, closer together at the start.

    >>> space_marks(300, 4)
    [19, 75, 169, 300]
    """
    return sorted({max(1, math.ceil(steps * (i / count) ** 2)) for i in range(1, count + 1)})


def budget_at_marks(row: Mapping[str, Any], budget: str) -> list[float]:
    """How much of a budget (``votes`` or ``answers``) a row had spent at its marks."""
    return [row[budget] * mark / row["steps"] for mark in row["marks"]]


@bench("bandit")
def main(study: Study) -> dict[str, Any]:
    """The risky arm is better on average and loses most comparisons: which arm is learned?"""
    used = seed_range(20 if study.quick else 200)
    steps = 400 if study.quick else 800
    specs = [
        {"rule": rule, "N": 32, "M": M, "D": D, "alpha": ALPHA[rule], "steps": steps,
         "beta": beta, "seeds": used}
        for beta in SHARPNESS
        for rule, M, D in WAYS
    ]  # fmt: skip
    rows = [{**row, **interval(row["values"])} for row in study.cells("runs", specs, work)]
    theory = [
        {
            "beta": beta,
            **{f"lean, D = {D}": mean_vote_margin(beta, D) for D in (1, 2, 8)},
            **{f"Δ̂, M = {M}": mean_estimate(beta, M) for M in (1, 5, 10, 20, 50)},
        }
        for beta in SHARPNESS
    ]
    for beta in SHARPNESS:
        study.table(
            f"P(risky) at the end, the best is 1; N = 32, T = {steps}, β = {beta:g}",
            [row for row in rows if row["beta"] == beta],
            {"rule": "rule", "M": "M", "D": "D", "votes": "votes", "answers read": "answers",
             "P(risky)": lambda r: f"{r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"},
        )  # fmt: skip
    study.table(
        "exact: E σ − ½ of one comparison, and E Δ̂ at D = 1 (true: +.2)", theory,
        {head: head for head in theory[0]},
    )  # fmt: skip
    study.csv("runs", rows)
    study.csv("exact", theory)
    shown = [("known", 1, 1), ("known", 20, 1), ("known", 1, 8), ("sign", 1, 1), ("sign", 100, 1),
             ("sign", 1, 8)]  # fmt: skip
    views = ((1.0, "votes"), (1.0, "answers"), (5.0, "votes"))
    with study.figure("bandit", columns=3, height=3.9) as axes:
        for here, (beta, budget) in zip(axes, views, strict=True):
            for row in rows:
                if row["beta"] == beta and (row["rule"], row["M"], row["D"]) in shown:
                    label = f"{row['rule']}, M = {row['M']}, D = {row['D']}"
                    draw_curve(here, budget_at_marks(row, budget), row["curve"], label)
            here.set(xscale="log", xlabel="votes" if budget == "votes" else "answers read")
            here.set(ylim=(-0.03, 1.03), ylabel="P(risky), best is 1")
            here.set(title=f"logistic panel, β = {beta:g}")
        put_legend_below(axes[1], 3)
    study.end()
    return {"runs": rows, "exact": theory}
