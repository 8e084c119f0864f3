"""`szpo bench browse`: does the browser of comparisons stay fast with 100,000 votes?

A run of that size is written, with notes, reports, skips and texts in Markdown, of words as
frequent as in natural language; the operator's pages are served by a process of their own and
asked over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from rich.console import Console
from rich.table import Table

from szpo.config import settings_file
from szpo.errors import RunError
from szpo.ledger import canonical
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger, Record
from szpo.optim.checked_settings import defaults, settings_to_json
from szpo.optim.directions import DIRECTION_VERSION
from szpo.optim.settings import Settings
from szpo.runs import machine_check
from szpo.types import Answer, Comparison, Info, Prompt, Query, Row, Update
from szpo.voting import counting, steps
from szpo.voting.service import VoteService
from szpo_ui.bench import panel_load
from szpo_ui.bench.crowd import wires
from szpo_ui.bench.wire import Wire
from szpo_ui.operator.vote_filter import SORTS
from szpo_ui.web import credentials
from szpo_ui.web.site import VOTES

COMPARISONS, ROWS, PEOPLE = 200, 4, 2
"""Of each step; panelists answer every comparison."""
PROMPTS: Final = 500
WORDS: Final = 20_000
"""Size of the vocabulary; the n-th word is drawn in proportion to 1/n, as in natural language."""
LENGTH: Final = 60
"""Words of an answer."""
P95: Final = 0.3
"""Target for every kind of page, seconds."""
FULL: Final = "0" * 64
_PAGES: Final = {
    "newest": "", "deep": "after={middle}.{middle}", "round": "round=7", "kind": "kind=train",
    "panelist": "panelist=P-1", "answer": "answer=tie", "not counted": "state=not",
    "notes": "note=1", "reported": "reported=1", "fast": "fast=1", "prompt": "prompt=9",
    "one panelist's notes": "panelist=P-1&note=1&sort=oldest",
    "the commonest word": "q=w00000", "a word": "q=w00700", "a rare word": "q=w19000",
    "three words": "q=w00003+w00040+w00500&sort=split", "a beginning": "q=w001",
    **{f"order: {sort}": f"sort={sort}" for sort in SORTS if sort != "newest"},
}  # fmt: skip
"""What is asked for, once the index is complete."""
_MEANWHILE: Final = "while the index is read"


# ---- the run ----


def make_run(path: Path, votes: int) -> str:
    """Write a run with that number of votes, in applied rounds; returns an operator's session."""
    layout, drawn = (("z", (4,)),), np.random.default_rng(1)
    settings = defaults(1, layout, mu=0.3, N=COMPARISONS, D=ROWS, M=PEOPLE)
    config = settings_file.load(preset_name="people", sets=["model.name=fixed"])
    spec = {
        "config": config.model_dump(mode="json"), "optimizer": settings_to_json(settings),
        "panel": None, "base": {"name": "fixed"},
        "prompts": {"train": PROMPTS, "heldout": 0, "sha256": FULL},
    }  # fmt: skip
    new = NewRun(spec, root_seed=1, layout=layout, direction_version=DIRECTION_VERSION)
    with Ledger.create(path, new) as ledger:
        ledger.execute("PRAGMA synchronous=OFF")  # a file that is thrown away
        ledger.execute("UPDATE controller SET epoch = 1")
        people = [VoteService(ledger).enroll("person", f"P-{i}") for i in range(PEOPLE)]
        for step in range(-(-votes // (COMPARISONS * PEOPLE))):
            _add_step(ledger, settings, step, people, drawn)
        made = credentials.invite(ledger, "operator", "bench")
        return credentials.login(ledger, made.name, made.code)[0]


def _add_step(
    ledger: Ledger, settings: Settings, step: int, people: list[str], drawn: Generator
) -> None:
    steps.record_plan(ledger, 1, settings, Query(step, (), 0.3, None), FULL)
    steps.begin(ledger, 1, step)
    texts = iter(_texts(drawn, 2 * COMPARISONS * ROWS))
    asked = [
        Comparison(
            f"{step:016x}{n:016x}", step, 0, n,
            tuple(
                Row(Prompt.user(f"Prompt {drawn.integers(PROMPTS)}?"), next(texts), next(texts))
                for _ in range(ROWS)
            ),
        )
        for n in range(COMPARISONS)
    ]  # fmt: skip
    steps.store(ledger, 1, steps.StepAnswers(step, asked, FULL), then_open=True)
    heads = counting.comparisons_asked(ledger, step)
    sides = counting.planned_sides(ledger.root_seed, heads, PEOPLE)
    with ledger.transaction("votes"):
        for head in heads:
            for panelist, side in zip(people, sides[head["comparison"]], strict=True):
                _add_vote(ledger, head["comparison"], (panelist, side), drawn)
    steps.close(ledger, step, steps.Closing("auto", epoch=1))
    found = counting.tally(ledger, step, 1, COMPARISONS)
    info = Info(step, (0.0,), (1.0,), 0.5, float(PEOPLE * COMPARISONS))
    result = steps.StepResult([Update(step, 0, coef=0.001)], "sign", info, found, FULL, FULL)
    steps.apply(ledger, 1, result, {})


def _texts(drawn: Generator, count: int) -> list[Answer]:
    odds = 1 / np.arange(1, WORDS + 1)
    words = drawn.choice(WORDS, size=(count, LENGTH), p=odds / odds.sum())
    return [Answer(_markdown([f"w{word:05}" for word in line]), tokens=LENGTH) for line in words]


def _markdown(words: list[str]) -> str:
    """An answer as chat models write them: a bold beginning, text, a list, code in it."""
    head, body, last = words[:3], words[3 : LENGTH // 2], words[LENGTH // 2 :]
    lines = (last[at : at + 10] for at in range(0, len(last), 10))
    items = "\n".join(f"- `{first}` {' '.join(more)}" for first, *more in lines)
    return f"**{' '.join(head)}** {' '.join(body)}\n\n{items}"


def _add_vote(ledger: Ledger, comparison: str, who: tuple[str, str], drawn: Generator) -> None:
    panelist, side = who
    seat, now = f"{panelist[:8]}{comparison}", ledger.clock()
    other = {"A": "B", "B": "A"}[side]
    choice = str(drawn.choice([side, other, "tie", "skip"], p=(0.5, 0.35, 0.13, 0.02)))
    details: Record = {"fast": bool(drawn.random() < 0.05), "device": "wide", "words": 500}
    if drawn.random() < 0.03:
        details["notes"] = {"1": "A"}
    if drawn.random() < 0.001:
        details["report"] = True
    content = (choice, "language" if choice == "skip" else None, 40_000,
               canonical.canonical(details))  # fmt: skip
    ledger.append(
        "assignments",
        {"assignment": seat, "comparison": comparison, "panelist": panelist, "plus_side": side,
         "prompt_order": "[0,1,2,3]", "served_us": now, "expires_us": now + 10**9, "tab": None},
    )  # fmt: skip
    names = ("choice", "skip_reason", "dwell_ms", "details")
    ledger.append(
        "votes",
        {"assignment": seat, "revision": 0, **dict(zip(names, content, strict=True)),
         "rubric_version": 1, "late": False, "idem": f"vote-{seat}",
         "payload_sha256": canonical.payload_sha256(seat, *content),
         "received_us": now + 40_000_000},
    )  # fmt: skip


# ---- the benchmark ----


def main(votes: int = 100_000, times: int = 20, strict: bool = True) -> dict[str, Any]:
    """Pages of the browser of comparisons over a run of many votes.

    Args:
        votes: of the run, at least.
        times: how often each kind of page is asked for.
        strict: fail where a target is missed.

    Raises:
        RunError: a page could not be had, or (strict) the target was missed.
    """
    load, product = machine_check.load_average(), machine_check.matrix_seconds()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "browse.db"
        began = time.perf_counter()
        session = make_run(path, votes)
        written = time.perf_counter() - began
        with panel_load.server(path, "operator") as (port, pid), ThreadPoolExecutor(1) as thread:
            made_s, found = thread.submit(lambda: asyncio.run(_ask(port, session, times))).result()
            rss = panel_load.rss_mb(pid)
        size = path.stat().st_size / 1e6
    pages = {name: _quantiles(seconds) for name, seconds in found.items()}
    everything = _quantiles([s for seconds in found.values() for s in seconds])
    _print(pages, everything)
    print(
        f"run of {votes:,} votes, {size:.0f} MB, written in {written:.0f} s; index "
        f"{made_s[0]:.1f} s after the first visit, its words {made_s[1]:.1f} s after the first "
        f"search; web process {rss:.0f} MB at most\n"
        f"machine: {os.cpu_count()} cores, load {load:.1f} before, 1024³ product "
        f"{1000 * product:.1f} ms"
    )
    slow = [name for name, page in pages.items() if page["p95"] >= P95]
    if slow and strict:
        raise RunError(f"browse: not within {1000 * P95:.0f} ms at p95: {', '.join(slow)}")
    return {"pages": pages, "all": everything, "index_s": made_s, "rss_mb": rss, "slow": slow}


async def _ask(
    port: int, session: str, times: int
) -> tuple[tuple[float, float], dict[str, list[float]]]:
    """Seconds until the index is whole, and its words; and of each page, asked in turn."""
    async with wires(port, [session]) as (wire,):
        began, first = time.perf_counter(), await _get(wire, "")
        found: dict[str, list[float]] = {_MEANWHILE: [first[1]]}
        while b"Reading the record" in first[0]:
            await asyncio.sleep(0.2)
            first = await _get(wire, "")
            found[_MEANWHILE].append(first[1])
        index_s = time.perf_counter() - began
        while b"Reading the record" in (await _get(wire, "q=w00700"))[0]:
            await asyncio.sleep(0.2)
            found[_MEANWHILE].append((await _get(wire, ""))[1])
        words_s = time.perf_counter() - began - index_s
        total = int(re.findall(rb"Comparison (\d+)", (await _get(wire, ""))[0])[0])
        found |= {name: [] for name in _PAGES}
        for _ in range(times):
            for name, query in _PAGES.items():
                asked = query.format(middle=total // 2)
                found[name].append((await _get(wire, asked))[1])
        return (index_s, words_s), found


async def _get(wire: Wire, query: str) -> tuple[bytes, float]:
    reply = await wire.ask("GET", f"{VOTES}?{query}")
    if reply.status != 200 or b"</html>" not in reply.body:
        raise RunError(f"browse: the page {query!r} answered {reply.status}")
    return reply.body, reply.seconds


def _quantiles(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.quantile(seconds, (0.5, 0.95)).tolist()
    return {"p50": p50, "p95": p95, "slowest": max(seconds)}


def _print(pages: dict[str, dict[str, float]], everything: dict[str, float]) -> None:
    table = Table(title="Pages of the browser of comparisons; milliseconds")
    table.add_column("page")
    for name in ("p50", "p95", "slowest"):
        table.add_column(name, justify="right")
    for title, page in (*pages.items(), ("all", everything)):
        table.add_row(title, *(f"{1000 * page[name]:.0f}" for name in ("p50", "p95", "slowest")))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
