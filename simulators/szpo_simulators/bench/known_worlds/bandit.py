"""`szpo bench bandit`: votes on single walks favour the arm that wins more often, not the better.

The risky arm pays 4 with probability .3, the safe one 1: better by .2 on average, and the loser of
seven comparisons in ten. The size of the batches that are compared decides which arm is learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from szpo.aggregation.estimators import inversion, moments
from szpo_simulators.bench.known_worlds import runs
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_curve,
    interval,
    put_legend_below,
    seed_range,
)
from szpo_simulators.worlds.bandit import Bandit
from szpo_simulators.worlds.oracle import LinkPanel

WAYS = (
    *(("known", M, 1) for M in (1, 5, 20, 100)),
    ("known", 1, 2), ("known", 1, 8),
    ("sign", 1, 1), ("sign", 100, 1), ("sign", 1, 8),
    ("margin", 1, 1), ("margin", 1, 8),
)  # fmt: skip
"""Rule, M, D."""
PANELS = (("logistic", 1.0), ("logistic", 5.0))
ALPHA = {"known": 0.3, "sign": 0.06, "margin": 0.165}
"""Fixed, not tuned: the limit of a run is measured, not its speed. At M = 1 `margin` is then the
rule `known` with its Δ̂ = ± log 3 (0.165 ≈ 0.3 · log 3 / 2)."""


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
    """`runs.work` with P(risky) in place of the value."""
    found = runs.work(spec)
    world = runs.make_world(spec)
    safe, risky = world.value(np.array([[-60.0], [60.0]])).tolist()
    shares = ((np.array(found["values"]) - safe) / (risky - safe)).tolist()
    points = [
        {k: v if k == "n" else (v - safe) / (risky - safe) for k, v in point.items()}
        for point in found["curve"]
    ]
    return {**found, "values": shares, "curve": points}


@bench("bandit")
def main(study: Study) -> dict[str, Any]:
    """The risky arm is better on average and loses most comparisons: which arm is learned?"""
    used = seed_range(20 if study.quick else 200)
    steps = 400 if study.quick else 800
    specs = [
        runs.make_spec(world="bandit", rule=rule, N=32, M=M, D=D, alpha=ALPHA[rule], steps=steps,
                  panel=panel, beta=beta, seeds=used)
        for panel, beta in PANELS
        for rule, M, D in WAYS
    ]  # fmt: skip
    rows = [{**row, **interval(row["values"])} for row in study.cells("runs", specs, work)]
    theory = [
        {
            "beta": beta,
            **{f"lean, D = {D}": mean_vote_margin(beta, D) for D in (1, 2, 8)},
            **{f"Δ̂, M = {M}": mean_estimate(beta, M) for M in (1, 5, 10, 20, 50)},
        }
        for _, beta in PANELS
    ]
    for beta in (1.0, 5.0):
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
                    draw_curve(here, runs.budget_at_marks(row, budget), row["curve"], label)
            here.set(xscale="log", xlabel="votes" if budget == "votes" else "answers read")
            here.set(ylim=(-0.03, 1.03), ylabel="P(risky), best is 1")
            here.set(title=f"logistic panel, β = {beta:g}")
        put_legend_below(axes[1], 3)
    study.end()
    return {"runs": rows, "exact": theory}
