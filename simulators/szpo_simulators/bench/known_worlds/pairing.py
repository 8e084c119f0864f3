"""`szpo bench pairing`: which two policies to compare, how far apart, and by which numbers.

One-sided (θ against θ + μv) or antithetic (θ − μv against θ + μv), at equal μ and at equal
separation; with common random numbers and without; and how large μ should be.
"""

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

PAIRINGS = (
    ("one-sided, μ = 1", {"pairing": "forward", "mu": 1.0}),
    ("one-sided, μ = 2 (equal separation)", {"pairing": "forward", "mu": 2.0}),
    ("antithetic, μ = 1", {"pairing": "antithetic", "mu": 1.0}),
)
RADII = (0.1, 0.3, 1.0, 2.0, 4.0)


def step_sizes(spec: Any) -> tuple[float, ...]:
    """Step sizes by radius: a vote's noise is divided by μ, so small radii need small steps."""
    if spec["mu"] < 1:
        return (0.01, 0.03, *runs.GRIDS["known"][:-1])
    return (*runs.GRIDS["known"][1:], 30.0) if spec["mu"] > 1 else runs.GRIDS["known"]


@bench("pairing")
def main(study: Study) -> dict[str, Any]:
    """One-sided or antithetic pairs, common random numbers, and the radius μ, at equal votes."""
    pairs = runs.tune(
        study,
        "pairs",
        [
            make_spec(label=label, N=16, M=4, crn=crn, **how)
            for crn in (False, True)
            for label, how in PAIRINGS
        ],
    )
    radii = runs.tune(
        study,
        "radius",
        [
            make_spec(part="radius", N=16, M=4, crn=crn, mu=mu)
            for crn in (False, True)
            for mu in RADII
        ],
        grid=step_sizes,
    )
    columns = {
        "pair": "label", "numbers": lambda r: "common" if r["crn"] else "own", 
        "V": format_interval, "α": runs.format_alpha, "votes": "votes",
    }  # fmt: skip
    study.table("value after equal votes (N = 16, M = 4)", pairs, columns)
    study.table("radius, antithetic", radii, {"μ": "mu", **dict(list(columns.items())[1:])})
    study.csv("pairs", pairs)
    study.csv("radius", radii)
    with study.figure("pairing", columns=2, height=3.9) as (left, right):
        for row in pairs:
            label = f"{row['label']}{', common' if row['crn'] else ''}"
            colour = COLOURS[[name for name, _ in PAIRINGS].index(row["label"])]
            style = {"linestyle": "-", "marker": "o"} if row["crn"] else {"linestyle": "--"}
            draw_curve(left, runs.budget_at_marks(row), row["curve"], label, color=colour,
                       **{"marker": "", **style})  # fmt: skip
        title = "Pairs of policies (common: random numbers shared)"
        left.set(xlabel="votes (answers read: twice as many)", ylabel="value", title=title)
        put_legend_below(left)
        for crn in (False, True):
            rows = [row for row in radii if row["crn"] == crn]
            name = "common random numbers" if crn else "own numbers"
            draw_points(right, [row["mu"] for row in rows], rows, name, fmt="o-" if crn else "s--")
        set_log_ticks(right, RADII)
        right.set(xlabel="radius μ, |v| = √d", ylabel="value at the end", title="Radius")
        put_legend_below(right)
    study.end()
    return {"pairs": pairs, "radius": radii}
