"""The courier contest of `szpo bench gridworld`: grids, frozen settings, and the claim.

Three ways to ask, with the panel bt70 fitted for each: one vote per pair of walks, one vote per
pair of batches of eight walks, and eight pair votes for each of those batch votes, which is as
much to read. Settings are chosen on tuning seeds, 32 trials per method for each of the first two
ways (the third takes those of the first), and can be frozen in a file. A frozen file is run once,
on seeds that nothing else has used.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.lines import Line2D

from szpo.errors import UsageError
from szpo_simulators.bench.known_worlds import contest
from szpo_simulators.rewards.heldout import student
from szpo_simulators.study import (
    COLOURS,
    CONFIRMED,
    MARKS,
    Study,
    draw_curve,
    draw_points,
    format_interval,
    interval,
)


@dataclass(frozen=True)
class Way:
    """A way of asking the panel: ``budget`` votes, each on two batches of D walks."""

    name: str
    budget: int
    D: int
    trials: int
    """Tuning seeds."""

    @property
    def answers(self) -> int:
        """Walks read for all votes."""
        return 2 * self.D * self.budget


Grid = dict[str, list[Any]]
VOTES: Final = 800
WAYS: Final = (
    Way("pair votes", VOTES, 1, 12),
    Way("batch votes", VOTES, 8, 6),
    Way("eight pair votes per batch vote", 8 * VOTES, 1, 6),
)

GRIDS: Final[Mapping[str, tuple[dict[str, Any], Grid, Grid]]] = {
    "SZPO, known": (
        {"method": "szpo", "rule": "known"},
        {"N": [2, 4], "mu": [1.0, 1.5], "alpha": [0.2, 0.35, 0.6, 1.0]},
        {"N": [1, 2], "mu": [0.7, 1.25], "alpha": [0.15, 0.25, 0.45, 0.8]},
    ),
    "SZPO, sign": (
        {"method": "szpo", "rule": "sign"},
        {"N": [2, 4], "mu": [1.0, 1.5], "alpha": [0.05, 0.1, 0.2, 0.4]},
        {"N": [1, 2], "mu": [0.7, 1.25], "alpha": [0.03, 0.07, 0.15, 0.3]},
    ),
    "reward model + PPO, once": (
        {"method": "rm-ppo", "rounds": 1, "ridge": 0.1},
        {"kind": ["cells", "moves", "visits", "steps"], "batches": [3, 40], "tie": [0.1, 0.5]},
        {"kind": ["moves", "times", "visits", "steps"], "batches": [1, 10], "tie": [0.2, 1.0]},
    ),
    "reward model + PPO, again and again": (
        {"method": "rm-ppo", "batches": 3},
        {"kind": ["moves", "steps"], "rounds": [24, 48], "ridge": [0.01, 0.1],
         "tie": [0.0, 0.1]},
        {"kind": ["moves", "steps"], "rounds": [16, 48], "ridge": [0.3, 1.0], "tie": [0.1, 0.3]},
    ),
    "DPO": (
        {"method": "dpo", "rounds": 1},
        {"beta": [0.03, 0.1, 0.3, 1.0], "rate": [0.03, 0.1], "epochs": [10, 30]},
        {"beta": [0.05, 0.2], "rate": [0.01, 0.1], "epochs": [5, 20, 50, 100]},
    ),
    "online DPO": (
        {"method": "dpo", "epochs": 8},
        {"rounds": [50, 100, 200, 400], "beta": [0.3, 1.0], "rate": [0.03, 0.1]},
        {"rounds": [75, 100, 150, 200], "beta": [1.0, 3.0], "rate": [0.015, 0.05]},
    ),
    "reward model of the whole state + PPO": (
        {"method": "rm-ppo", "kind": "states"},
        {"rounds": [1, 8], "batches": [3, 40], "ridge": [0.01, 0.1], "tie": [0.0, 0.1]},
        {"rounds": [2, 4], "batches": [10, 80], "ridge": [0.003, 0.03], "tie": [0.05, 0.3]},
    ),
}  # fmt: skip
"""Per method what is fixed, and twice sixteen combinations: a first look, and one around it."""
OURS: Final = "SZPO, known"
RIVALS: Final = (
    "reward model + PPO, once", "reward model + PPO, again and again", "DPO", "online DPO",
)  # fmt: skip
AGAIN: Final = ("reward model + PPO, again and again", "online DPO")
REFERENCE: Final = "reward model of the whole state + PPO"
"""Its features include whether the bag is full, which the others cannot see; not in the claim."""


def fixed_settings(name: str, way: Way) -> dict[str, Any]:
    """The spec of a method without the settings of its grid."""
    spec = dict(GRIDS[name][0])
    # DPO has a β of its own; the panel's travels under another name.
    return {
        "world": "courier", "budget": way.budget, "D": way.D,
        "sharpness": contest.calibrate_bt70("courier", way.D).beta, **spec,
    }  # fmt: skip


def tune(
    study: Study,
    ways: Sequence[Way] = WAYS,
    names: Sequence[str] = tuple(GRIDS),
    most: int | None = None,
) -> list[dict[str, Any]]:
    """Tune each method under each way of asking: fixed, chosen and tried settings.

    Batch votes: only the methods of the claim. The third way: only rivals that ask in rounds, with
    their settings for pair votes.
    """
    found: list[dict[str, Any]] = []
    for way in ways:
        for name in names:
            if name not in (tuple(GRIDS), (OURS, *RIVALS), AGAIN)[WAYS.index(way)]:
                continue
            spec = fixed_settings(name, way)
            row = {"name": name, "way": way.name, "fixed": spec}
            if way is WAYS[2]:
                pair = next(one for one in found if one["name"] == name)
                found.append({**row, "chosen": pair["chosen"], "tried": []})
                continue
            settings, tried = contest.choose(
                study,
                f"{name}, {way.name}",
                spec,
                GRIDS[name][1:],
                min(way.trials, 3) if study.quick else way.trials,
                most,
            )
            found.append({**row, "chosen": settings, "tried": tried})
    return found


def tune_contenders(study: Study) -> list[dict[str, Any]]:
    """Tune the claim's methods; the reference keeps fixed settings."""
    reference = {
        "name": REFERENCE, "way": WAYS[0].name, "fixed": fixed_settings(REFERENCE, WAYS[0]),
        "chosen": {"rounds": 1, "batches": 40, "ridge": 0.01, "tie": 0.0}, "tried": [],
    }  # fmt: skip
    return [*tune(study, names=(OURS, *RIVALS)), reference]


def freeze(tuned: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write settings, grids, budgets and scores as TOML, to be committed before the claim."""
    lines = [
        "# The courier contest of `szpo bench gridworld`: chosen on tuning seeds 0, 1, …; to be",
        "# run once by `szpo bench gridworld --frozen FILE` on seeds that nothing else has used.",
        f"seeds = [{CONFIRMED}, {CONFIRMED + 199}]",
        f'claim = "{describe_claim()}"',
    ]
    for row in tuned:
        lines += ["", "[[method]]", f"name = {json.dumps(row['name'])}"]
        lines += [f"way = {json.dumps(row['way'])}", f"fixed = {_inline(row['fixed'])}"]
        lines += [f"chosen = {_inline(row['chosen'])}", "tried = ["]
        lines += [f"  {_inline(one)}," for one in row["tried"]] + ["]"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_claim() -> str:
    """The claim that the frozen run tests, in one sentence."""
    return (
        f"After {VOTES} pair votes and, apart from that, after {VOTES} batch votes, the mean "
        f"exact value of {OURS} is above that of every one of {'; '.join(RIVALS)}: each 95 % "
        "interval of the difference over seeds lies above 0"
    )


def read_frozen(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """The seeds and the methods of a frozen file.

    Raises:
        UsageError: the file is missing, or is no frozen contest.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
        first, last = body["seeds"]
        methods = [{k: row[k] for k in ("name", "way", "fixed", "chosen", "tried")}
                   for row in body["method"]]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--frozen {path}: no frozen contest can be read there ({error})"
        ) from None
    return list(range(first, last + 1)), methods


def run_methods(
    study: Study, label: str, tuned: Sequence[Mapping[str, Any]], used: Sequence[int]
) -> list[dict[str, Any]]:
    """Each tuned method on the same seeds: mean with interval, and the curve."""
    specs = [{**row["fixed"], **row["chosen"], "seeds": list(used)} for row in tuned]
    found = study.cells(label, specs, contest.work)
    return [
        {**row, **interval(row["values"]), "name": one["name"], "way": one["way"],
         "chosen": one["chosen"]}
        for row, one in zip(found, tuned, strict=True)
    ]  # fmt: skip


def compare_with_rivals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """SZPO minus each rival by way of asking: mean difference, 95 % interval, paired by seed."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        here = {row["name"]: np.array(row["values"]) for row in rows if row["way"] == way}
        for rival in RIVALS:
            if rival in here and OURS in here:
                mean, low, high = student((here[OURS] - here[rival]).tolist())
                found.append({"way": way, "rival": rival, "mean": mean, "low": low, "high": high})
    return found


def _inline(settings: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in settings.items()) + " }"


def format_settings(settings: Mapping[str, Any]) -> str:
    """Chosen settings in a table's cell."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def show_contest(
    study: Study, part: str, rows: Sequence[Mapping[str, Any]], used: Sequence[int]
) -> None:
    """Table, differences, CSV and figure of a contest."""
    study.table(
        f"courier: value 1.86 at the start; 95 % intervals over seeds {used[0]} to {used[-1]}",
        rows,
        {"method": "name", "asked": "way", "votes": lambda row: row["votes"][-1],
         "walks read": lambda row: row["answers"][-1], "value": format_interval,
         "chosen": lambda row: format_settings(row["chosen"])},
    )  # fmt: skip
    study.csv(part, rows)
    differences = compare_with_rivals(rows)
    study.table(
        f"{OURS} less each rival", differences,
        {"asked": "way", "rival": "rival", "difference": format_interval,
         "": lambda row: "above" if row["low"] > 0 else "BELOW" if row["high"] < 0 else "open"},
    )  # fmt: skip
    study.csv(f"{part}-differences", differences)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    with study.figure(part, columns=min(len(ways), 2) + 1, height=4.6) as axes:
        for here, way in zip(axes, ways[:2], strict=False):
            for name in DRAWN:
                _draw_line(here, rows, name, way, "votes")
            here.set(xlabel="votes", title=f"{way}: one on each two {describe_batches(rows, way)}")
        last = axes[-1]
        for name in DRAWN:
            for way in ways:
                _draw_line(last, rows, name, way, "answers")
        last.set(xlabel="walks read", title="by what is read", xscale="log")
        axes[0].set_ylabel("exact value: deliveries a walk")
        for here in axes:
            here.set_ylim(1.3, 9.3)
        handles, labels = axes[0].get_legend_handles_labels()
        handles += [Line2D([], [], color="#666666", linestyle=DASHES[way]) for way in ways]
        last.figure.legend(
            handles, [*labels, *ways], loc="outside lower center", ncols=3, fontsize=7.5
        )


def describe_batches(rows: Sequence[Mapping[str, Any]], way: str) -> str:
    """The two sides of a comparison, as text.

    >>> [describe_batches([{"way": "a", "D": D}], "a") for D in (8, 1)]
    ['batches of 8', 'walks']
    """
    D = next(row["D"] for row in rows if row["way"] == way)
    return f"batches of {D}" if D > 1 else "walks"


DRAWN: Final = (OURS, *RIVALS, REFERENCE)
DASHES: Final[Mapping[str, Any]] = {WAYS[0].name: "-", WAYS[1].name: "--", WAYS[2].name: ":"}


def _draw_line(
    axes: Any, rows: Sequence[Mapping[str, Any]], name: str, way: str, budget: str
) -> None:
    """One method under one way, always in its own colour; a point where it has no curve."""
    index = DRAWN.index(name)
    for row in rows:
        if (row["name"], row["way"]) != (name, way):
            continue
        if len(row[budget]) > 1:
            draw_curve(
                axes, row[budget], row["curve"], name, color=COLOURS[index], marker=MARKS[index],
                markevery=[-1], linestyle=DASHES[way],
            )  # fmt: skip
        else:
            draw_points(axes, row[budget], [row], name, fmt=MARKS[index], color=COLOURS[index])
