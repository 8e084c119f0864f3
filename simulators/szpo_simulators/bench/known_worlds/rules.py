"""`szpo bench rules`: sign, margin, inverted link or posterior; momentum; weights of voters.

The efficiency of the sign of a sum of votes is derived in `szpo_simulators.worlds.efficiency`,
checked by simulation here, and then compared in runs of equal votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from szpo.aggregation import weighting
from szpo.seeds import derive
from szpo_simulators.bench.known_worlds import runs
from szpo_simulators.bench.known_worlds.runs import make_spec
from szpo_simulators.study import (
    Spec,
    Study,
    bench,
    draw_curve,
    draw_points,
    format_interval,
    interval,
    make_generator,
    put_legend_below,
    set_log_ticks,
)
from szpo_simulators.worlds import efficiency

VOTES = (1, 2, 3, 4, 12, 64)
"""Votes per direction."""
SPREADS = (0.3, 1.0, 3.0)
"""Standard deviation of the difference between the two policies, in logits."""
PURSE = 2400
"""Votes of a run on the default grid."""
WORLDS: Final = (("dense", 1, 9600, 64), ("courier", 8, 2400, 12), ("bandit", 8, 3200, 16))
"""World, walks a side, votes of a run, and directions a step of `regression` (a vote each)."""
OF_A_DIRECTION: Final = {"known": 4, "sign": 4, "bayes": 12}
"""Votes per direction of the other rules there, one direction a step."""
MEMORIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("none", {}),
    ("momentum .9", {"momentum": 0.9}),
    ("Adam", {"adam": True}),
)
MEMORY_GRIDS = {"none": runs.GRIDS["known"], "momentum .9": (0.01, 0.03, 0.1, 0.3, 1.0),
                "Adam": (0.01, 0.03, 0.1, 0.3, 1.0)}  # fmt: skip
MARKS_OF: Final = {
    "margin": "o-", "sign": "s--", "bayes": "^-", "regression": "d-", "known": "o-",
}  # fmt: skip
VOTERS, UNEVEN = 20, 0.7
"""Voters of a panel, and the spread of log β among them."""
SEEN = (8, 32, 128, 512)
"""Directions from which a voter's weight is learned, one vote of each voter on each."""


def simulate_ratio(spec: Spec) -> dict[str, Any]:
    """Merit of sign over margin by simulation, with its interval over 40 groups."""
    both = [
        efficiency.simulate_merit(spec["each"], spec["spread"], rule, spec["draws"], 7)
        for rule in ("sign", "margin")
    ]
    return interval((both[0] / both[1]).tolist())


def measure_learned_saving(spec: Spec) -> dict[str, Any]:
    """Votes saved by weights learned from earlier directions, over panels."""
    rng = make_generator(derive(spec["seed"], "panels"))
    panels, seen = spec["panels"], spec["seen"]
    beta = np.exp(UNEVEN * rng.normal(size=(panels, VOTERS)))
    x = rng.normal(size=(panels, 1, seen))
    chance = 1 / (1 + np.exp(-beta[..., None] * x))
    verdicts = np.where(rng.random((panels, VOTERS, seen)) < chance, 1, -1)
    history = weighting.History(
        tuple(f"{i:02d}" for i in range(VOTERS)), np.arange(seen),
        verdicts[..., None].astype(np.int8), np.zeros((panels, VOTERS, 2)),
    )  # fmt: skip
    gained = efficiency.weights_gain(weighting.skill(history).weights, beta)
    return {**interval(gained.tolist()), "best": float(efficiency.weights_gain(beta, beta).mean())}


def make_specs() -> list[dict[str, Any]]:
    """Rules at equal votes: T = 2,400/n steps of n votes."""
    made = [
        make_spec(rule=rule, N=n, steps=PURSE // n)
        for n in VOTES
        # Of one vote or two, sign and margin are one rule; a posterior is dear in many steps.
        for rule, least in (("margin", 0), ("sign", 2), ("bayes", 12), ("regression", 12))
        if n > least
    ]
    return made


def make_world_specs() -> list[dict[str, Any]]:
    """Rules in other worlds, each with as many votes as the others."""
    return [
        make_spec(world=world, D=rows, rule=rule, N=n, steps=votes // n)
        for world, rows, votes, asked in WORLDS
        for rule, n in {**OF_A_DIRECTION, "regression": asked}.items()
    ]


def after(row: Spec, share: float) -> str:
    """The mean value after a share of a row's votes, with its interval, as text.

    Shares are those that `runs.space_marks` has: 1/16, 1/4 and 1.
    """
    at = row["marks"].index(max(1, math.ceil(row["steps"] * share)))
    return format_interval(row["curve"][at])


def step_sizes(spec: Spec) -> tuple[float, ...]:
    """Equal step lengths for sign and margin: the margin of n votes is about 1/√n."""
    if spec["rule"] == "margin":
        return tuple(float(alpha * spec["N"] ** 0.5) for alpha in runs.GRIDS["sign"])
    return runs.GRIDS[spec["rule"]]


def draw_worlds(study: Study, rows: Sequence[Spec]) -> None:
    """How far each rule's value is from the optimum, against votes, a panel for each world."""
    with study.figure("rules-worlds", columns=len(WORLDS), height=3.9) as axes:
        for here, (world, *_) in zip(axes, WORLDS, strict=True):
            best = runs.WORLDS[world].optimum()
            for row in (row for row in rows if row["world"] == world):
                here.plot(
                    runs.budget_at_marks(row), [best - v["mean"] for v in row["curve"]],
                    MARKS_OF[row["rule"]], label=row["rule"],
                )  # fmt: skip
            here.set(xscale="log", yscale="log", xlabel="votes", title=world)
        axes[0].set_ylabel("optimum less value")
        put_legend_below(axes[0], 2)


@bench("rules")
def main(study: Study) -> dict[str, Any]:
    """Sign against margin (exact, simulated, in runs), the posterior, memory, voters' weights."""
    draws = 40_000 if study.quick else 400_000
    specs = [{"each": n, "spread": s, "draws": draws} for s in SPREADS for n in VOTES]
    ratios = study.cells("sign against margin", specs, simulate_ratio)
    for row in ratios:
        sign, margin = efficiency.merits(row["each"], row["spread"])
        row["exact"] = sign / margin
        row["small"] = float(efficiency.sign_efficiency(row["each"]))
    wanted = [row for row in make_specs() if not study.quick or row["N"] in (12, 64)]
    trained = runs.tune(study, "equal votes", wanted, grid=step_sizes)
    memory = runs.tune(
        study,
        "memory",
        [make_spec(label=name, N=16, M=4, crn=False, **how) for name, how in MEMORIES],
        grid=lambda row: MEMORY_GRIDS[row["label"]],
    )
    elsewhere = runs.tune(study, "worlds", make_world_specs(), repetitions=20)
    panels = 20 if study.quick else 400
    weights = study.cells(
        "weights",
        [{"seen": seen, "panels": panels, "seed": 1000} for seen in SEEN],
        measure_learned_saving,
    )
    study.table(
        "merit of the sign over that of the margin", ratios,
        {"votes per direction": "each", "spread of x": "spread", "small signal, exact": "small",
         "exact": "exact", "simulated": lambda r: format_interval(r, 4)},
    )  # fmt: skip
    columns = {
        "rule": "rule", "votes per direction": lambda r: r["N"] * r["M"], "T": "steps", 
        "V": format_interval, "α": runs.format_alpha, "votes": "votes", "answers read": "answers",
    }  # fmt: skip
    study.table(f"{trained[0]['votes']} votes on the default grid", trained, columns)
    study.table("memory (known, N = 16, M = 4)", memory, {"memory": "label", **columns})
    study.table(
        "value in other worlds after a sixteenth, a quarter and all of the votes", elsewhere,
        {"world": "world", "optimum": lambda r: f"{runs.WORLDS[r['world']].optimum():.2f}",
         "rule": "rule", "a sixteenth": lambda r: after(r, 1 / 16),
         "a quarter": lambda r: after(r, 1 / 4), "all": format_interval,
         "α": runs.format_alpha, "votes": "votes", "answers read": "answers"},
    )  # fmt: skip
    study.table(
        f"votes saved by weights; log β of {VOTERS} voters has spread {UNEVEN:g}", weights,
        {"directions seen": "seen", "learned weights": format_interval,
         "best weights (β)": "best"},
    )  # fmt: skip
    for part, table in (("ratios", ratios), ("runs", trained), ("memory", memory),
                        ("worlds", elsewhere), ("weights", weights)):  # fmt: skip
        study.csv(part, table)
    with study.figure("rules", columns=3, height=3.9) as (left, middle, right):
        for spread in SPREADS:
            some = [row for row in ratios if row["spread"] == spread]
            draw_points(left, VOTES, some, f"simulated, spread {spread:g}")
            colour = left.lines[-1].get_color()
            left.plot(VOTES, [row["exact"] for row in some], color=colour, marker="", lw=1)
        small = [float(efficiency.sign_efficiency(n)) for n in VOTES]
        left.plot(VOTES, small, color="black", marker="", ls="--", lw=1, label="exact, small x")
        left.axhline(2 / np.pi, color="#888888", lw=0.8, ls=":", label="2/π")
        set_log_ticks(left, VOTES)
        left.set(xlabel="votes per direction", title="What the sign keeps (lines: exact)",
                 ylabel="merit of sign / merit of margin")  # fmt: skip
        put_legend_below(left)
        for rule in ("margin", "sign", "bayes", "regression"):
            some = sorted((row for row in trained if row["rule"] == rule), key=lambda r: r["N"])
            draw_points(middle, [row["N"] for row in some], some, rule, fmt=MARKS_OF[rule])
        set_log_ticks(middle, VOTES)
        middle.set(xlabel="votes per direction", ylabel="value at the end",
                   title=f"Runs of {trained[0]['votes']} votes")  # fmt: skip
        put_legend_below(middle, 3)
        for row in memory:
            draw_curve(right, runs.budget_at_marks(row), row["curve"], row["label"])
        right.set(xlabel="votes", ylabel="value", title="Memory (known, N = 16, M = 4)")
        put_legend_below(right, 3)
    draw_worlds(study, elsewhere)
    study.end()
    return {"ratios": ratios, "runs": trained, "memory": memory, "weights": weights,
            "worlds": elsewhere}  # fmt: skip
