"""`szpo bench estimators`: the bias of an inverted vote count, and whether it matters."""

from __future__ import annotations

from typing import Any

import numpy as np

from szpo.aggregation.estimators import inversion, moments
from szpo.aggregation.links import LINKS
from szpo.types import Floats
from szpo_simulators.bench.known_worlds import runs
from szpo_simulators.bench.known_worlds.runs import make_spec
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_points,
    format_interval,
    put_legend_below,
)

NAMES = ("clip", "trim", "haldane", "laplace", "second", "posterior", "score")
TRIM = 16.0
"""The bound on a value difference that the published trimming needs, as in its setting."""
VOTERS = (1, 2, 3, 5, 10, 20, 50, 100)
DIFFERENCES = (0.25, 0.5, 1.0, 2.0, 3.0)
SIDE_BIASES = (0.25, 0.5, 1.0, 2.0)


def exact_error(spec: Spec) -> dict[str, Any]:
    """Bias and root mean square error of Δ̂ for M voters at a true difference x: exact sums."""
    rate = LINKS["logistic"].prob(spec["x"])
    mean, sd = moments(rate, spec["M"], inversion(spec["smoothing"], trim=TRIM))
    bias = float(mean) - spec["x"]
    return {"bias": bias, "rmse": float(np.hypot(bias, sd))}


def slope_at_zero(smoothing: str, voters: int) -> float:
    """dE[Δ̂]/dx at x = 0, exact: the factor by which an estimator scales a small gradient.

    With k ~ Binomial(M, σ(x)) and σ'(0) = ¼ the score of k at 0 is k − M/2, so the slope is
    E[Δ̂·(k − M/2)] at rate ½.
    """
    k = np.arange(voters + 1, dtype=np.float64)
    from scipy.stats import binom

    values = inversion(smoothing, trim=TRIM)(k, np.full_like(k, voters))
    return float((binom.pmf(k, voters, 0.5) * values * (k - voters / 2)).sum())


def side_slope(bias: float) -> float:
    """Factor on a small signal under a side bias of ``bias`` logits: 4σ(b)(1 − σ(b)).

    With sides balanced P(plus) = ½[σ(x + b) + σ(x − b)], whose slope at 0 is σ'(b).
    """
    rate = LINKS["logistic"].prob(bias)
    return float(4 * rate * (1 - rate))


@bench("estimators")
def main(study: Study) -> dict[str, Any]:
    """Exact bias of the estimators of Δ̂, and their runs on the default grid."""
    specs = [{"smoothing": s, "M": M, "x": x} for M in VOTERS for x in DIFFERENCES for s in NAMES]
    table = study.cells("exact", specs, exact_error)
    slopes = [{"smoothing": s, **{f"M = {M}": slope_at_zero(s, M) for M in VOTERS}} for s in NAMES]
    shapes = ((16, 5),) if study.quick else ((16, 5), (4, 20))
    trained = runs.tune(
        study,
        "runs",
        [
            make_spec(N=N, M=M, smoothing=s, trim=TRIM)
            for N, M in shapes
            for s in (*NAMES, "pooled")
        ],
    )
    chosen = [(1, 0.5), (3, 1.0), (5, 1.0), (10, 1.0), (20, 2.0), (50, 2.0), (100, 2.0)]
    lines = [
        {"M": M, "x": x, **{r["smoothing"]: f"{r['bias']:+.3f} / {r['rmse']:.2f}"
                            for r in table if (r["M"], r["x"]) == (M, x)}}
        for M, x in chosen
    ]  # fmt: skip
    study.table("exact bias / root mean square error, logistic link", lines,
                {"M": "M", "x": "x", **{s: s for s in NAMES}})  # fmt: skip
    heads = {f"M = {M}": f"M = {M}" for M in VOTERS}
    study.table("slope at 0", slopes, {"smoothing": "smoothing", **heads})
    study.table(
        "sides balanced, a side bias of b logits",
        [{"b": b, "slope": side_slope(b)} for b in SIDE_BIASES],
        {"b": "b", "slope left": "slope"},
    )
    columns = {"N": "N", "M": "M", "smoothing": "smoothing", "V": format_interval,
               "α": runs.format_alpha, "votes": "votes", "answers read": "answers"}  # fmt: skip
    study.table("runs on the default grid", trained, columns)
    study.csv("exact", table)
    study.csv("slopes", slopes)
    study.csv("runs", trained)
    with study.figure("estimators", columns=2, height=3.9) as (left, right):
        x = np.linspace(0, 3, 61)
        for name in ("clip", "haldane", "laplace", "second", "score"):
            left.plot(x, bias_at(name, 10, x), label=name, markevery=10)
        left.axhline(0, color="#888888", lw=0.8)
        left.set(
            xlabel="true difference x (logits)",
            ylabel="exact bias of Δ̂",
            title="Bias of an estimate from M = 10 votes",
        )
        put_legend_below(left, 3)
        for j, (N, M) in enumerate(shapes):
            rows = [row for row in trained if (row["N"], row["M"]) == (N, M)]
            names = [*NAMES, "pooled"]
            places = [names.index(row["smoothing"]) + 0.2 * (j - 1) for row in rows]
            draw_points(right, places, rows, f"N = {N}, M = {M}", fmt="os^"[j])
        right.set_xticks(range(len(names)), names, rotation=35, ha="right")
        right.set(ylabel="value at the end", title="The same estimators in runs")
        put_legend_below(right, 3)
    study.end()
    return {"exact": table, "slopes": slopes, "runs": trained}


def bias_at(name: str, voters: int, x: Floats) -> Floats:
    """Exact bias over an array of true differences."""
    mean, _ = moments(LINKS["logistic"].prob(x), voters, inversion(name, trim=TRIM))
    return np.asarray(mean - x)
