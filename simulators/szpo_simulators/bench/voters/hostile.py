"""`szpo bench hostile`: what hostile and careless voters do to a run, and to the flags.

*Run*: how much of an honest panel's gain remains with hostile members in a small
panel, with equal and with learned weights, on the same seeds? *Effort*: which simulated
panelists are flagged for low effort? Goals that are missed are printed as missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from szpo.aggregation import low_effort
from szpo.intervals import wilson
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.panels import panel
from szpo_simulators.study import Spec, Study, interval, make_generator
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.repetitions import Batching, settings_for, train
from szpo_simulators.worlds.yard import TabularPolicy, Yard, YardWorld, score_walk

RUN_GOALS = {1: 0.80, 2: 0.55}
"""Least share of the honest gain under `skill`, by hostile members of seven."""
FLAGGED, FALSELY = 0.95, 0.01
VOTES = 400
MEMBERS = 7
ALPHA = 0.4
"""The step size, best of .1 to 1.6 for honest members on seeds 0 to 19."""
YARD = YardWorld()


def main(
    seeds: int = 200,
    first: int = 1000,
    people: int = 5000,
    mu: float = 0.4,
    folder: Path = Path("runs/bench-hostile"),
    quick: bool = False,
) -> dict[str, Any]:
    """Hostile and careless voters: a run's gain, the flags; with intervals.

    Args:
        seeds: Seeds of the runs, paired over weightings.
        first: The first of them; the settings were chosen on seeds below 1000.
        people: Simulated panelists per kind, for the flags.
        mu: Perturbation radius of the runs.
        folder: Where finished cells and the tables as CSV go.
        quick: A tenth of everything, for a look.
    """
    if quick:
        seeds, people = max(seeds // 10, 2), max(people // 10, 100)
    study, used = Study("hostile", folder, quick), list(range(first, first + seeds))
    fitted = calibrate_panel()
    result = {
        "run": measure_runs(study, used, mu, fitted.beta),
        "effort": measure_flags(study, people, first),
    }
    goals = check_goals(result)
    study.table(
        f"gain after {VOTES} votes, P = 7, mu {mu:g}, seeds {used[0]} to {used[-1]}",
        result["run"],
        {"hostile": "hostile", "equal": _number("equal"), "skill": _number("skill"),
         "skill − equal": _interval("difference", "{:+.3f} [{:+.3f}, {:+.3f}]"),
         "equal keeps": _interval("kept_equal", "{:.1%} [{:.1%}, {:.1%}]"),
         "skill keeps": _interval("kept_skill", "{:.1%} [{:.1%}, {:.1%}]")},
    )  # fmt: skip
    study.table(
        "panelists flagged", result["effort"],
        {"votes": "votes", "known": "known", "kind": "kind",
         "flagged": lambda row: "{flagged:.1%} [{low:.1%}, {high:.1%}]".format(**row),
         **{code: lambda row, code=code: f"{row[code]:.0%}" for code in CODES}},
    )  # fmt: skip
    study.console.print(str(fitted))
    for goal in goals:
        mark = "met" if goal["met"] else "MISSED"
        study.console.print(f"{mark}: {goal['goal']} (measured {goal['measured']:.3f})")
    for part, rows in result.items():
        study.csv(part, rows)
    study.end()
    return {**result, "goals": goals}


def _number(name: str) -> Any:
    return lambda row: f"{row[name]:.3f}"


def _interval(name: str, form: str) -> Any:
    return lambda row: form.format(*row[name])


def run_panel(spec: Spec) -> dict[str, Any]:
    """Gain in exact value by seed after `VOTES` votes; the last ``hostile`` members have −β."""
    settings = settings_for(
        YARD, rule="known", N=8, D=8, mu=spec["mu"], alpha=ALPHA, weighting=spec["weighting"]
    )
    voters = People(f"bt70+hostile={spec['hostile']}", spec["beta"], MEMBERS)
    runs = train(
        YARD, settings, spec["seeds"], VOTES // settings.N, panel=voters, batching=Batching(25)
    )
    return {"gains": (runs.final - YARD.value(YARD.theta0[None])[0]).tolist()}


def calibrate_panel(rows: int = 8) -> panel.Calibration:
    """β of ``bt70`` for the yard's own base answers."""
    policy, prompts = TabularPolicy(0), Yard().prompts()
    drawn = policy.sample(prompts, 64, seed=1)
    worth = [[score_walk(p, a) for a in row] for p, row in zip(prompts, drawn, strict=True)]
    return panel.calibrate(np.array(worth), rows, 0)


def retained_share(gain: Floats, honest: Floats, draws: int = 2000) -> tuple[float, float, float]:
    """Ratio to the honest mean gain, with its 95 % bootstrap interval (share, low, high)."""
    picks = make_generator(derive(0, "bootstrap")).integers(0, len(gain), (draws, len(gain)))
    ratios = gain[picks].mean(1) / honest[picks].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(gain.mean() / honest.mean()), float(low), float(high)


def measure_runs(
    study: Study, seeds: Sequence[int], mu: float, beta: float
) -> list[dict[str, Any]]:
    """Runs of P = 7 and `VOTES` votes with 0, 1, 2 hostile members, equal and learned weights."""
    specs = [
        {"hostile": hostile, "weighting": name, "mu": mu, "beta": beta, "seeds": list(seeds)}
        for hostile in (0, *RUN_GOALS)
        for name in ("equal", "skill")
    ]
    found = study.cells("runs", specs, run_panel)
    gains = {(row["hostile"], row["weighting"]): np.array(row["gains"]) for row in found}
    rows = []
    for hostile in (0, *RUN_GOALS):
        plain, learned = gains[hostile, "equal"], gains[hostile, "skill"]
        apart = interval((learned - plain).tolist())
        rows.append(
            {
                "hostile": hostile,
                "equal": float(plain.mean()),
                "skill": float(learned.mean()),
                "difference": [apart["mean"], apart["low"], apart["high"]],
                "kept_equal": retained_share(plain, gains[0, "equal"]),
                "kept_skill": retained_share(learned, gains[0, "equal"]),
            }
        )
    return rows


def check_goals(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its measured value and whether it is met."""
    found = []
    for row in result["run"]:
        if (hostile := row["hostile"]) in RUN_GOALS:
            low, share, least = row["difference"][1], row["kept_skill"][0], RUN_GOALS[hostile]
            name = f"skill − equal with {hostile} hostile: interval above 0"
            found.append({"goal": name, "measured": low, "met": low > 0})
            name = f"skill keeps ≥ {least:.0%} with {hostile} hostile"
            found.append({"goal": name, "measured": share, "met": share >= least})
    for row in result["effort"]:
        share, by = row["flagged"], f"flagged by 40 votes, {row['known']} known,"
        if row["votes"] == 40 and row["kind"] == "honest":
            name, met = f"honest {by} ≤ {FALSELY:.0%}", share <= FALSELY
        elif row["votes"] == 40 and "clicker" in row["kind"]:
            name, met = f"{row['kind']} {by} ≥ {FLAGGED:.0%}", share >= FLAGGED
        else:
            continue
        found.append({"goal": name, "measured": share, "met": met})
    return found


CODES = ("fast", "side", "run", "gold", "rest", "random")
KINDS = ("honest", "hasty clicker", "patient clicker", "one side", "contrary")
WORDS = 288
"""Of a comparison: eight rows of two answers of 18 words."""
USUAL = low_effort.Usual(gold=0.95, repeat=0.8, rest=0.6)
"""Rates at which an honest simulated panelist agrees with the truth, itself and the others."""


def simulate_conduct(
    kind: str, votes: int, gold: int, draw: np.random.Generator
) -> low_effort.Conduct:
    """Counts over the votes of one simulated panelist, of which ``gold`` are gold questions.

    Of the rest a twentieth are repeats. Honest reading takes 120 ms a word, log-normal with σ ½;
    haste 2 s, σ .6. Contrary panelists prefer the worse batch, in gold questions too.
    """
    shares = {
        "honest": (USUAL.gold, USUAL.repeat, USUAL.rest),
        "contrary": (1 - USUAL.gold, USUAL.repeat, 1 - USUAL.rest),
    }.get(kind, (0.5, 0.5, 0.5))
    repeats = votes // 20
    train = votes - gold - repeats
    median = 2000.0 if kind == "hasty clicker" else 120.0 * WORDS
    times = median * np.exp(draw.normal(0, 0.6 if kind == "hasty clicker" else 0.5, votes))
    left = draw.random(votes) < (1.0 if kind == "one side" else 0.5)
    again = 0 if kind == "one side" else draw.binomial(repeats, shares[1])
    return low_effort.Conduct(
        fast=(int((times < low_effort.soonest_ms(WORDS)).sum()), votes),
        left=(int(left.sum()), votes),
        run=low_effort.longest_run("".join("AB"[int(not side)] for side in left)),
        gold=(int(draw.binomial(gold, shares[0])), gold),
        repeat=(int(again), repeats),
        rest=(int(draw.binomial(train, shares[2])), train),
    )


def measure_flags(study: Study, people: int, seed: int = 0) -> list[dict[str, Any]]:
    """Share of each kind of panelist that is flagged, by votes and gold questions among them."""
    specs = [
        {"votes": votes, "known": gold, "kind": kind, "people": people, "seed": seed}
        for votes, gold in ((40, 2), (40, 4), (40, 10), (400, 40))
        for kind in KINDS
    ]
    return study.cells("flags", specs, count_flags)


def count_flags(spec: Spec) -> dict[str, Any]:
    """Shares of the simulated panelists of a kind that are flagged, and by which flag."""
    votes, gold, kind, people = (spec[name] for name in ("votes", "known", "kind", "people"))
    draw = make_generator(derive(spec["seed"], "effort", k=votes * 1000 + gold, name=kind))
    found = [
        {flag.code for flag in low_effort.flags(simulate_conduct(kind, votes, gold, draw), USUAL)}
        for _ in range(people)
    ]
    hits = sum(bool(codes) for codes in found)
    low, high = wilson(hits, people)
    by = {code: sum(code in codes for codes in found) / people for code in CODES}
    return {"flagged": hits / people, "low": low, "high": high, **by}
