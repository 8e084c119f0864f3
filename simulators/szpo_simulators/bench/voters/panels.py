"""`szpo bench panels`: what flaws of a panel cost, and what weightings of its votes get back.

Three parts. *Saved*: how many votes known and learned sharpness of members save. *Grid*: value
against votes for panels × all weightings of `szpo.aggregation.weighting`, many repetitions at
once. *Opposed*: tastes whose mean is nothing, on a slope. With ``--model tiny`` whole runs of a
language model through the ledger instead: see `szpo_simulators.bench.voters.panel_runs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo.aggregation import registry
from szpo.aggregation.weighting import History
from szpo.optim import weighted_votes
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.bench.voters import panel_runs
from szpo_simulators.panels import panel as simulated
from szpo_simulators.panels.raters import Rater, law, pick, stack_raters
from szpo_simulators.study import (
    Search,
    Spec,
    Study,
    draw_curve,
    draw_points,
    format_interval,
    interval,
    make_generator,
    put_legend_below,
    seed_range,
)
from szpo_simulators.worlds import repetitions as batched
from szpo_simulators.worlds.efficiency import weights_gain
from szpo_simulators.worlds.gridworld import DENSE
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.world import Reals, Trajectories, Uniforms, uniforms

PANELS: Final[Mapping[str, str]] = {
    "all alike": "bt70",
    "temperatures, spread .7": "bt70+spread=.7",
    "people (mtbench)": "mtbench",
    "careless": "bt70+side=.5+lapse=.1+words=.2+fatigue=.1+lazy=1",
    "two tastes, 7 : 3": "bt70+types=.3+other=mirror",
    "10 % hostile": "bt70+hostile=1",
    "30 % hostile": "bt70+hostile=3",
}
"""Panels of `SIZE` members by what is wrong with them."""
SHOWN: Final = ("all alike", "temperatures, spread .7", "30 % hostile", "two tastes, 7 : 3")
SIZE: Final = 10
STEPS: Final = 15
DESIGN: Final = {"N": 10, "M": 4, "D": 1, "mu": 1.0, "rule": "known", "pairing": "antithetic"}
"""40 votes a step, four of each member: what a logit by voter needs; four on a comparison."""
ALPHAS: Final = (1.0, 3.0, 10.0)
MIRROR: Final = replace(
    DENSE, rewards=tuple(1 - (cell // 5 + 4 - cell % 5) / 8 for cell in range(25))
)
"""The other taste: reward grows towards the upper right corner."""
CHATTY: Final = replace(DENSE, rewards=tuple(float(cell % 5 == 0) for cell in range(25)))
"""Words of a walk: one for each move that ends in the left column."""
VOTERS: Final = (10, 40, 400)
EACH: Final = (20, 50, 100)
"""Votes of each member from which its sharpness is learned."""
SPREAD: Final = 0.7
OPPOSED: Final = "bt70+types=.3333+other=against"
"""Of nine members three like θ₁ falling twice as much as the others like it rising."""


@dataclass(frozen=True)
class Slope:
    """A world without chance: a policy θ of eight parameters returns the first of them."""

    dim: int = 8
    width: int = 1
    steep: float = 1.0

    @property
    def theta0(self) -> Floats:
        """The start."""
        return np.zeros(self.dim)

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """θ₁ for each walk (S, n)."""
        first = self.steep * np.asarray(theta, dtype=np.float64)[:, :1]
        return np.repeat(first, u.shape[1], axis=1)

    def walks(self, theta: Reals, u: Uniforms) -> Trajectories:
        """Walks of one move."""
        shape = u.shape[:2]
        none = np.zeros((*shape, 1))
        rewards = self.returns(theta, u)[..., None]
        return Trajectories(np.zeros((*shape, 2)), none, rewards, np.ones(shape, dtype=np.int64))

    def value(self, theta: Reals) -> Floats:
        """θ₁ (S,)."""
        return self.steep * np.asarray(theta, dtype=np.float64)[:, 0]


@cache
def calibrate_panel() -> simulated.Calibration:
    """β of ``bt70`` for single walks of the dense grid's first policy."""
    u = uniforms(derive(0, "sharpness"), 20_000 * DENSE.width).reshape(1, 20_000, DENSE.width)
    return simulated.calibrate(DENSE.returns(DENSE.theta0[None], u).reshape(200, 100), 1, 0)


def run_grid(spec: Spec) -> dict[str, Any]:
    """One panel, one weighting: ``values`` at the end by seed, ``curve`` at ``marks``.

    The value is the exact mean over what the members who judge like.
    """
    line = spec["panel"]
    other = MIRROR if "other=" in line else None
    people = People(
        line, spec["beta"], SIZE, other=other, words=CHATTY if "words=" in line else None
    )
    chosen = batched.settings_for(
        DENSE, **DESIGN, weighting=spec["weighting"], alpha=spec["alpha"]
    )  # fmt: skip
    steps = spec["steps"]
    marks = sorted({max(1, round(steps * part / 10)) for part in range(1, 11)})
    runs = batched.train(
        DENSE,
        chosen,
        spec["seeds"],
        steps,
        panel=people,
        crn=False,
        marks=marks,
        batching=batched.Batching(25),
    )
    value = runs.curve
    if other is not None:
        share = people.raters([0]).taste[0].mean()
        second = np.stack([other.value(theta) for theta in runs.trail.swapaxes(0, 1)], axis=1)
        value = (1 - share) * value + share * second
    return {
        "values": value[:, -1].tolist(),
        "marks": marks,
        "curve": [interval(values) for values in value.T.tolist()],
        "votes": runs.votes * steps,
        "answers": runs.answers * steps,
    }


def run_opposed(spec: Spec) -> dict[str, Any]:
    """How far θ₁ goes (values by seed) where the members' mean taste for it is nothing.

    A member gives 24 votes on each direction, of gaps with spread .4 and −.8 logits.
    """
    slope = Slope()
    people = People(spec["panel"], 1.0, 9, other=replace(slope, steep=-2.0))
    chosen = batched.settings_for(
        slope, N=108, M=2, D=1, mu=0.2, rule="known", weighting=spec["weighting"], alpha=0.2
    )
    runs = batched.train(slope, chosen, spec["seeds"], spec["steps"], panel=people)
    return {"values": runs.final.tolist(), "votes": runs.votes * spec["steps"]}


def measure_known_saving(spec: Spec) -> dict[str, Any]:
    """How many times fewer votes known sharpness needs, from the variance of drawn votes.

    One direction with x = .02 logits, one vote of each of P voters: by equal weights
    x̂ = 4 Σ(o − ½)/Σβ, by known ones x̂ = 4 Σβ(o − ½)/Σβ². Variances over draws of votes.
    """
    voters, draws, x = spec["voters"], spec["draws"], 0.02
    ratios, bests = [], []
    for seed in spec["seeds"]:
        rng = _stream(seed, "saved")
        beta = np.exp(SPREAD * rng.normal(size=voters))
        raters = stack_raters([[Rater(beta=float(b)) for b in beta]])
        shares = np.broadcast_to(law(raters, np.full((1, voters), x)), (draws, voters, 3))
        centred = (pick(shares, rng.random((draws, voters))) == 0) - 0.5
        equal = 4 * centred.sum(-1) / beta.sum()
        known = 4 * (centred * beta).sum(-1) / (beta**2).sum()
        ratios.append(float(equal.var() / known.var()))
        bests.append(float((beta**2).mean() / beta.mean() ** 2))
    return {"values": ratios, **interval(ratios), "exact": float(np.mean(bests))}


def measure_learned_saving(spec: Spec) -> dict[str, Any]:
    """Votes saved by learned weights: ``each`` votes of every voter, one on each direction."""
    voters, each, count = spec["voters"], spec["each"], spec["panels"]
    rng = _stream(spec["seed"], "learnt")
    beta = np.exp(SPREAD * rng.normal(size=(count, voters)))
    x = rng.normal(size=(count, 1, each))
    chance = 1 / (1 + np.exp(-beta[..., None] * x))
    verdicts = np.where(rng.random((count, voters, each)) < chance, 1, -1)[..., None].astype(
        np.int8
    )
    names = tuple(f"{i:03d}" for i in range(voters))
    found: list[float] = []
    for i in range(0, count, 20):
        part = verdicts[i : i + 20]
        history = History(names, np.arange(each), part, np.zeros((len(part), voters, 2)))
        weights = weighted_votes.learn_weights(spec["weighting"], history)
        found += weights_gain(weights, beta[i : i + 20]).tolist()
    return {**interval(found), "best": float(weights_gain(beta, beta).mean())}


def _stream(seed: int, name: str) -> np.random.Generator:
    return make_generator(derive(seed, "bench panels", name=name))


def make_specs(beta: float, steps: int) -> list[dict[str, Any]]:
    """All panels × all weightings."""
    return [
        {"label": label, "panel": line, "weighting": name, "beta": beta, "steps": steps}
        for label, line in PANELS.items()
        for name in registry.WEIGHTINGS
    ]


def main(
    quick: bool = False,
    folder: Path = Path("runs/bench-panels"),
    figures: Path | None = None,
    model: str = "",
    repetitions: int = 200,
    points: Sequence[int] = tuple(range(8)),
) -> dict[str, Any]:
    """What flaws of a panel cost, and what weightings get back: grid, opposed tastes, votes saved.

    Args:
        quick: Small settings, about a minute.
        folder: Where finished cells, tables and figures go.
        figures: Where the documents' figures go as well.
        model: tiny: whole runs of that language model instead.
        repetitions: Seeds of the grid's cells.
        points: Seeds of the language model's runs.
    """
    study = Study("panels", folder, quick, figures)
    if model:
        return panel_runs.show_runs(study, model, points)
    found: dict[str, Any] = {"grid": _show_grid(study, 6 if quick else repetitions)}
    found |= {"opposed": _show_opposed(study), "saved": _show_savings(study)}
    study.end()
    return found


def _show_grid(study: Study, repetitions: int) -> list[dict[str, Any]]:
    fitted = calibrate_panel()
    study.console.print(f"bt70 of single walks: {fitted}")
    specs = make_specs(fitted.beta, 10 if study.quick else STEPS)
    # Nobody knows the panel beforehand: α is chosen for each weighting on equal members.
    equals = [row for row in specs if row["label"] == specs[0]["label"]]
    found = study.tune(
        "members all equal",
        equals,
        run_grid,
        Search(ALPHAS, trials=2 if study.quick else 10),
        repetitions=repetitions,
    )
    alphas = {row["weighting"]: row["alpha"] for row in found}
    rest = [
        {**row, "alpha": alphas[row["weighting"]], "seeds": seed_range(repetitions)}
        for row in specs
        if row["label"] != specs[0]["label"]
    ]
    found += [{**row, **interval(row["values"])} for row in study.cells("grid", rest, run_grid)]
    honest = {
        row["panel"]: row["values"] for row in found if row["weighting"] == registry.WEIGHTINGS[0]
    }
    for row in found:
        gained = np.subtract(row["values"], honest[row["panel"]])
        row["over_equal"] = interval(gained.tolist())
    study.table(
        f"dense grid, {found[0]['votes']} votes of {SIZE}, {repetitions} seeds, 95 % intervals",
        found,
        {"panel": "label", "weighting": "weighting", "value": format_interval,
         "over equal": lambda row: format_interval(row["over_equal"]), "α": "alpha",
         "answers read": "answers"},
    )  # fmt: skip
    study.csv("grid", found)
    with study.figure("panels", columns=len(SHOWN), height=3.9) as axes:
        for here, label in zip(axes, SHOWN, strict=True):
            for row in (row for row in found if row["label"] == label):
                spent = [row["votes"] * mark / row["steps"] for mark in row["marks"]]
                draw_curve(here, spent, row["curve"], row["weighting"], markevery=[-1])
            here.set(xlabel="votes", title=label)
        axes[0].set(ylabel="exact value, mean over the judging members")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return found


def _show_opposed(study: Study) -> list[dict[str, Any]]:
    count = 20 if study.quick else 60
    specs = [
        {"panel": OPPOSED, "weighting": name, "steps": 20, "seeds": seed_range(count)}
        for name in registry.WEIGHTINGS
    ]
    specs.append({**specs[0], "panel": "bt70"})
    found = [
        {**row, **interval(row["values"])}
        for row in study.cells("opposed tastes", specs, run_opposed)
    ]
    study.table(
        f"opposed tastes with zero mean on a slope: θ₁ after {found[0]['votes']} votes", found,
        {"panel": lambda row: "opposed" if row["panel"] == OPPOSED else "like-minded",
         "weighting": "weighting", "θ₁": lambda row: format_interval(row, 3)},
    )  # fmt: skip
    study.csv("opposed", found)
    return found


def _show_savings(study: Study) -> dict[str, Any]:
    count, draws = (4, 1_000) if study.quick else (40, 3_000)
    known = study.cells(
        "known sharpness",
        [{"voters": voters, "draws": draws, "seeds": seed_range(count)} for voters in VOTERS],
        measure_known_saving,
    )
    specs = [
        {"voters": voters, "each": each, "weighting": name, "panels": 20 if study.quick else 200,
         "seed": 1000}
        for voters in VOTERS[:2]
        for name in registry.LEARNED
        for each in EACH
    ]  # fmt: skip
    learned = study.cells("learnt sharpness", specs, measure_learned_saving)
    study.table(
        f"votes saved by known sharpness, log β with spread {SPREAD:g}", known,
        {"voters": "voters", "measured": format_interval, "by formula": "exact"},
    )  # fmt: skip
    study.table(
        "votes saved by learned weights", learned,
        {"voters": "voters", "weighting": "weighting", "votes each": "each", 
         "saved": format_interval, "best": "best"},
    )  # fmt: skip
    study.csv("saved", known)
    study.csv("learnt", learned)
    with study.figure("panels-saved", height=3.4) as axes:
        for name in registry.LEARNED:
            some = [r for r in learned if r["weighting"] == name and r["voters"] == VOTERS[1]]
            draw_points(axes, EACH, some, f"{name}, {VOTERS[1]} voters", fmt="o-")
        axes.axhline(some[0]["best"], color="black", lw=1, ls="--", label="β known")
        axes.axhline(1.0, color="#888888", lw=0.8)
        axes.set(xlabel="votes of each voter", ylabel="votes saved, times")
        put_legend_below(axes)
    return {"known": known, "learnt": learned}
