"""`szpo bench judge`: accuracy and habits of a judge, on pairs whose better answer is certain."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from szpo.config import settings_file
from szpo.evaluators.panel_factory import StartingPolicy
from szpo.judges.endpoint import Endpoint
from szpo.judges.judge_panel import judge as maker
from szpo.judges.llm_judge import LanguageJudge, Opinionated
from szpo.judges.local_model import Local
from szpo.models import loading
from szpo.policies.hosts import LocalHost
from szpo_simulators.judges import probes
from szpo_simulators.judges.stub_endpoint import StubEndpoint
from szpo_simulators.study import Spec, Study, describe_machine

MODELS: tuple[tuple[str, dict[str, Any], dict[str, int]], ...] = (
    ("SmolLM2, odds", {"ask": "soft"}, {}),
    ("SmolLM2, words", {"ask": "verdict", "max_tokens": 48, "retries": 1}, {"habits": 0}),
    ("SmolLM2, grades", {"ask": "grades", "max_tokens": 48, "retries": 1}, {"habits": 0}),
)
"""Judges measured by default; generating text is slow, so habits are measured on the odds."""
STUBS = ("always-a", "nonsense", "longer", "silent")
FEW = 6
"""Comparisons put to an endpoint that is silent, and to anybody in a quick look."""
OWN_TOKENS = 32
SPEAKERS = (Local, Endpoint)


def main(
    sets: Sequence[str] = (),
    pairs: int = 32,
    habits: int = 12,
    other: str = "tiny",
    quick: bool = False,
    folder: Path = Path("runs/bench-judge"),
) -> dict[str, Any]:
    """Measure a judge: accuracy where truth is known, consistency, and its habits.

    Without --sets: SmolLM2 asked in several ways, and stand-ins for endpoints with known faults.

    Args:
        sets: Settings of the judge to measure, such as judge.kind=endpoint judge.base_url=URL.
        pairs: Pairs for accuracy, consistency and place.
        habits: Pairs for each of names, length and own texts.
        other: The model whose texts stand against the judge's own.
        quick: Few pairs.
        folder: Where finished cells and tables go.
    """
    study = Study("judge", folder, quick)
    few = min(FEW, pairs)
    size = {"pairs": few, "habits": few} if quick else {"pairs": pairs, "habits": habits}
    rows: list[dict[str, Any]] = []
    if sets:
        rows.append({"judge": " ".join(sets), "sets": list(sets), "stub": None, "of": size})
    else:
        for name, settings, of in MODELS:
            texts = [f"judge.{key}={value}" for key, value in settings.items()]
            rows.append({"judge": name, "sets": texts, "stub": None, "of": {**size, **of}})
        for name in STUBS:
            of = dict.fromkeys(size, few) if name == "silent" else size
            rows.append({"judge": f"endpoint: {name}", "sets": [], "stub": name, "of": of})
    parts = {
        part: study.cells(part, [{**row, "part": part, "other": other} for row in rows], work)
        for part in ("truth", "names", "length", "own")
    }
    found = [
        {"judge": row["judge"], **{part: parts[part][i] for part in parts}}
        for i, row in enumerate(rows)
    ]
    study.table("on pairs whose better answer is certain", found, COLUMNS)
    study.table("habits", found, HABITS)
    study.csv("judges", [_flatten(row) for row in found])
    study.console.print(describe_machine())
    return {"judges": found}


def work(spec: Spec) -> Mapping[str, Any]:
    """One part of one judge's examination."""
    if spec["stub"] is None:
        return _examine(_judge(tuple(spec["sets"])), spec)
    with StubEndpoint(spec["stub"]) as stub:
        patience = 0.2 if spec["stub"] == "silent" else 60.0
        sets = ("judge.kind=endpoint", f"judge.base_url={stub.url}", "judge.attempts=1",
                "judge.retries=1", f"judge.timeout_s={patience}")  # fmt: skip
        return _examine(_judge(sets), spec)


def _examine(judge: Opinionated, spec: Spec) -> Mapping[str, Any]:
    began = time.monotonic()
    truth, habits = (probes.tasks(spec["of"][part]) for part in ("pairs", "habits"))
    found: dict[str, Any] = {}
    match spec["part"]:
        case "truth":
            found = probes.ask(judge, truth).figures()
        case "names" if (
            habits and isinstance(judge, LanguageJudge) and judge.settings.ask != "grades"
        ):
            found = probes.rename(judge, habits)
        case "length":
            found = probes.ask(judge, [probes.pad(each) for each in habits]).figures()
        case "own" if (
            habits and isinstance(judge, LanguageJudge) and isinstance(judge.backend, SPEAKERS)
        ) and spec["stub"] is None:
            own = replace(judge.backend, temperature=1.0, max_tokens=OWN_TOKENS)
            theirs = Local(*_model(spec["other"]).beside(spec["other"]), 1.0, OWN_TOKENS)
            both = probes.own_and_other(own, theirs, habits)
            found = probes.ask(judge, both).figures() if both else {}
    return {**found, "seconds": time.monotonic() - began}


@cache
def _judge(sets: tuple[str, ...]) -> Opinionated:
    """The judge of these settings; its failures are counted, not raised."""
    config = settings_file.load(sets=["model.dtype=fp32", *sets, "judge.on_error=skip"])
    maker.check(config)
    host = _model(config.judge.model) if config.judge.kind == "local" else None
    return maker.build(config, StartingPolicy(host=host)).judges[0]


@cache
def _model(name: str) -> LocalHost:
    return LocalHost(loading.load(name, dtype="fp32"))


def format_share(value: Sequence[float] | None) -> str:
    """A share with its interval, for a table.

    >>> format_share([0.5, 0.25, 0.75, 10]), format_share(None)
    ('50 % [25, 75]', '–')
    """
    if value is None:
        return "–"
    return f"{value[0]:.0%} [{100 * value[1]:.0f}, {100 * value[2]:.0f}]".replace("%", " %")


COLUMNS: dict[str, Any] = {
    "judge": "judge",
    "right, of decided": lambda r: format_share(r["truth"]["plus"]),
    "ties": lambda r: format_share(r["truth"]["ties"]),
    "unreadable": lambda r: format_share(r["truth"]["unreadable"]),
    "right, liking cancelled": lambda r: format_share(r["truth"]["liking cancelled"]),
    "both orders agree": lambda r: format_share(r["truth"]["consistency"]),
    "first place": lambda r: format_share(r["truth"]["first place"]),
    "s a pair": lambda r: f"{r['truth']['seconds'] / max(1, r['truth']['of']['pairs']):.2f}",
    "tokens in, out": lambda r: "{:,}, {:,}".format(*r["truth"]["tokens"]),
}
HABITS: dict[str, Any] = {
    "judge": "judge",
    **{name: lambda r, n=name: format_share(r["names"].get(n)) for name in probes.OTHER_NAMES},
    "longer, of decided": lambda r: format_share(r["length"].get("plus")),
    "longer: ties": lambda r: format_share(r["length"]["ties"]),
    "own, of decided": lambda r: format_share(r["own"].get("plus")),
    "what failed": lambda r: "; ".join(r["truth"]["errors"]) or "–",
}


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tables' cells as plain texts."""
    every = {**COLUMNS, **HABITS}
    return {
        head: row[read] if isinstance(read, str) else read(row) for head, read in every.items()
    }
