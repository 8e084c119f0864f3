"""Cells of `szpo bench active` about questions: information of chosen and random ones."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import numpy as np
from scipy import special

from szpo.active import acquisition, entropy, svgd
from szpo.active.posterior import BradleyTerry
from szpo.seeds import derive, uniform
from szpo.types import Floats
from szpo_simulators.study import Spec

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
