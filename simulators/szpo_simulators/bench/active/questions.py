"""`szpo bench active`: chosen questions against random ones, and estimates of entropy."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from szpo.active import acquisition, entropy, svgd
from szpo.active.posterior import BradleyTerry
from szpo.seeds import derive, uniform
from szpo.types import Floats
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_points,
    format_interval,
    interval,
    put_legend_below,
    seed_range,
)

TAU = 2.0
"""Standard deviation of each true weight and of the prior."""
PARTICLES, STEPS = 100, 10


def draw_normal(seed: int, name: str, *shape: int) -> Floats:
    """Standard normal numbers of a bench's seed."""
    return svgd.normals(derive(seed, "bench active", name=name), shape)


def run_design(spec: Spec) -> dict[str, Any]:
    """One person answers ``questions`` of a pool, ``batch`` at a time; the posterior by seed.

    True weights N(0, τ²I), δ of the pool N(0, 4·2/d I), so that questions are equally hard in any
    dimension. ``entropy`` is that of the Laplace approximation; in two dimensions ``exact`` is
    by quadrature, and ``particles`` the three estimates from the last particles.
    """
    rows: dict[str, list[Any]] = {"entropy": [], "cosine": [], "curve": [], "seconds": []}
    for seed in spec["seeds"]:
        start = time.process_time()
        curve, target, truth = _answer(spec, seed)
        mode, covariance = target.laplace()
        rows["seconds"].append((time.process_time() - start) / len(curve))
        rows["curve"].append(curve)
        rows["entropy"].append(entropy.gaussian_of(covariance))
        norms = float(np.linalg.norm(mode) * np.linalg.norm(truth))
        rows["cosine"].append(float(mode @ truth) / norms)
        if target.dim == 2:
            rows.setdefault("exact", []).append(entropy_by_quadrature(target))
            cloud = svgd.spread(target, key=derive(seed, "bench active end"), steps=STEPS)[-1]
            found = (cloud.entropy, entropy.nearest(cloud.x), entropy.gaussian(cloud.x))
            rows.setdefault("particles", []).append(found)
    return rows


def _answer(spec: Spec, seed: int) -> tuple[list[float], BradleyTerry, Floats]:
    d, rule, size = spec["dim"], spec["rule"], spec["pool"]
    truth = TAU * draw_normal(seed, "truth", d)
    pool = 2 * math.sqrt(2 / d) * draw_normal(seed, "pool", size, d)
    u = uniform(derive(seed, "bench active coins"), spec["questions"])
    free = np.ones(size, dtype=np.bool_)
    target, curve = BradleyTerry.prior(d, TAU), []
    for done in range(0, spec["questions"], spec["batch"]):
        key = derive(seed, "bench active choice", step=done)
        if rule == "random":
            chosen = np.arange(done, done + spec["batch"])  # the pool is in random order
        else:
            cloud = _cloud(target, rule, key)
            by: acquisition.By = "entropy" if rule == "entropy" else "bald"
            among = acquisition.Candidates(pool, allowed=free)
            chosen = acquisition.select(cloud, among, spec["batch"], key=key, rule=by).index
        free[chosen] = False
        won = u[done : done + len(chosen)] < special.expit(pool[chosen] @ truth)
        target = target.with_answers(pool[chosen] * np.where(won, 1.0, -1.0)[:, None])
        curve.append(entropy.gaussian_of(target.laplace()[1]))
    return curve, target, truth


def _cloud(target: BradleyTerry, rule: str, key: bytes) -> Floats:
    if rule == "laplace":  # the same choice without Stein steps
        return svgd.whiten(target).x(svgd.normals(key, (PARTICLES, target.dim)))
    return svgd.spread(target, key=key, count=PARTICLES, steps=STEPS)[-1].x


def entropy_by_quadrature(target: BradleyTerry, size: int = 401) -> float:
    """Entropy of a posterior over two weights, on a grid of ± 8 Laplace standard deviations."""
    view = svgd.whiten(target)
    axis = np.linspace(-8, 8, size)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    log = view.log_density(grid)
    log -= special.logsumexp(log)
    cell = math.log((axis[1] - axis[0]) ** 2) + math.log(np.prod(np.diag(view.root)))
    return float(-(np.exp(log) * log).sum() + cell)


def time_large_pool(spec: Spec) -> dict[str, Any]:
    """CPU seconds and peak memory of choosing from a pool of many questions."""
    d, size = spec["dim"], spec["pool"]
    truth = TAU * draw_normal(1, "truth", d)
    pool = 2 * math.sqrt(2 / d) * draw_normal(1, "large", size, d)
    seen = pool[:60]
    target = BradleyTerry(seen * np.sign(seen @ truth)[:, None], np.ones(len(seen)), TAU)
    key = derive(1, "bench active large")
    start = time.process_time()
    cloud = svgd.spread(target, key=key, count=PARTICLES, steps=STEPS)[-1].x
    spread = time.process_time() - start
    start = time.process_time()
    among = acquisition.Candidates(pool)
    batch = acquisition.select(cloud, among, spec["batch"], key=key, rule=spec["rule"])
    chosen = time.process_time() - start
    tracemalloc.start()
    acquisition.select(cloud, among, spec["batch"], key=key, rule=spec["rule"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "particles_s": spread,
        "select_s": chosen,
        "peak_mib": peak / 2**20,
        "gain": float(batch.gain.sum()),
        "certain": batch.certain,
    }


def estimate_entropies(spec: Spec) -> dict[str, Any]:
    """Nearest-neighbour and Gaussian entropy of draws of N(0, I), true value ½d log 2πe."""
    draws = [draw_normal(seed, "draws", spec["count"], spec["dim"]) for seed in spec["seeds"]]
    return {
        "nearest": [entropy.nearest(x) for x in draws],
        "gaussian": [entropy.gaussian(x) for x in draws],
    }


class _Gaussian:
    """N(0, I)."""

    def __init__(self, dim: int):
        self.dim = dim

    def log_density(self, w: Floats) -> Floats:
        return np.asarray(-0.5 * (w * w).sum(1))

    def score(self, w: Floats) -> Floats:
        return -w


def measure_drift(spec: Spec) -> dict[str, Any]:
    """The change-of-variables entropy less the true one along SVGD's path to N(0, I).

    Particles start from N(0, sd² I); by time ε·L (``times``), with the errors of the other two
    estimates and the covariance's trace over d beside.
    """
    d, epsilon = spec["dim"], spec["epsilon"]
    target, true = _Gaussian(d), 0.5 * d * math.log(2 * math.pi * math.e)
    rows: dict[str, list[list[float]]] = {
        "stein": [], "nearest": [], "gaussian": [], "trace": [], "moved": [], "discrepancy": [],
    }  # fmt: skip
    for seed in spec["seeds"]:
        here = svgd.Sampler(np.zeros(d), np.full(d, spec["sd"])).draw(
            spec["count"], derive(seed, "bench active drift")
        )
        lines: dict[str, list[float]] = {name: [] for name in rows}
        for until in spec["times"]:
            steps = round(until / epsilon) - here.steps
            if steps:
                here = svgd.run(target, here, steps=steps, epsilon=epsilon)[-1]
            fit = svgd.convergence(target, here.x)
            lines["stein"].append(here.entropy - true)
            lines["nearest"].append(entropy.nearest(here.x) - true)
            lines["gaussian"].append(entropy.gaussian(here.x) - true)
            lines["trace"].append(float(here.x.var(0).mean()))
            lines["moved"].append(fit.moved)
            lines["discrepancy"].append(fit.discrepancy)
        for name, line in lines.items():
            rows[name].append(line)
    return rows


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
    found = study.cells("questions", specs, run_design)
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
    rows = study.cells("large pool", specs, time_large_pool)
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
    draws = study.cells("entropy of draws", specs, estimate_entropies)
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
        measure_drift,
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
