"""`szpo bench dimension`: few coordinates or many, blocks of them, several directions a step."""

from __future__ import annotations

from typing import Any

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
    set_log_ticks,
)
from szpo_simulators.worlds.gridworld import SPARSE

SUBSPACES = (4, 8, 16, 32, 64, 100)
LENGTHS = (75, 300)
BLOCKS = (1, 5, 25, 100)
TRADES = ((1, 1200), (4, 300), (16, 75))
"""(K, T) at 76,800 votes."""


@bench("dimension")
def main(study: Study) -> dict[str, Any]:
    """Random subspaces of the default grid, block coordinates, K against T, a sparse reward."""
    trades = TRADES[1:] if study.quick else TRADES
    spaces = runs.tune(
        study, "subspaces", [make_spec(subspace=d, steps=T) for T in LENGTHS for d in SUBSPACES]
    )
    blocks = runs.tune(study, "blocks", [make_spec(law=f"block:{B}") for B in BLOCKS])
    trade = runs.tune(study, "K or T", [make_spec(K=K, steps=T, N=16, M=4) for K, T in trades])
    sparse = runs.tune(
        study,
        "sparse reward",
        [
            make_spec(part="sparse", world="sparse", steps=400, N=N, M=4, truth=truth)
            for N, truth in ((16, False), (64, False), (16, True))
        ],
    )
    columns = {
        "V": format_interval,
        "α": runs.format_alpha,
        "votes": "votes",
        "answers read": "answers",
    }
    study.table("random subspaces of 100", spaces, {"d": "subspace", "T": "steps", **columns})
    study.table(
        "block coordinates, T = 300", blocks, {"B": lambda r: r["law"].split(":")[1], **columns}
    )
    study.table("K directions or T steps", trade, {"K": "K", "T": "steps", **columns})
    best = SPARSE.optimum()
    study.table(
        f"sparse reward with a distractor, T = 400, optimum {best:.2f}", sparse,
        {"N": "N", "source": lambda r: "true returns" if r["truth"] else "votes", **columns},
    )  # fmt: skip
    for part, rows in (("subspaces", spaces), ("blocks", blocks), ("trade", trade),
                       ("sparse", sparse)):  # fmt: skip
        study.csv(part, rows)
    with study.figure("dimension", columns=3, height=3.9) as (left, middle, right):
        for T, mark in zip(LENGTHS, "os", strict=True):
            rows = [
                row
                for row in spaces
                if row["steps"] == T or (study.quick and row["steps"] * 4 == T)
            ]
            draw_points(left, [row["subspace"] for row in rows], rows, f"{rows[0]['votes']} votes",
                   fmt=f"{mark}-")  # fmt: skip
        set_log_ticks(left, SUBSPACES)
        left.set(xlabel="coordinates d of a random subspace", ylabel="value at the end")
        left.set(title="Few coordinates or many")
        put_legend_below(left)
        for row in trade:
            draw_curve(
                middle,
                runs.budget_at_marks(row),
                row["curve"],
                f"K = {row['K']}, T = {row['steps']}",
            )
        middle.set(xlabel="votes (answers read: twice as many)", ylabel="value")
        middle.set(title="K directions or T steps")
        put_legend_below(middle)
        values = {f"N = {row['N']}{', true returns' if row['truth'] else ''}": row["values"]
                  for row in sparse}  # fmt: skip
        right.boxplot(list(values.values()), tick_labels=list(values))
        right.axhline(best, color=COLOURS[2], lw=1, marker="", label="optimum")
        right.set(title="Sparse reward with a distractor", ylabel="value at the end")
        put_legend_below(right)
    study.end()
    return {"subspaces": spaces, "blocks": blocks, "trade": trade, "sparse": sparse}
