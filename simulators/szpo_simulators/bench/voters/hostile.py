"""`szpo bench hostile`: what hostile and careless voters do to a run, and to the flags.

*Run*: how much of an honest panel's gain remains with hostile members in a small
panel, with equal and with learned weights, on the same seeds? *Effort*: which simulated
panelists are flagged for low effort? Goals that are missed are printed as missed. With
``--model`` whole runs of a language model instead, each seed as a point: see
`szpo_simulators.bench.voters.hostile_runs`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from szpo.aggregation import low_effort
from szpo.intervals import wilson
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators import study
from szpo_simulators.bench.voters import hostile_runs
from szpo_simulators.panels import panel
from szpo_simulators.rewards import heldout
from szpo_simulators.study import make_generator
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.repetitions import settings_for, train
from szpo_simulators.worlds.yard import TabularPolicy, Walk, Yard, YardWorld

RUN_GOALS = {1: 0.80, 2: 0.55}
"""Least share of the honest gain under `skill`, by hostile members of seven."""
FLAGGED, FALSELY = 0.95, 0.01
VOTES = 400
MEMBERS = 7
ALPHA = 0.4
"""The step size, best of .1 to 1.6 for honest members on seeds 0 to 19."""
YARD = YardWorld()


@dataclass(frozen=True)
class Case:
    """A panel of `MEMBERS`, of whom the last ``hostile`` have −β, and how the run weighs them."""

    beta: float
    hostile: int = 0
    mu: float = 0.4
    weighting: str = "equal"


def measure_gains(case: Case, seeds: Sequence[int], on_seeds: Callable[[int], None]) -> Floats:
    """Gain in exact value (S,) after `VOTES` votes, in chunks of seeds that fit a cache."""
    settings = settings_for(
        YARD, rule="known", N=8, D=8, mu=case.mu, alpha=ALPHA, weighting=case.weighting
    )
    panel = People(f"bt70+hostile={case.hostile}", case.beta, MEMBERS)
    start = YARD.value(YARD.theta0[None])[0]
    found = []
    for first in range(0, len(seeds), 25):
        chunk = seeds[first : first + 25]
        found.append(train(YARD, settings, chunk, VOTES // settings.N, panel=panel).final - start)
        on_seeds(len(chunk))
    return np.concatenate(found)


def calibrate_panel(rows: int = 8) -> panel.Calibration:
    """β of ``bt70`` for the yard's own base answers."""
    policy, prompts = TabularPolicy(0), Yard().prompts()
    drawn = policy.sample(prompts, 64, seed=1)
    liked = Walk()
    worth = [[liked.score(p, a) for a in row] for p, row in zip(prompts, drawn, strict=True)]
    return panel.calibrate(np.array(worth), rows, 0)


def retained_share(gain: Floats, honest: Floats, draws: int = 2000) -> tuple[float, float, float]:
    """Ratio to the honest mean gain, with its 95 % bootstrap interval (share, low, high)."""
    picks = make_generator(derive(0, "bootstrap")).integers(0, len(gain), (draws, len(gain)))
    ratios = gain[picks].mean(1) / honest[picks].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(gain.mean() / honest.mean()), float(low), float(high)


def measure_runs(
    seeds: Sequence[int],
    *,
    mu: float = 0.4,
    beta: float,
    on_seeds: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Runs of P = 7 and `VOTES` votes with 0, 1, 2 hostile members, equal and learned weights."""
    honest = measure_gains(Case(beta, mu=mu), seeds, on_seeds)
    rows = []
    for hostile in (0, *RUN_GOALS):
        plain = honest
        if hostile:
            plain = measure_gains(Case(beta, hostile=hostile, mu=mu), seeds, on_seeds)
        learned = measure_gains(
            Case(beta, hostile=hostile, mu=mu, weighting="skill"), seeds, on_seeds
        )
        difference, low, high = heldout.student((learned - plain).tolist())
        rows.append(
            {
                "hostile": hostile,
                "equal": float(plain.mean()),
                "skill": float(learned.mean()),
                "difference": [difference, low, high],
                "kept_equal": retained_share(plain, honest),
                "kept_skill": retained_share(learned, honest),
                "gains": {"equal": plain.tolist(), "skill": learned.tolist()},
            }
        )
    return rows


def main(
    seeds: int = 200,
    first: int = 1000,
    people: int = 5000,
    mu: float = 0.4,
    folder: Path = Path("runs/bench-hostile"),
    quick: bool = False,
    model: str = "",
    points: Sequence[int] = (0, 1, 2, 3, 4),
    members: Sequence[int] = (0, 2),
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Hostile and careless voters: a run's gain, the flags; with intervals.

    Args:
        seeds: Seeds of the runs, paired over weightings.
        first: The first of them; the settings were chosen on seeds below 1000.
        people: Simulated panelists per kind, for the flags.
        mu: Perturbation radius of the runs.
        folder: Where hostile.json and the tables as CSV go.
        quick: A tenth of everything, for a look.
        model: smollm2 or tiny: whole runs of it instead, beside the small policy's stored table.
        points: Seeds of those runs.
        members: Hostile members of those runs' panels, of seven.
        sets: Further settings of those runs, as section.key=value.
    """
    if model:
        return run_model(model, points, members, sets, folder)
    if quick:
        seeds, people = max(seeds // 10, 2), max(people // 10, 100)
    used = list(range(first, first + seeds))
    fitted = calibrate_panel()
    console = Console()
    with Progress(console=console, transient=True) as progress:
        two = progress.add_task("runs", total=seeds * 6)
        three = progress.add_task("flags", total=people * len(KINDS) * 4)
        result: dict[str, Any] = {
            "seeds": used,
            "mu": mu,
            "panel": str(fitted),
            "run": measure_runs(
                used, mu=mu, beta=fitted.beta, on_seeds=lambda n: progress.advance(two, n)
            ),
            "effort": measure_flags(
                people, seed=first, on_people=lambda n: progress.advance(three, n)
            ),
        }
    result["goals"] = check_goals(result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hostile.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    for part in ("run", "effort"):
        rows = [{k: v for k, v in row.items() if k != "gains"} for row in result[part]]
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print_results(result, console)
    return result


def run_model(
    model: str, seeds: Sequence[int], members: Sequence[int], sets: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Run a language model, apart from runs that other processes of this folder have claimed."""
    console = study.make_console()
    series = hostile_runs.ModelRuns(model, VOTES, folder / model, sets)
    found, elsewhere = hostile_runs.run_cells(series, members, seeds, console.print)
    rows = hostile_runs.summarise(found)
    result = {"model": model, "votes": VOTES, "rows": rows, "elsewhere": elsewhere}
    text = json.dumps(result, indent=1, allow_nan=False)
    (folder / f"{model}.json").write_text(text, encoding="utf-8")
    stored = folder / "hostile.json"
    if stored.exists():
        console.print(make_run_table(json.loads(stored.read_text("utf-8"))))
    console.print(hostile_runs.make_table(series, rows))
    if elsewhere:
        console.print(f"{elsewhere} runs are with other processes; the same command shows them")
    return result


def check_goals(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its measured value and whether it is met."""
    found = []
    for row in result["run"]:
        hostile = row["hostile"]
        if hostile not in RUN_GOALS:
            continue
        low = row["difference"][1]
        name = f"skill − equal with {hostile} hostile: interval above 0"
        found.append({"goal": name, "measured": low, "met": low > 0})
        name = f"skill keeps ≥ {RUN_GOALS[hostile]:.0%} with {hostile} hostile"
        share = row["kept_skill"][0]
        found.append({"goal": name, "measured": share, "met": share >= RUN_GOALS[hostile]})
    for row in result["effort"]:
        if row["votes"] != 40:
            continue
        if row["kind"] == "honest":
            name = f"honest flagged by 40 votes, {row['known']} known, ≤ {FALSELY:.0%}"
            met = row["flagged"] <= FALSELY
        elif "clicker" in row["kind"]:
            name = f"{row['kind']} flagged by 40 votes, {row['known']} known, ≥ {FLAGGED:.0%}"
            met = row["flagged"] >= FLAGGED
        else:
            continue
        found.append({"goal": name, "measured": row["flagged"], "met": met})
    return found


def print_results(result: Mapping[str, Any], console: Console) -> None:
    """The two tables and the goals."""
    console.print(make_run_table(result))
    view = Table(title="panelists flagged")
    for head in ("votes", "known", "kind", "flagged", *CODES):
        view.add_column(head, justify="right")
    for row in result["effort"]:
        view.add_row(
            str(row["votes"]), str(row["known"]), row["kind"], _format_share(row["flagged"], row),
            *(f"{row[code]:.0%}" for code in CODES),
        )  # fmt: skip
    console.print(view)
    console.print(result["panel"])
    for goal in result["goals"]:
        mark = "met" if goal["met"] else "MISSED"
        console.print(f"{mark}: {goal['goal']} (measured {goal['measured']:.3f})")


def make_run_table(result: Mapping[str, Any]) -> Table:
    """Gains of the small policy's runs, and their share of the honest gain."""
    used = result["seeds"]
    title = f"gain after {VOTES} votes, P = 7, mu {result['mu']:g}, seeds {used[0]} to {used[-1]}"
    view = Table(title=title)
    for head in ("hostile", "equal", "skill", "skill − equal", "equal keeps", "skill keeps"):
        view.add_column(head, justify="right")
    for row in result["run"]:
        mean, low, high = row["difference"]
        view.add_row(
            str(row["hostile"]), f"{row['equal']:.3f}", f"{row['skill']:.3f}",
            f"{mean:+.3f} \\[{low:+.3f}, {high:+.3f}]",
            *("{:.1%} \\[{:.1%}, {:.1%}]".format(*row[k]) for k in ("kept_equal", "kept_skill")),
        )  # fmt: skip
    return view


def _format_share(value: float, row: Mapping[str, Any]) -> str:
    return f"{value:.1%} \\[{row['low']:.1%}, {row['high']:.1%}]"


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


def measure_flags(
    people: int, *, seed: int = 0, on_people: Callable[[int], None] = lambda done: None
) -> list[dict[str, Any]]:
    """Share of each kind of panelist that is flagged, by votes and gold questions among them."""
    rows = []
    for votes, gold in ((40, 2), (40, 4), (40, 10), (400, 40)):
        for kind in KINDS:
            draw = make_generator(derive(seed, "effort", k=votes * 1000 + gold, name=kind))
            found = [
                {
                    flag.code
                    for flag in low_effort.flags(simulate_conduct(kind, votes, gold, draw), USUAL)
                }
                for _ in range(people)
            ]
            hits = sum(bool(codes) for codes in found)
            low, high = wilson(hits, people)
            by = {code: sum(code in codes for codes in found) / people for code in CODES}
            rows.append(
                {"votes": votes, "known": gold, "kind": kind, "flagged": hits / people, "low": low,
                 "high": high, "people": people, **by}
            )  # fmt: skip
            on_people(people)
    return rows
