"""`szpo bench linkcheck`: size and power of the test that the logistic link fits, by triads.

Panels whose votes follow other links, scaled to the logistic slope at 0, panels that lapse and
panels of uneven sharpness, at 200, 400 and 1,000 votes. The logistic rows show the test's size at
5 %, all others its power. Distances are those of the outer two batches of a triad.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from szpo.aggregation import link_test
from szpo.aggregation.links import link
from szpo.intervals import wilson
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.study import (
    REPORTED,
    Spec,
    Study,
    bench,
    make_generator,
    put_legend_below,
    set_log_ticks,
)

VOTES: Final = (200, 400, 1000)
EDGE: Final = (5, 20)
"""Votes on each comparison."""
FAR: Final = (1.0, 2.0, 3.0, 4.0)
"""Difference of the outer two batches, in logits."""
PANELS: Final = ("logistic", "probit", "cauchit", "linear", "lapse .2", "uneven")
UNEVEN: Final = 0.7
"""Spread of log β among voters, each vote by another."""


def vote_probability(panel: str, x: Floats, rng: np.random.Generator) -> Floats:
    """P(first) of single votes at differences x (…, votes), slope ¼ at 0."""
    if panel == "lapse .2":
        return np.asarray(0.1 + 0.8 * link("logistic").prob(x / 0.8))
    if panel == "uneven":
        beta = np.exp(UNEVEN * rng.normal(size=x.shape))
        return link("logistic").prob(x * beta / np.exp(UNEVEN**2 / 2))
    chosen = link(panel)
    return chosen.prob(x / (4 * chosen.slope0))


def measure_power(spec: Spec) -> dict[str, Any]:
    """Share of repetitions in which the test rejects at 5 %, with Wilson's interval.

    The middle batch lies halfway, give or take: x_ab, x_bc = ± far/2 + N(0, (.3 far)²).
    """
    name = f"{spec['panel']} {spec['far']}"
    rng = make_generator(derive(spec["seed"], "triads", k=spec["votes"], name=name))
    edge, far = spec["edge"], spec["far"]
    triads = max(spec["votes"] // (3 * edge), 1)
    reps = spec["repetitions"]
    half = rng.choice([-far / 2, far / 2], size=(reps, triads, 1))
    inner = half + 0.3 * far * rng.normal(size=(reps, triads, 2))
    x = np.concatenate([inner, inner.sum(-1, keepdims=True)], axis=-1)
    each = np.broadcast_to(x[..., None], (*x.shape, edge))
    won = (rng.random(each.shape) < vote_probability(spec["panel"], each, rng)).sum(-1) * 1.0
    found = link_test.curvature(won, np.full(won.shape, float(edge)))
    hits = int((found.p < link_test.LEVEL).sum())
    low, high = wilson(hits, reps)
    informative = found.information > 0
    scale = np.where(informative, found.information, 1.0)
    estimate = np.where(informative, found.score / scale, 0.0)
    return {"mean": hits / reps, "low": low, "high": high, "n": reps, "triads": triads,
            "curvature": float(np.median(estimate))}  # fmt: skip


def _format_share(row: dict[str, Any]) -> str:
    """The share; empty where there are fewer triads than the test asks for."""
    return "" if row["triads"] < link_test.LEAST else f"{row['mean']:.1%}"


@bench("linkcheck")
def main(study: Study) -> dict[str, Any]:
    """How often triads find that the logistic link does not fit: size and power by votes."""
    specs = [
        {"panel": panel, "far": far, "edge": edge, "votes": votes,
         "repetitions": 200 if study.quick else 1000, "seed": REPORTED}
        for panel in PANELS for far in FAR for edge in EDGE for votes in VOTES
    ]  # fmt: skip
    found = study.cells("triads", specs, measure_power)
    by = {(r["panel"], r["far"], r["edge"], r["votes"]): r for r in found}
    rows = [
        {"panel": panel, "far": far, "edge": edge}
        | {f"{votes}": _format_share(by[panel, far, edge, votes]) for votes in VOTES}
        | {"curvature": by[panel, far, edge, VOTES[-1]]["curvature"]}
        for panel in PANELS for edge in EDGE for far in FAR
    ]  # fmt: skip
    study.table(
        "rejected at 5 % (logistic: the size), by votes; γ found with the most votes", rows,
        {"panel": "panel", "votes on a comparison": "edge", "outer difference": "far"}
        | {f"{votes} votes": f"{votes}" for votes in VOTES}
        | {"γ, median": lambda r: f"{r['curvature']:+.3f}"},
    )  # fmt: skip
    sizes = [r["mean"] for r in found if r["panel"] == "logistic" and _format_share(r)]
    study.console.print(f"size over {len(sizes)} settings: {min(sizes):.1%} to {max(sizes):.1%}")
    study.csv("linkcheck", found)
    with study.figure("linkcheck", columns=2, height=3.9) as axes:
        for axis, far in zip(axes, (2.0, 4.0), strict=True):
            for panel in PANELS:
                row = [by[panel, far, EDGE[-1], votes] for votes in VOTES]
                axis.plot(
                    VOTES, [r["mean"] if _format_share(r) else np.nan for r in row], label=panel
                )
            axis.axhline(link_test.LEVEL, color="#888888", lw=0.8, ls=":")
            set_log_ticks(axis, VOTES)
            axis.set(xlabel="votes", ylabel="rejected at 5 %", ylim=(0, 1),
                     title=f"Outer difference {far:g} logits")  # fmt: skip
            put_legend_below(axis, 3)
    study.end()
    return {"rows": found}
