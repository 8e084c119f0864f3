"""Compares two to six runs: differing settings, curves, guards, answers to the same prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from szpo.analysis import improvement
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.training import guards, held_out, results
from szpo.training.results import StepRow

FEWEST, MOST = 2, 6
MOST_PROMPTS: Final = 12
"""Most prompts whose answers are shown."""
OWN: Final = ("run.name", "run.folder")
"""Settings left out, since they differ without meaning."""
CHARTS: Final = {
    "heldout": "Share of held-out pairs won against the base",
    "reward": "Mean reward on held-out prompts",
    "kl": "KL to the base, nats",
    "length": "Answer length, tokens",
    "repetition": "Share of repeated word pairs",
}
"""The charts' titles by key, in the order of the page."""
WATCHED: Final = {
    "kl": "KL to the base, as rounds noted it",
    "length": "Answer length",
    "repetition": "Repetition",
}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without duplicates.

    Raises:
        UsageError: fewer than two, or more than six.
    """
    different = tuple(dict.fromkeys(names))
    if not FEWEST <= len(different) <= MOST:
        raise UsageError(f"choose two to six runs to compare, not {len(different)}")
    return different


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """The page's content for the runs of these files, each read as of one moment.

    Raises:
        SzpoError: a file cannot be read.
    """
    return side_by_side([read_run(path) for path in paths])


def side_by_side(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs together: settings that differ, charts, guarded figures, texts."""
    watched = [(key, title) for key, title in WATCHED.items()
               if any(key in run["guarded"] for run in runs)]  # fmt: skip
    return {
        "runs": runs, "settings": differing([run["settings"] for run in runs]),
        "charts": list_charts(runs), "watched": watched, "texts": shared_texts(runs),
    }  # fmt: skip


def read_run(path: Path) -> dict[str, Any]:
    """One run: its totals, settings, curves, guards, and the reward of a simulated panel.

    Raises:
        SzpoError: the file cannot be read.
    """
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        total = results.read(ledger)
        helped, measured = improvement.read(ledger), held_out.read(ledger)
        recorded, config = ledger.spec.get("config"), recorded_config(ledger) or Config()
    # Today's settings with the run's recorded values, even values that szpo no longer allows.
    given, known = flatten(recorded or {}), flatten(config.model_dump(mode="json"))
    return {
        "name": path.stem,
        "state": total.state,
        "votes": total.votes,
        "read": total.answers_read,
        "helped": helped,
        "settings": {key: given.get(key, value) for key, value in known.items() if recorded},
        "curves": improvement.curves(total.table, helped),
        "guarded": _read_guards(config, total.table),
        "measured": measured,
        "reward": config.panel.reward,
    }


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text by section.key; a value that is no text is written as JSON.

    >>> flatten({"run": {"seed": 3, "name": "a"}, "panel": {"kind": "people"}})
    {'run.seed': '3', 'panel.kind': 'people'}
    """

    def word(value: Any) -> str:
        return "none" if value is None else value if isinstance(value, str) else json.dumps(value)

    return {
        f"{section}.{key}": word(value)
        for section, keys in settings.items()
        for key, value in keys.items()
        if f"{section}.{key}" not in OWN
    }


def differing(every: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Settings whose values differ, with each run's value; a dash if a run lacks the setting.

    >>> differing([{"run.seed": "3", "run.votes": "8"}, {"run.seed": "4", "run.votes": "8"}])
    {'run.seed': ('3', '4')}
    """
    names = dict.fromkeys(name for settings in every for name in settings)
    found = {name: tuple(settings.get(name, "–") for settings in every) for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def list_charts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The charts for which some run has values; each kind of reward has its own chart.

    Each chart has one curve per run, which may be empty.
    """
    wanted = [(key, title, None) for key, title in CHARTS.items() if key != "reward"]
    kinds = dict.fromkeys(run["reward"] for run in runs)
    wanted[1:1] = [("reward", f"{CHARTS['reward']}: {kind}", kind) for kind in kinds]
    made = []
    for i, (key, title, kind) in enumerate(wanted):
        series = [run["curves"][key] if kind in (None, run["reward"]) else [] for run in runs]
        if any(series):
            made.append({
                "key": key if kind is None else f"{key}-{i - 1}", "title": title,
                "reference": 0.5 if key == "heldout" else None, "series": series,
            })  # fmt: skip
    return made


def _read_guards(config: Config, table: Sequence[StepRow]) -> dict[str, dict[str, Any]]:
    """The run's last recorded figures, each with its guard's band from the settings."""
    bands = guards.bands(config.guards)
    last: dict[str, float] = {}
    for step in table:
        noted = {key: getattr(step, key) for key in WATCHED}
        last |= {key: value for key, value in noted.items() if value is not None}
    found = {}
    for key, value in last.items():
        words = "not watched"
        if (band := getattr(bands, key)) is not None:
            low, high = (f"{edge:g}" if abs(edge) < 1e300 else "" for edge in band)
            words = f"{low} to {high}" if low and high and low != "0" else f"at most {high}"
            words = words if high else f"at least {low}"
        found[key] = {"value": value, "band": words, "ok": key not in bands.outside(last)}
    return found


def shared_texts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measured prompts with answers before and after tuning; those in most runs come first.

    ``bases`` are the different answers before tuning, each with the answers after tuning of the
    runs that share it, by the run's name.
    """
    measured = {run["name"]: {p: (b, t) for p, b, t in run["helped"].before_after} for run in runs}
    prompts = Counter(prompt for texts in measured.values() for prompt in texts)
    found = []
    for prompt, _ in prompts.most_common(MOST_PROMPTS):
        bases: dict[str, dict[str, str]] = {}
        for name, texts in measured.items():
            if prompt in texts:
                base, tuned = texts[prompt]
                bases.setdefault(base, {})[name] = tuned
        found.append({"prompt": prompt, "bases": list(bases.items())})
    return found
