"""`szpo bench budget-split`: what to spend votes on: comparisons N, voters M, rows D."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from szpo_simulators.bench.known_worlds import runs
from szpo_simulators.bench.known_worlds.runs import make_spec
from szpo_simulators.study import (
    COLOURS,
    Study,
    bench,
    draw_curve,
    draw_points,
    format_interval,
    put_legend_below,
    seed_range,
    set_log_ticks,
)
from szpo_simulators.worlds.gridworld import DENSE
from szpo_simulators.worlds.world import draws

SPLITS = ((64, 1), (16, 4), (4, 16), (1, 64))
SHAPES = ((1, 1), (1, 4), (1, 16), (4, 1), (4, 4), (16, 1), (16, 4))
"""(M, D) at equal cost."""
COSTS = (0.01, 0.1, 1.0)
"""Cost of a walk, in votes."""
PURSE = 64.0
"""Cost per step, in votes."""
SIZES = (2, 8, 32)
ROWS = (1, 4, 16)


def best_ratio(cost: float, spread: float) -> float:
    """M/D that minimises the variance of Δ̂ at given cost: √(8c)/s.

    Var(Δ̂)·N = s²/D + 4/M for small differences under the logistic link, with s the standard
    deviation of a difference of two returns; N comparisons cost N·(M + 2Dc). The product is least
    at M/D = √(8c)/s, whatever M and D are.
    """
    return math.sqrt(8 * cost) / spread


def measure_spread() -> float:
    """Standard deviation s of the difference of two returns at θ = 0 of the default grid."""
    drawn = DENSE.returns(DENSE.theta0[None], draws(DENSE, seed_range(1), 0, 0, 20_000))
    return float(np.sqrt(2) * drawn.std())


@bench("budget-split")
def main(study: Study) -> dict[str, Any]:
    """Votes spent on N or on M; what walks that cost something change; N and D at M = 1."""
    splits = runs.tune(study, "N or M", [make_spec(N=N, M=M) for N, M in SPLITS])
    more = runs.tune(
        study,
        "more voters",
        [make_spec(N=16, M=1), make_spec(N=16, M=100), make_spec(N=16, M=1, truth=True)],
    )
    s = measure_spread()
    shapes = runs.tune(
        study,
        "costly walks",
        [
            make_spec(part=f"cost {cost:g}", M=M, D=D, N=max(1, round(PURSE / (M + 2 * D * cost))))
            for cost in COSTS
            for M, D in SHAPES
        ],
    )
    for row in shapes:
        row["cost"] = float(row["part"].split()[1])
        row["ratio"] = row["M"] / row["D"]
    sizes = runs.tune(study, "N and D", [make_spec(N=N, D=D) for D in ROWS for N in SIZES])
    budget = {"N": "N", "M": "M", "D": "D", "V": format_interval, "α": runs.format_alpha,
              "votes": "votes", "answers read": "answers"}  # fmt: skip
    study.table("64 votes a step", splits, budget)
    study.table(
        "more voters at N = 16",
        more,
        {**budget, "source": lambda r: "true returns" if r.get("truth") else "votes"},
    )
    study.table(
        f"equal cost {PURSE:g} a step; s = {s:.2f}",
        shapes,
        {"cost of a walk": "cost", **budget,
         "M/D": "ratio", "best by theory": lambda r: f"{best_ratio(r['cost'], s):.2g}"},
    )  # fmt: skip
    study.table("N and D, one vote a comparison", sizes, budget)
    for part, rows in (("splits", splits), ("more", more), ("costs", shapes), ("sizes", sizes)):
        study.csv(part, rows)
    with study.figure("budget-split", columns=3, height=3.9) as (left, middle, right):
        for row in splits:
            draw_curve(
                left, runs.budget_at_marks(row), row["curve"], f"N = {row['N']}, M = {row['M']}"
            )
        left.set(xlabel="votes (answers read: twice as many)", ylabel="value")
        left.set(title="64 votes a step")
        put_legend_below(left)
        for cost, mark in zip(COSTS, "os^", strict=True):
            rows = sorted((r for r in shapes if r["cost"] == cost), key=lambda r: r["ratio"])
            draw_points(middle, [r["ratio"] for r in rows], rows, f"a walk costs {cost:g} votes",
                   fmt=mark)  # fmt: skip
            middle.axvline(best_ratio(cost, s), color=middle.lines[-1].get_color(), lw=0.9, ls=":")
        set_log_ticks(middle, sorted({row["ratio"] for row in shapes}))
        middle.set(xlabel="M/D (dotted: best by theory)", ylabel="value at the end")
        middle.set(title="Equal cost of votes and walks")
        put_legend_below(middle, 1)
        for D, colour in zip(ROWS, COLOURS, strict=False):
            rows = [row for row in sizes if row["D"] == D]
            for spent, mark in (("votes", "o-"), ("answers", "s--")):
                name = "answers read" if spent == "answers" else spent
                draw_points(right, [row[spent] for row in rows], rows, f"D = {D}, by {name}",
                       fmt=mark, color=colour)  # fmt: skip
        right.set(xscale="log", xlabel="votes, or answers read", ylabel="value at the end")
        right.set(title="N = 2, 8, 32, M = 1")
        put_legend_below(right)
    study.end()
    return {"splits": splits, "more": more, "costs": shapes, "sizes": sizes, "spread": s}
