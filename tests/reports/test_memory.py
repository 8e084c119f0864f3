"""What leaves a run is written while it is read: four times the votes take hardly more memory."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from szpo.analysis import html_report, overview, vote_export, vote_rows
from szpo.ledger.database import Ledger
from tests.support import many_votes

COMPARISONS, PEOPLE = 10, 40
FEW, MANY = 2, 8
"""Steps of the two runs; each step has 400 votes."""
MOST = 2.0
"""The peak of the long run may be this many times that of the short one; a list has nearly 4."""


def unread(write: Callable[[Ledger, TextIO], object], ledger: Ledger) -> None:
    with open(os.devnull, "w", encoding="utf-8") as file:
        write(ledger, file)


READS: dict[str, Callable[[Ledger], object]] = {
    "csv": lambda ledger: unread(vote_export.write_csv, ledger),
    "jsonl": lambda ledger: unread(vote_export.write_jsonl, ledger),
    "page": html_report.render,
    "overview": lambda ledger: overview.overview(vote_rows.read_evidence(ledger)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and one of four times as many votes."""
    folder = tmp_path_factory.mktemp("memory")
    for steps in (FEW, MANY):
        path = folder / f"{steps}.db"
        many_votes.make(path, steps=steps, comparisons=COMPARISONS, people=PEOPLE)
    return folder / f"{FEW}.db", folder / f"{MANY}.db"


def peak_of(path: Path, read: Callable[[Ledger], object]) -> int:
    """The most bytes that Python held while it read a run."""
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        tracemalloc.start()
        try:
            read(ledger)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.full
@pytest.mark.parametrize("what", READS)
def test_memory_hardly_grows_with_the_votes(runs, what):
    few, many = runs
    peak_of(few, READS[what])  # imports are no part of it
    assert peak_of(many, READS[what]) < MOST * peak_of(few, READS[what])
