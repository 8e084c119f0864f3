"""`szpo bench links`: does it matter that the inverted link is not the panel's?"""

from __future__ import annotations

from typing import Any

from szpo_simulators.bench.known_worlds import runs
from szpo_simulators.bench.known_worlds.runs import make_spec
from szpo_simulators.study import Study, bench, draw_points, format_interval
from szpo_simulators.worlds.oracle import ONE_SIDED

PANELS = (
    ("logistic", "logistic", 1.0, "logistic"),
    ("steep logistic (β = 5)", "logistic", 5.0, "logistic"),
    ("probit", "probit", 1.0, "probit"),
    ("Cauchy", "cauchit", 1.0, "cauchit"),
    ("linear, ±4", "linear:4", 1.0, "linear:4"),
    ("cloglog, both sides", "cloglog", 1.0, "cloglog"),
    ("cloglog, one side", ONE_SIDED, 1.0, "cloglog"),
)
"""Label, the panel's link and β, the matching link to invert (β is a matter of α)."""
WAYS = (
    ("known, logistic assumed", {"rule": "known"}, False),
    ("known, true link", {"rule": "known"}, True),
    ("margin", {"rule": "margin"}, False),
    ("sign", {"rule": "sign"}, False),
)
SHAPES = ((16, 1, 1), (4, 16, 1), (2, 1, 8))
"""(N, M, D): one vote a pair; many votes a pair; few votes on batches of eight."""


def differs_from_known(way: str, voters: int, fitting: str) -> bool:
    """Whether a way differs from `known` with the logistic inverse under this panel.

    From one vote a comparison every inverse, and the margin, give ± the same number.
    """
    if way == "margin":
        return voters > 1
    if way == "known, true link":
        return voters > 1 and fitting != "logistic"
    return True


@bench("links")
def main(study: Study) -> dict[str, Any]:
    """Right and wrong links, and rules that need none, under seven panels on the default grid."""
    shapes = SHAPES[:1] if study.quick else SHAPES
    found = [
        row
        for N, M, D in shapes
        for row in runs.tune(
            study,
            f"N = {N}, M = {M}, D = {D}",
            [
                make_spec(label=name, part=way, panel=panel, beta=beta, N=N, M=M, D=D,
                     link=fitting if matched else "logistic", **how)
                for name, panel, beta, fitting in PANELS
                for way, how, matched in WAYS
                if differs_from_known(way, M, fitting)
            ],
        )
    ]  # fmt: skip
    for N, M, D in shapes:
        rows = [row for row in found if (row["N"], row["M"], row["D"]) == (N, M, D)]
        lines = [
            {
                "panel": name,
                **{row["part"]: format_interval(row) for row in rows if row["label"] == name},
            }
            for name, *_ in PANELS
        ]
        title = f"N = {N}, M = {M}, D = {D}: {rows[0]['votes']} votes, {rows[0]['answers']} read"
        study.table(title, lines, {"panel": "panel", **{way: way for way, *_ in WAYS}})
    study.csv("links", found)
    with study.figure("links", columns=len(shapes), height=3.9) as drawn:
        axes = [drawn] if len(shapes) == 1 else list(drawn)
        for (N, M, D), here in zip(shapes, axes, strict=True):
            for j, (way, *_) in enumerate(WAYS):
                rows = [
                    row for row in found
                    if (row["N"], row["M"], row["D"], row["part"]) == (N, M, D, way)
                ]  # fmt: skip
                names = [name for name, *_ in PANELS]
                places = [names.index(row["label"]) + 0.16 * (j - 1.5) for row in rows]
                draw_points(here, places, rows, way, fmt="osD^"[j])
            here.set_xticks(range(len(PANELS)), names, rotation=35, ha="right", fontsize=8)
            reading = f"{rows[0]['votes']} votes, {rows[0]['answers']} read"
            here.set(ylabel="value at the end", title=f"N = {N}, M = {M}, D = {D}: {reading}")
        axes[-1].legend(fontsize=8, loc="upper right")
    study.end()
    return {"links": found}
