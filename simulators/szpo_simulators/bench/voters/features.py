"""`szpo bench features`: are weights of named features recovered, and do intervals cover?"""

from __future__ import annotations

from typing import Any

import numpy as np

from szpo import seeds
from szpo.aggregation.bradley_terry import halves, newton
from szpo.intervals import Z
from szpo.types import Floats
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    format_interval,
    interval,
    make_generator,
    seed_range,
)

LARGE = 200_000
"""Votes from which the common weights of a panel of many tastes are taken."""


def work(spec: Spec) -> dict[str, Any]:
    """Cosine with the true weights and coverage, one value per seed.

    n votes of ``panelists`` voters on p standardised features; the panel's weights have norm
    ``norm`` (logits), a voter's scatter around them by ``spread``. ``differ``: "answers" are
    standard (their differences have variance 2), or "pairs" (differences have variance 1).
    Weights are compared in logits per deviation of a difference.
    """
    n, p, groups = int(spec["n"]), int(spec["p"]), int(spec["panelists"])
    wide = 2**0.5 if spec["differ"] == "answers" else 1.0
    worlds = [_world(seed, n, p, groups, spec, wide) for seed in spec["seeds"]]
    w, x, y = (np.stack(part) for part in zip(*worlds, strict=True))
    scale = np.sqrt(np.mean(x**2, axis=-2))
    who = np.arange(n) % groups
    fit = newton(x / scale[:, None], y)
    half, _ = halves(x / scale[:, None], y, who, fit)
    alone = Z * np.sqrt(np.diagonal(np.linalg.inv(fit.information), axis1=-2, axis2=-1))
    truth = w * _shrink(spec, wide) * scale
    off = np.abs(fit.weights - truth)
    size = np.linalg.norm(fit.weights / scale, axis=-1) * np.linalg.norm(w, axis=-1)
    return {
        "cosine": ((fit.weights / scale * w).sum(-1) / size).tolist(),
        "covered": (off <= half).mean(-1).tolist(),
        "covered_by_votes": (off <= alone).mean(-1).tolist(),
        "width": half.mean(-1).tolist(),
    }


def _rng(seed: int, name: str) -> np.random.Generator:
    return make_generator(seeds.derive(seed, "bench features", name=name))


def _world(
    seed: int, n: int, p: int, groups: int, spec: Spec, wide: float
) -> tuple[Floats, Floats, Floats]:
    rng = _rng(seed, "world")
    w = rng.normal(size=p)
    w *= spec["norm"] / np.linalg.norm(w)
    x = wide * rng.normal(size=(n, p))
    own = w + spec["spread"] * rng.normal(size=(groups, p))
    u = (x * own[np.arange(n) % groups]).sum(-1)
    return w, x, (rng.random(n) < 1 / (1 + np.exp(-u))).astype(np.float64)


def _shrink(spec: Spec, wide: float) -> float:
    """By how much the common weights of voters who scatter are shorter than their mean taste.

    By symmetry they are parallel; the factor is fitted once to many votes along one axis.
    """
    if not spec["spread"]:
        return 1.0
    rng, p = _rng(0, "shrink"), int(spec["p"])
    x = wide * rng.normal(size=(LARGE, p))
    u = x[:, 0] * spec["norm"] + spec["spread"] * (x * rng.normal(size=(LARGE, p))).sum(-1)
    y = (rng.random(LARGE) < 1 / (1 + np.exp(-u))).astype(np.float64)
    return float(newton(x, y).weights[0] / spec["norm"])


@bench("features")
def main(study: Study) -> dict[str, Any]:
    """Weights of four standardised features from votes: direction, and coverage of intervals."""
    repetitions = seed_range(50 if study.quick else 1000)
    promised = [
        {"n": n, "p": 4, "norm": 2.0, "panelists": 1, "spread": 0.0, "differ": differ, "seeds": s}
        for n, differ, s in (
            (200, "answers", seed_range(50)), (200, "answers", repetitions),
            (200, "pairs", repetitions), (50, "answers", repetitions),
            (100, "answers", repetitions),
        )
    ]  # fmt: skip
    panels = [
        {"n": n, "p": 4, "norm": 2.0, "panelists": groups, "spread": spread, "differ": "answers",
         "seeds": repetitions}
        for n, groups, spread in (
            (200, 5, 0.0), (200, 20, 0.0), (200, 5, 0.7), (400, 10, 0.7), (400, 20, 0.7),
        )
    ]  # fmt: skip
    found = [
        {**row, "of": len(row["seeds"]), **{
            f"{name}_{part}": value
            for name in ("cosine", "covered", "covered_by_votes", "width")
            for part, value in interval(row[name]).items()
        }}
        for row in study.cells("fits", promised + panels, work)
    ]  # fmt: skip

    def column(name: str) -> Any:
        parts = ("mean", "low", "high")
        return lambda row: format_interval({part: row[f"{name}_{part}"] for part in parts}, 3)

    study.table(
        "4 standardised features, weights of norm 2",
        found,
        {
            "votes": "n", "standard are": "differ", "panelists": "panelists",
            "their spread": "spread", "seeds": "of", "cosine": column("cosine"),
            "covered": column("covered"), "by votes alone": column("covered_by_votes"),
            "half width": column("width"),
        },
    )  # fmt: skip
    study.csv("features", found)
    study.end()
    return {"features": found}
