"""The view of votes that people and other programs read."""

import contextlib
import sqlite3

import pytest

from szpo.ledger import canonical
from szpo.replay import verification
from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.quadratic import new_ledger, open_step, settings_of
from tests.support.tampering import failure_of, small_run

TALK = Prompt((("system", "Be brief."), ("user", 'Say "hi"?\nNow.')))
FULL = Row(TALK, Answer("Hi <b>!"), Answer("嗨", "length"))
ROWS = (Row(Prompt.user("Why?"), Answer("Because."), Answer("")), FULL)
EACH = (("Why?", "Because.", ""), ('Be brief.\nSay "hi"?\nNow.', "Hi <b>!", "嗨"))
"""Prompt, plus and minus of both rows, as the view has them."""


def seat(ledger, person, plus_side):
    """A person's seat at the only comparison."""
    ledger.execute("INSERT INTO panelists VALUES (?, 'person', ?, 0)", (person * 8, person))
    ledger.append("assignments", {
        "assignment": f"seat-{person}", "comparison": "c0", "panelist": person * 8,
        "plus_side": plus_side, "prompt_order": "[1, 0]", "served_us": 0, "expires_us": 0,
    })  # fmt: skip


def vote(ledger, person, revision, choice, *, details=None, skip_reason=None, late=0):
    place = f"seat-{person}"
    ledger.append("votes", {
        "assignment": place, "revision": revision, "choice": choice, "late": late,
        "skip_reason": skip_reason, "details": details, "idem": f"key-{revision}-0123456789",
        "payload_sha256": canonical.payload_sha256(place, choice, skip_reason, None, details),
        "received_us": 1_800_000_000_999_999 + 60_000_000 * revision,
    })  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    """One comparison of two prompts: Ada changes her vote, Bob cannot judge, Cleo is excluded."""
    with new_ledger(tmp_path / "run.db", settings_of(N=1, M=3)) as made:
        open_step(made, settings_of(N=1, M=3), [Comparison("c0", 0, 0, 0, ROWS)])
        with made.transaction("test"):
            for person, side in (("Ada", "B"), ("Bob", "A"), ("Cleo", "A")):
                seat(made, person, side)
            vote(made, "Ada", 0, "A", details='{"notes":{"0":"A","1":"B"},"seen":2}')
            vote(made, "Ada", 1, "tie", details='{"notes":{"1":"tie"}}')
            vote(made, "Bob", 0, "skip", skip_reason="language", late=1)
            vote(made, "Cleo", 0, "A", details='{"report":true}')
            change = {"vote": 4, "actor": "Olga", "at_us": 0}
            for action in ("exclude", "reinstate", "exclude"):
                made.append("amendments", {**change, "action": action, "reason": "a test"})
        yield made


def test_it_has_a_row_for_each_vote_and_prompt(ledger):
    rows = ledger.query("SELECT * FROM readable_votes ORDER BY vote, i")
    shared = {(row["step"], row["kind"], row["comparison"]) for row in rows}
    assert shared == {(0, "train", "c0")}
    assert [(r["i"], r["prompt"], r["plus"], r["minus"]) for r in rows] == [
        (i, *texts) for _ in range(4) for i, texts in enumerate(EACH)
    ]
    named = ("vote", "panelist", "revision", "winner", "late", "excluded", "skip_reason")
    assert [tuple(row[name] for name in named) for row in rows[::2]] == [
        (1, "Ada", 0, "minus", 0, 0, None),
        (2, "Ada", 1, "tie", 0, 0, None),
        (3, "Bob", 0, "skip", 1, 0, "language"),
        (4, "Cleo", 0, "plus", 0, 1, None),
    ]
    notes = [row["note"] for row in rows]
    assert notes == ["minus", "plus", None, "tie", None, None, None, None]
    assert [row["received_utc"] for row in rows[:4:2]] == [
        "2027-01-15 08:00:00", "2027-01-15 08:01:00",
    ]  # fmt: skip


def test_it_holds_nothing_of_a_person_but_the_pseudonym(ledger):
    (row, *_) = ledger.query("SELECT * FROM readable_votes")
    assert set(row) == {
        "vote", "step", "kind", "comparison", "panelist", "winner", "i", "prompt", "plus",
        "minus", "note", "skip_reason", "revision", "late", "excluded", "received_utc",
    }  # fmt: skip


def test_a_changed_view_is_found(tmp_path):
    path = tmp_path / "run.db"
    with small_run(path) as run:
        assert verification.verify(run).ok
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("DROP VIEW readable_votes")
        conn.execute("CREATE VIEW readable_votes AS SELECT vote, 'plus' AS winner FROM votes")
    failure = failure_of(path)
    assert failure is not None and failure.row == "readable_votes"
