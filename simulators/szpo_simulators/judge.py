"""`szpo bench judge`: accuracy and biases of a judge, on pairs whose better answer is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from szpo import seeds
from szpo.config import settings_file
from szpo.judges.endpoint import Endpoint
from szpo.judges.judge_factory import Local
from szpo.judges.judge_factory import judge as maker
from szpo.judges.llm_judge import LanguageJudge, Opinion, Opinionated
from szpo.judges.prompting import Backend, Labels, Question
from szpo.metrics import share
from szpo.models import loading, named_models
from szpo.policies.backend import LocalBackend
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting.panel_factory import StartingPolicy
from szpo_simulators.panels.text_features import verifier
from szpo_simulators.study import Spec, Study, describe_machine, format_cells

Change = Callable[[str], str]
FORMS: Final[tuple[tuple[str, str, Change, Change], ...]] = (
    ("lowercase", "Use small letters only.", str.lower, str),
    ("uppercase", "Use capital letters only.", str.upper, str),
    ("exclaims", "Use an exclamation mark.", lambda t: t[:-1] + "!", str),
    ("quoted", "Put the whole answer in double quotes.", lambda t: f'"{t}"', str),
    ("question", "End with a question.", lambda t: t + " Or was it?", lambda t: t + " It was."),
    ("has_digit", "Name a number, in digits.", lambda t: t + " At 7.", lambda t: t + " At ten."),
    ("no_comma", "Use no comma.", lambda t: t.replace(",", ""), lambda t: f"Well, {t}"),
    (
        "contains(table)",
        'Use the word "table".',
        lambda t: t + " By the table.",
        lambda t: t + " By the chair.",
    ),
)
"""(verifier, request in words, change that passes the verifier, change that fails it)."""
OTHER_NAMES: Final[dict[str, Labels]] = {
    "letters exchanged": ("B", "A"),
    "numbers": ("1", "2"),
    "assistants": ("Assistant 1", "Assistant 2"),
}


@cache
def tasks(count: int, seed: int = 0, rows: int = 1) -> tuple[Comparison, ...]:
    """Comparisons whose plus side has the requested form and whose minus side does not.

    >>> row = tasks(1)[0].rows[0]
    >>> row.prompt.text, row.plus.text
    ('Tell me about the cat. Use small letters only.', 'this time the cat was beautiful.')
    """
    texts = named_models.tiny_corpus(seed, count * rows)
    found = []
    for i in range(count):
        made = []
        for j in range(rows):
            name, asked, keep, miss = FORMS[(i + j) % len(FORMS)]
            ask, text = next(texts)
            good, bad = keep(text), miss(text)
            check = verifier(name)
            assert check(good) and not check(bad), (name, text)
            made.append(Row(Prompt.user(f"{ask} {asked}"), Answer(good), Answer(bad)))
        found.append(Comparison(f"task-{seed}-{i}", 0, 0, i, tuple(made)))
    return tuple(found)


def pad(comparison: Comparison) -> Comparison:
    """The plus answer (as minus) against a padded copy of it (as plus)."""
    rows = tuple(
        Row(r.prompt, Answer(f"{r.plus.text} To say it once more: {r.plus.text}"), r.plus)
        for r in comparison.rows
    )
    return replace(comparison, id=f"{comparison.id}-padded", rows=rows)


def figures(opinions: Sequence[Opinion]) -> dict[str, Any]:
    """Shares as [value, low, high, of] with 95 % Wilson intervals; None if no answer counts."""
    choices = [each.choice for each in opinions]
    details = [each.details for each in opinions]
    # Answers in both orders, A for plus; the answer of a judge without orders counts twice.
    orders = [
        (pair[0], pair[1])
        for each in opinions
        if each.choice != "skip"
        for pair in each.details.get("orders") or [(each.choice, each.choice)]
    ]
    firsts = [a == "A" for a, _ in orders if a != "tie"]
    firsts += [b == "B" for _, b in orders if b != "tie"]
    odds = [each["p"] > 0.5 for each in details if "p" in each and each["p"] != 0.5]
    return {
        "consistency": share_of([a == b != "tie" for a, b in orders]),
        "first place": share_of(firsts),
        "plus": share_of([choice == "A" for choice in choices if choice in ("A", "B")]),
        "liking cancelled": share_of(odds),
        "ties": share_of([choice == "tie" for choice in choices]),
        "unreadable": share_of([choice == "skip" for choice in choices]),
        "errors": sorted({str(d["error"]) for d in details if "error" in d}),
        "tokens": [sum(d.get("tokens", (0, 0))[i] for d in details) for i in (0, 1)],
    }


def share_of(hits: Sequence[bool]) -> list[float] | None:
    """A share as [value, low, high, of]; None without values."""
    if not hits:
        return None
    found = share(sum(hits), len(hits))
    return [sum(hits) / len(hits), found.low, found.high, len(hits)]


def ask(judge: Opinionated, comparisons: Sequence[Comparison]) -> list[Opinion]:
    """Ask the judge about each comparison once, with plus on side A."""
    return [
        judge.opinion(
            each, panelist="p", plus_side="A", key=seeds.derive(0, "bench", name=each.id)
        )
        for each in comparisons
    ]


def rename(judge: LanguageJudge, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How often single replies prefer the same answer when the two sets get other names."""
    before = ask(judge, comparisons)
    found = {}
    for name, labels in OTHER_NAMES.items():
        after = ask(replace(judge, labels=labels), comparisons)
        same = [
            one == other
            for a, b in zip(before, after, strict=True)
            if "skip" not in (a.choice, b.choice)
            for pair, again in zip(a.details["orders"], b.details["orders"], strict=True)
            for one, other in zip(pair, again, strict=True)
        ]
        found[name] = share_of(same)
    return found


def own_and_other(
    own: Backend, other: Backend, comparisons: Sequence[Comparison]
) -> tuple[Comparison, ...]:
    """Both models' answers to the same requests; plus is the judge's own model.

    Only pairs in which both or neither answer has the requested form are kept: these are equally
    good by that measure.
    """
    prompts = [each.rows[0].prompt for each in comparisons]
    asked = [Question(p, seeds.derive(0, "own", name=p.text)) for p in prompts]
    mine, theirs = own.write(asked), other.write(asked)
    found = []
    for i, (each, a, b) in enumerate(zip(comparisons, mine, theirs, strict=True)):
        check = verifier(FORMS[i % len(FORMS)][0])
        texts = a.text.strip(), b.text.strip()
        if all(texts) and texts[0] != texts[1] and check(texts[0]) == check(texts[1]):
            row = Row(each.rows[0].prompt, Answer(texts[0]), Answer(texts[1]))
            found.append(replace(each, id=f"{each.id}-own", rows=(row,)))
    return tuple(found)


MODELS: tuple[tuple[str, dict[str, Any], dict[str, int]], ...] = (
    ("SmolLM2, odds", {"ask": "soft"}, {}),
    ("SmolLM2, words", {"ask": "verdict", "max_tokens": 48}, {"habits": 0}),
    ("SmolLM2, grades", {"ask": "grades", "max_tokens": 48}, {"habits": 0}),
)
"""(name, settings, sizes) of default judges; habits use odds only, since text is slow."""
QUICK_PAIRS = 6
"""Comparisons for each judge with ``--quick``."""
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
    """Measure a judge: accuracy where the truth is known, consistency and biases.

    Without --sets: SmolLM2 asked in several ways.

    Args:
        sets: Settings of the judge to measure, such as judge.kind=endpoint judge.base_url=URL.
        pairs: Pairs for accuracy, consistency and position.
        habits: Pairs for each of names, length and own texts.
        other: The model whose texts are compared with the judge's own.
        quick: Few pairs.
        folder: Folder of finished cells and tables.
    """
    study = Study("judge", folder, quick)
    few = min(QUICK_PAIRS, pairs)
    size = {"pairs": few, "habits": few} if quick else {"pairs": pairs, "habits": habits}
    rows: list[dict[str, Any]] = [
        {"judge": name, "sets": [f"judge.{key}={value}" for key, value in settings.items()],
         "of": {**size, **of}}
        for name, settings, of in MODELS
    ]  # fmt: skip
    if sets:
        rows = [{"judge": " ".join(sets), "sets": list(sets), "of": size}]
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
    every = {**COLUMNS, **HABITS}
    study.csv("judges", [dict(zip(every, format_cells(r, every), strict=True)) for r in found])
    study.console.print(describe_machine())
    return {"judges": found}


def work(spec: Spec) -> Mapping[str, Any]:
    """Do one part of one judge's measurement."""
    judge, began = _judge(tuple(spec["sets"])), time.monotonic()
    truth, habits = (tasks(spec["of"][part]) for part in ("pairs", "habits"))
    found: dict[str, Any] = {}
    match spec["part"]:
        case "truth":
            found = figures(ask(judge, truth))
        case "names" if (
            habits and isinstance(judge, LanguageJudge) and judge.settings.ask != "grades"
        ):
            found = rename(judge, habits)
        case "length":
            found = figures(ask(judge, [pad(each) for each in habits]))
        case "own" if (
            habits and isinstance(judge, LanguageJudge) and isinstance(judge.backend, SPEAKERS)
        ):
            drawn: dict[str, Any] = {"temperature": 1.0, "max_tokens": OWN_TOKENS}
            own = (
                replace(judge.backend, **drawn)
                if isinstance(judge.backend, Local)
                else replace(judge.backend, settings=judge.settings.model_copy(update=drawn))
            )
            theirs = Local(_model(spec["other"]).beside(spec["other"]), 1.0, OWN_TOKENS)
            both = own_and_other(own, theirs, habits)
            found = figures(ask(judge, both)) if both else {}
    return {**found, "seconds": time.monotonic() - began}


@cache
def _judge(sets: tuple[str, ...]) -> Opinionated:
    """The judge with these settings; its failures become skips."""
    config = settings_file.load(sets=["model.dtype=fp32", *sets, "judge.on_error=skip"])
    maker.check(config)
    host = _model(config.judge.model) if config.judge.kind == "local" else None
    return maker.build(config, StartingPolicy(host=host)).judges[0]


@cache
def _model(name: str) -> LocalBackend:
    return LocalBackend(loading.load(name, dtype="fp32"))


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
    **{name: lambda r, n=name: format_share(r["names"].get(n)) for name in OTHER_NAMES},
    "longer, of decided": lambda r: format_share(r["length"].get("plus")),
    "longer: ties": lambda r: format_share(r["length"]["ties"]),
    "own, of decided": lambda r: format_share(r["own"].get("plus")),
    "what failed": lambda r: "; ".join(r["truth"]["errors"]) or "–",
}
