"""A run's votes as pairs: what counts, whose letters, and what stands behind each pair."""

from __future__ import annotations

import pytest

from szpo.baselines.ledger_pairs import LedgerPairs, read_pairs
from szpo.data import preference_files
from szpo.ledger.database import Ledger
from szpo.voting import steps
from szpo.voting.service import VoteService
from tests.support.pairs import new_ledger, vote


@pytest.fixture
def ledger(tmp_path):
    with new_ledger(tmp_path / "run.db") as made:
        yield made


def close(ledger: Ledger) -> LedgerPairs:
    steps.close(ledger, 0, steps.Closing("operator", epoch=1, reason="enough"))
    return read_pairs(ledger)


def words(found: LedgerPairs) -> list[tuple[str, str, str, int]]:
    return [(p.chosen.text, p.rejected.text, p.source, p.votes) for p in found.pairs]


def test_a_batch_verdict_is_a_pair_for_each_row_that_differs(ledger):
    for who in ("ann", "ben"):
        vote(ledger, who, "c0", "minus")
    vote(ledger, "ann", "c1", "plus")
    vote(ledger, "ben", "c1", "tie")
    found = close(ledger)
    assert words(found) == [
        ("Cold.", "Warm.", "batch", 2), ("Salty.", "Good.", "batch", 2),
        ("Warm.", "Cold.", "batch", 2), ("Good.", "Salty.", "batch", 2),
    ]  # fmt: skip
    assert (found.pairs[0].chosen.end, found.pairs[0].rejected.end) == ("length", "stop")
    # Four votes, each on two rows of two answers; the identical row is not read.
    assert (found.cost.votes, found.cost.answers_read) == (4, 16)
    assert (found.comparisons, found.ties) == (2, 0)


def test_votes_that_cancel_are_a_tie_and_open_rounds_say_nothing(ledger):
    vote(ledger, "ann", "c0", "plus")
    vote(ledger, "ben", "c0", "minus")
    assert read_pairs(ledger).pairs == ()
    found = close(ledger)
    assert (words(found), found.ties, found.comparisons) == ([], 1, 1)


def test_a_note_goes_before_the_verdict_on_the_batch(ledger):
    vote(ledger, "ann", "c0", "plus", {0: "minus"})
    vote(ledger, "ben", "c0", "plus", {0: "minus", 2: "tie"})
    vote(ledger, "ann", "c1", "plus", {2: "minus"})
    vote(ledger, "ben", "c1", "plus", {2: "plus"})
    found = close(ledger)
    assert words(found) == [
        ("Cold.", "Warm.", "note", 2),  # c0, row 2: noted as a tie, so no pair
        ("Warm.", "Cold.", "batch", 2),  # c1, row 2: the notes cancel
    ]


def test_an_excluded_vote_gives_no_pair(ledger):
    vote(ledger, "ann", "c0", "plus")
    VoteService(ledger).amend(ledger.votes(0)[0]["vote"], "exclude", "by mistake", "ann")
    assert close(ledger).pairs == ()


def test_pairs_go_out_in_trls_format_and_come_back(ledger, tmp_path):
    vote(ledger, "ann", "c0", "plus", {2: "minus"})
    found = close(ledger)
    preference_files.write(tmp_path / "pairs.jsonl", found.pairs)
    again = preference_files.read(tmp_path / "pairs.jsonl").pairs
    assert [(p.prompt, p.chosen.text, p.rejected.text, p.source, p.votes) for p in again] == [
        (p.prompt, p.chosen.text, p.rejected.text, p.source, p.votes) for p in found.pairs
    ]
