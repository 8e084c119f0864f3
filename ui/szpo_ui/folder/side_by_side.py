"""Two to six runs side by side: settings that differ, curves, guards, texts on equal prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from szpo.analysis import improvement
from szpo.analysis.improvement import Improvement
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.training import guards, held_out, results
from szpo.training.held_out import HeldOut
from szpo.training.results import CountedStep

FEWEST, MOST = 2, 6
MOST_PROMPTS: Final = 12
"""Prompts whose texts are shown."""
OWN: Final = ("run.name", "run.folder")
"""Settings that always differ and say nothing."""
CHARTS: Final = {
    "heldout": "Share of held-out pairs won against the base",
    "reward": "Mean reward on held-out prompts",
    "kl": "KL to the base, nats",
    "length": "Answer length, tokens",
    "repetition": "Share of repeated word pairs",
}
"""The charts by their keys, in their order."""
WATCHED: Final = {"kl": "KL to the base", "length": "Answer length", "repetition": "Repetition"}


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve, after a number of counted votes and of answers read for them."""

    votes: int
    read: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Guarded:
    """A figure that a run watches: its last value, and whether that is inside its band."""

    value: float
    band: str
    ok: bool


@dataclass(frozen=True, slots=True)
class OneRun:
    """What is read of one run."""

    name: str
    state: str
    votes: int
    read: int
    """Answers read for its votes."""
    helped: Improvement
    settings: Mapping[str, str]
    curves: Mapping[str, tuple[Point, ...]]
    guarded: Mapping[str, Guarded]
    measured: HeldOut | None
    reward: str
    """What its panel was simulated by."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt with each run's answer; None where a run did not measure it."""

    prompt: str
    bases: tuple[tuple[str, tuple[str, ...]], ...]
    """The answers before tuning that differ, each with the names of its runs."""
    tuned: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """The curves of one figure."""

    key: str
    title: str
    curves: tuple[tuple[Point, ...], ...]
    """Of each run, empty where it has none."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Everything that the page of runs side by side shows."""

    runs: tuple[OneRun, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    """Those that differ, with each run's value."""
    texts: tuple[Text, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The charts for which some run has values; rewards of different kinds share none."""
        rewards = dict.fromkeys(run.reward for run in self.runs)
        made = []
        for key, title in CHARTS.items():
            curves = tuple(run.curves.get(key, ()) for run in self.runs)
            if key != "reward":
                made.append(Chart(key, title, curves))
                continue
            for i, name in enumerate(rewards):
                own = zip(self.runs, curves, strict=True)
                alike = tuple(curve if run.reward == name else () for run, curve in own)
                made.append(Chart(f"{key}-{i}", f"{title}: {name}", alike))
        return tuple(chart for chart in made if any(chart.curves))


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without those given twice.

    Raises:
        UsageError: fewer than two, or more than six.
    """
    different = tuple(dict.fromkeys(names))
    if not FEWEST <= len(different) <= MOST:
        raise UsageError(f"choose two to six runs to compare; {len(different)} are chosen")
    return different


def read(paths: Sequence[Path]) -> SideBySide:
    """Read the runs of these files, each as of one moment.

    Raises:
        SzpoError: a file cannot be read.
    """
    runs = tuple(read_run(path) for path in paths)
    return SideBySide(runs, differing([run.settings for run in runs]), shared_texts(runs))


def read_run(path: Path) -> OneRun:
    """Read one run.

    Raises:
        SzpoError: the file cannot be read.
    """
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        total = results.read(ledger)
        helped, measured = improvement.read(ledger), held_out.read(ledger)
        recorded, config = ledger.spec.get("config"), recorded_config(ledger) or Config()
    return OneRun(
        name=path.stem,
        state=total.state,
        votes=total.votes,
        read=total.answers_read,
        helped=helped,
        settings={} if recorded is None else _settings(config, recorded),
        curves=_curves(total.table, helped),
        guarded=_read_guards(config, total.table),
        measured=measured,
        reward=config.panel.reward,
    )


def _settings(config: Config, recorded: Mapping[str, Any]) -> dict[str, str]:
    """Today's settings with the values that the run recorded, also where those are gone."""
    given = flatten(recorded)
    found = flatten(config.model_dump(mode="json"))
    return {key: given.get(key, value) for key, value in found.items()}


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by section.key, values as JSON.

    >>> flatten({"run": {"seed": 3, "name": "a"}, "panel": {"kind": "people"}})
    {'run.seed': '3', 'panel.kind': 'people'}
    """
    return {
        f"{section}.{key}": _word(value)
        for section, keys in settings.items()
        for key, value in keys.items()
        if f"{section}.{key}" not in OWN
    }


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def differing(every: Sequence[Mapping[str, str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Settings whose values differ, with each run's; a dash where a run has none of that name.

    >>> differing([{"run.seed": "3", "run.votes": "8"}, {"run.seed": "4", "run.votes": "8"}])
    (('run.seed', ('3', '4')),)
    """
    names = dict.fromkeys(name for settings in every for name in settings)
    found = ((name, tuple(settings.get(name, "–") for settings in every)) for name in names)
    return tuple((name, values) for name, values in found if len(set(values)) > 1)


def _curves(facts: Sequence[CountedStep], helped: Improvement) -> dict[str, tuple[Point, ...]]:
    votes = list(accumulate((fact.votes for fact in facts), initial=0))
    read = list(accumulate((fact.answers_read for fact in facts), initial=0))
    curves = {
        key: tuple(
            Point(votes[i + 1], read[i + 1], float(value))
            for i, fact in enumerate(facts)
            if fact.state == "applied" and (value := fact.info.get(key)) is not None
        )
        for key in WATCHED
    }
    # A measurement stands after its number of applied steps.
    at = [(p, min(p.steps, len(facts))) for p in helped.points]
    curves["heldout"] = tuple(
        Point(p.votes, read[i], p.wins.value, p.wins.low, p.wins.high)
        for p, i in at
        if p.wins is not None and p.wins.value is not None
    )
    curves["reward"] = tuple(
        Point(p.votes, read[i], p.reward) for p, i in at if p.reward is not None
    )
    return curves


def _read_guards(config: Config, facts: Sequence[CountedStep]) -> dict[str, Guarded]:
    """The bands of a run's settings with the last figures that the run noted."""
    bands = guards.bands(config.guards)
    last: dict[str, float] = {}
    for fact in facts:
        last |= {key: float(fact.info[key]) for key in WATCHED if key in fact.info}
    found = {}
    for key, value in last.items():
        band = getattr(bands, key)
        if band is None:
            found[key] = Guarded(value, "not watched", True)
            continue
        low, high = (f"{edge:g}" if abs(edge) < 1e300 else "" for edge in band)
        words = f"{low} to {high}" if low and high and low != "0" else f"at most {high}"
        found[key] = Guarded(
            value, words if high else f"at least {low}", key not in bands.outside(last)
        )
    return found


def shared_texts(runs: Sequence[OneRun]) -> tuple[Text, ...]:
    """The measured prompts with the answers before and after, those of most runs first."""
    measured = [{p: (base, tuned) for p, base, tuned in run.helped.before_after} for run in runs]
    prompts = dict.fromkeys(prompt for texts in measured for prompt in texts)
    ranked = sorted(prompts, key=lambda prompt: -sum(prompt in texts for texts in measured))
    return tuple(
        Text(
            prompt,
            _bases(prompt, runs, measured),
            tuple(texts[prompt][1] if prompt in texts else None for texts in measured),
        )
        for prompt in ranked[:MOST_PROMPTS]
    )


def _bases(
    prompt: str, runs: Sequence[OneRun], measured: Sequence[Mapping[str, tuple[str, str]]]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {}
    for run, texts in zip(runs, measured, strict=True):
        if prompt in texts:
            found.setdefault(texts[prompt][0], []).append(run.name)
    return tuple((base, tuple(names)) for base, names in found.items())


def as_json(found: SideBySide) -> dict[str, Any]:
    """The curves for the page's script: points as [votes, answers read, value, low, high]."""
    return {
        "runs": [run.name for run in found.runs],
        "charts": [
            {
                "key": chart.key,
                "title": chart.title,
                "reference": 0.5 if chart.key == "heldout" else None,
                "series": [
                    [[p.votes, p.read, p.value, p.low, p.high] for p in curve]
                    for curve in chart.curves
                ],
            }
            for chart in found.charts
        ],
    }
