"""`szpo bench active`: chosen questions against random ones, and estimates of entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from szpo_simulators.bench.active import designs
from szpo_simulators.study import (
    Study,
    bench,
    draw_points,
    format_interval,
    interval,
    put_legend_below,
    seed_range,
)

RULES = ("random", "bald", "entropy", "laplace")
SIZES = ((2, 15, 1, 1000, 50), (8, 60, 4, 1000, 50), (32, 240, 8, 1000, 20))
"""Dimensions, questions, questions at a time, pool, seeds."""
TIMES = (0.0, 1.0, 2.0, 4.0, 6.0, 12.0)
"""ε·L at which the drift of the entropy estimate is looked at."""


def compare_designs(study: Study) -> list[dict[str, Any]]:
    """Entropy and cosine by rule and dimension, and the differences to random, paired by seed."""
    sizes = SIZES[:2] if study.quick else SIZES
    specs = [
        {"dim": d, "questions": q, "batch": b, "pool": size, "rule": rule,
         "seeds": seed_range(8 if study.quick else count)}
        for d, q, b, size, count in sizes
        for rule in RULES
    ]  # fmt: skip
    found = study.cells("questions", specs, designs.run_design)
    by_rule = {(row["dim"], row["rule"]): row for row in found}
    rows = []
    for row in found:
        measure = "exact" if row["dim"] == 2 else "entropy"
        rest = by_rule[row["dim"], "random"]
        less = [a - b for a, b in zip(rest[measure], row[measure], strict=True)]
        rows.append(
            {
                "dim": row["dim"], "questions": row["questions"], "batch": row["batch"],
                "rule": row["rule"], "seeds": len(row["seeds"]),
                **_name_interval("entropy", row[measure]), **_name_interval("less", less),
                **_name_interval("cosine", row["cosine"]),
                "seconds": float(np.median(row["seconds"])), "curve": row["curve"],
            }
        )  # fmt: skip
    study.table(
        "chosen against random questions", rows,
        {"d": "dim", "questions": "questions", "at a time": "batch", "rule": "rule",
         "entropy, nats": _interval_of("entropy"), "less than random": _interval_of("less"),
         "cosine": _interval_of("cosine", 3), "seeds": "seeds", "CPU s a choice": "seconds"},
    )  # fmt: skip
    study.csv("designs", rows)
    return rows


def measure_large_pool(study: Study) -> list[dict[str, Any]]:
    """Time and memory of a choice from a large pool."""
    specs = [
        {"dim": d, "pool": 5_000 if study.quick else 50_000, "batch": m, "rule": rule}
        for d, m, rule in ((2, 10, "bald"), (32, 1, "bald"), (32, 10, "bald"), (32, 10, "entropy"))
    ]
    rows = study.cells("large pool", specs, designs.time_large_pool)
    study.table(
        "a choice from a large pool", rows,
        {"d": "dim", "pairs": "pool", "M": "batch", "rule": "rule",
         "particles, CPU s": "particles_s", "choice, CPU s": "select_s",
         "peak, MiB": "peak_mib", "nats": "gain", "certain": "certain"},
    )  # fmt: skip
    study.csv("pool", rows)
    return rows


def compare_estimates(study: Study) -> list[dict[str, Any]]:
    """Entropy estimates of draws from N(0, I), and the drift of the one along SVGD."""
    specs = [{"dim": d, "count": 2000, "seeds": seed_range(20)} for d in (2, 8)]
    draws = study.cells("entropy of draws", specs, designs.estimate_entropies)
    rows = []
    for row in draws:
        true = 0.5 * row["dim"] * math.log(2 * math.pi * math.e)
        for name in ("nearest", "gaussian"):
            worst = float(np.abs(np.array(row[name]) - true).max())
            rows.append({"dim": row["dim"], "estimate": name, "true": true, "worst": worst,
                         **interval(row[name])})  # fmt: skip
    study.table("entropy of 2,000 draws of N(0, I), 20 times", rows,
                {"d": "dim", "estimate": "estimate", "true": "true",
                 "mean": lambda r: format_interval(r, 3), "largest error": "worst"})  # fmt: skip
    study.csv("estimates", rows)
    few = 2 if study.quick else 5
    paths = study.cells(
        "drift",
        [{"dim": d, "sd": sd, "count": 200, "epsilon": 0.1,
          "times": list(TIMES), "seeds": seed_range(few)}
         for d, sd in ((2, 1.0), (2, 1.5), (8, 1.0), (32, 1.0))],
        designs.measure_drift,
    )  # fmt: skip
    drift = [
        {"dim": row["dim"], "sd": row["sd"], "time": time,
         **{name: float(np.mean([line[i] for line in row[name]]))
            for name in ("stein", "nearest", "gaussian", "trace", "moved", "discrepancy")}}
        for row in paths
        for i, time in enumerate(TIMES)
    ]  # fmt: skip
    study.table(
        "errors of entropy estimates along SVGD to N(0, I), 200 particles, nats", drift,
        {"d": "dim", "start sd": "sd", "ε·L": "time", "change of variables": "stein",
         "nearest": "nearest", "Gaussian": "gaussian", "variance": "trace", "moved": "moved",
         "KSD": "discrepancy"},
    )  # fmt: skip
    study.csv("drift", drift)
    return drift


@bench("active")
def main(study: Study) -> dict[str, Any]:
    """Questions chosen by information against random ones; estimates of entropy."""
    found = {
        "designs": compare_designs(study),
        "pool": measure_large_pool(study),
        "drift": compare_estimates(study),
    }
    _draw(study, found)
    study.end()
    return found


def _draw(study: Study, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    with study.figure("active", columns=2, height=3.9) as (left, right):
        for row in found["designs"]:
            if row["dim"] == 2:
                lines = np.array(row["curve"])
                bands = [interval(values) for values in lines.T.tolist()]
                draw_points(left, range(1, len(bands) + 1), bands, row["rule"], fmt="o-", ms=3)
        left.set(xlabel="questions", ylabel="entropy (Laplace), nats", title="Two dimensions")
        put_legend_below(left)
        for d, sd in ((2, 1.0), (2, 1.5), (8, 1.0), (32, 1.0)):
            some = [r for r in found["drift"] if (r["dim"], r["sd"]) == (d, sd)]
            right.plot([r["time"] for r in some], [r["stein"] for r in some],
                        label=f"d = {d}, start sd {sd:g}")  # fmt: skip
        right.set(xlabel="ε·L", ylabel="error, nats", title="Change-of-variables entropy",
                   xlim=(0, 12), ylim=(-1, 1))  # fmt: skip
        put_legend_below(right)


def _name_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in interval(values).items() if key != "n"}


def _interval_of(name: str, digits: int = 2) -> Any:
    return lambda row: format_interval(
        {k: row[f"{name}_{k}"] for k in ("mean", "low", "high")}, digits
    )
