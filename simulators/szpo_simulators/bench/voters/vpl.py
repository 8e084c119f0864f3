"""`szpo bench vpl`: two users with different tastes, with a latent for each and without."""

from __future__ import annotations

from typing import Any, Final

from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_points,
    format_interval,
    interval,
    seed_range,
)
from szpo_simulators.vpl import data, sets
from szpo_simulators.vpl.fit import Recipe, fit, latent, scores
from szpo_simulators.vpl.model import KINDS

SIZES: Final = {"two-users": (4000, 10), "pets": (2000, 8), "two-attributes": (2000, 12)}
"""Training pairs and epochs."""
TESTED: Final = 4000
CONTEXTS: Final = (1, 2, 4, 8)
COLLAPSED: Final = 10.0
"""A weight of the KL term at which no unit is worth its price."""


def work(spec: Spec) -> dict[str, Any]:
    """Accuracy on new pairs of one model trained on one set, and how it uses its latent."""
    train, test = make_pairs(spec["set"], spec["n"], spec["seed"])
    recipe = Recipe(kind=spec["model"], epochs=spec["epochs"], beta=spec["beta"])
    fitted = fit(train, recipe, spec["seed"])
    whole = scores(fitted, test)
    found: dict[str, Any] = {
        "all": whole.everything.value,
        "controversial": whole.controversial.value,
        "pairs": len(test),
        "controversial_pairs": int(whole.controversial.of),
    }
    if recipe.kind == "vae":
        used = latent(fitted, test)
        found |= {
            "active": used.active, "units": used.units, "kl": used.kl,
            "collapsed": used.collapsed, "ignored": used.ignored,
            **{
                f"context_{size}": scores(fitted, test, size=size).controversial.value
                for size in CONTEXTS
            },
        }  # fmt: skip
    return found


def make_pairs(name: str, n: int, seed: int) -> tuple[data.Pairs, data.Pairs]:
    """A set's training pairs, and `TESTED` new ones."""
    if name == "two-users":
        return sets.two_users(n, seed), sets.two_users(TESTED, seed, "test")
    made = sets.SETS[name]
    return data.pairs(made(n, seed, "train")), data.pairs(made(TESTED, seed, "test"))


@bench("vpl")
def main(study: Study) -> dict[str, Any]:
    """Three sets with two users each: a latent per user, three models without, and a collapse."""
    repetitions = seed_range(1 if study.quick else 5)
    chosen = {"two-users": SIZES["two-users"]} if study.quick else SIZES

    def cell(name: str, model: str, seed: int, beta: float) -> dict[str, Any]:
        n, epochs = chosen[name]
        return {"set": name, "model": model, "n": n, "epochs": epochs, "beta": beta, "seed": seed}

    specs = [
        cell(name, model, seed, Recipe().beta)
        for name in chosen
        for model in KINDS
        for seed in repetitions
    ]
    specs += [cell("two-users", "vae", seed, COLLAPSED) for seed in repetitions]
    found = study.cells("fits", specs, work)
    rows = [_row(found, name, model, Recipe().beta) for name in chosen for model in KINDS]
    rows.append(_row(found, "two-users", "vae", COLLAPSED))
    spread = len(repetitions) > 1

    def column(name: str) -> Any:
        def text(row: dict[str, Any]) -> str:
            return format_interval(row[name], 3) if spread else f"{row[name]['mean']:.3f}"

        return text

    study.table(
        f"right of {TESTED} new pairs, {len(repetitions)} seeds; without users at most .75, .50",
        rows,
        {
            "set": "set", "model": "model", "KL weight": "beta", "all": column("all"),
            "controversial": column("controversial"), "lowest": "lowest", "highest": "highest",
        },
    )  # fmt: skip
    latents = [row for row in rows if row["model"] == "vae"]
    study.table(
        "the latent: controversial pairs, by pairs of the user that are given",
        latents,
        {
            "set": "set", "KL weight": "beta",
            **{f"{size}": column(f"context_{size}") for size in CONTEXTS},
            "active of 8": column("active"), "KL, nats": column("kl"), "collapsed": "collapsed",
        },
    )  # fmt: skip
    study.csv("vpl", found)
    with study.figure("vpl", columns=1, height=3.4) as axes:
        names = list(chosen)
        for j, model in enumerate(KINDS):
            own = [row for row in rows[:-1] if row["model"] == model]
            places = [names.index(row["set"]) + 0.14 * (j - 1.5) for row in own]
            draw_points(axes, places, [row["controversial"] for row in own], model, fmt="osD^"[j])
        axes.axhline(0.5, color="#888888", linewidth=0.8)
        axes.set_xticks(range(len(names)), names)
        axes.set(ylabel="controversial pairs right", ylim=(0.4, 1.02))
        axes.legend(fontsize=8, loc="center right")
    study.end()
    return {"vpl": found}


def _row(found: list[dict[str, Any]], name: str, model: str, beta: float) -> dict[str, Any]:
    own = [r for r in found if (r["set"], r["model"], r["beta"]) == (name, model, beta)]
    figures = [key for key in own[0] if key.startswith(("context_", "active", "kl"))]
    values = [r["controversial"] for r in own]
    return {
        "set": name, "model": model, "beta": beta, "lowest": min(values), "highest": max(values),
        "collapsed": sum(bool(r.get("collapsed")) for r in own),
        **{key: _interval([r[key] for r in own]) for key in ("all", "controversial", *figures)},
    }  # fmt: skip


def _interval(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        return {"mean": values[0], "low": values[0], "high": values[0], "n": 1}
    return interval(values)
