"""Preferences of any file that szpo reads: ledgers whole batches, other files pairs of texts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from szpo.data import preferred
from szpo.errors import StorageError, UsageError
from szpo.voting import steps
from tests.support.pairs import ROWS, new_ledger, vote

ASKED = "\n\nHuman: Hello?\n\nAssistant:"
HH = {"chosen": f"{ASKED} Hi.", "rejected": f"{ASKED} No."}
TRL = {"prompt": "Hello?", "chosen": "Hi.", "rejected": "No."}
ULTRA = {
    "instruction": "Hello?",
    "completions": [
        {"response": "Hi.", "overall_score": 9}, {"response": "No.", "overall_score": 2},
    ],
}  # fmt: skip


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "kind"), [(HH, "hh"), (TRL, "trl"), (ULTRA, "ultrafeedback")], ids=str
)
def test_the_format_of_a_preference_file_is_found(tmp_path, record, kind):
    path = write(tmp_path / "pairs.jsonl", record)
    found = preferred.read(path)
    assert (found.file, found.kind, found.of) == ("pairs.jsonl", kind, 1)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (comparison,) = found.comparisons
    (row,) = comparison.rows
    assert (row.prompt.text, row.plus.text, row.minus.text) == ("Hello?", "Hi.", "No.")


def test_a_ledger_gives_whole_batches_with_the_preferred_one_as_plus(tmp_path):
    path = tmp_path / "run.db"
    with new_ledger(path) as ledger:
        vote(ledger, "ann", "c0", "minus")
        vote(ledger, "ben", "c0", "minus")
        vote(ledger, "ann", "c1", "plus")
        vote(ledger, "ben", "c1", "tie")
        with pytest.raises(UsageError, match=r"run\.db has no preference"):
            preferred.read(path)  # an open round says nothing yet
        steps.close(ledger, 0, steps.Closing("operator", epoch=1, reason="enough"))
        head = ledger.query("SELECT row_sha256 FROM events ORDER BY event DESC LIMIT 1")
    found = preferred.read(path)
    assert (found.kind, found.of, found.sha256) == ("ledger", 2, head[0]["row_sha256"])
    first, second = found.comparisons
    assert [(row.plus.text, row.minus.text) for row in first.rows] == [
        (row.minus.text, row.plus.text) for row in ROWS
    ]
    assert [row.plus.text for row in second.rows] == [row.plus.text for row in ROWS]
    assert [(c.k, c.n) for c in found.comparisons] == [(0, 0), (0, 1)]


def test_of_many_preferences_some_are_taken_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(preferred, "MOST", 4)
    path = write(tmp_path / "p.jsonl", *({**TRL, "chosen": f"Hi {i}."} for i in range(10)))
    found = preferred.read(path)
    assert found.of == 10
    assert [c.rows[0].plus.text for c in found.comparisons] == ["Hi 0.", "Hi 2.", "Hi 5.", "Hi 7."]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.jsonl", None, "is no file"),
        ("p.csv", "a,b\n", "preferences are read from"),
        ("p.jsonl", '{"a": 1}\n', r"p\.jsonl:1: .* none of hh, trl, ultrafeedback, label-studio"),
        ("p.jsonl", "{\n", "not valid JSON"),
        ("p.jsonl", "", "holds no records"),
        ("p.jsonl", json.dumps(TRL) + '\n{"a": 1}\n', r"p\.jsonl:2"),
        ("p.jsonl", json.dumps({**TRL, "rejected": "Hi."}) + "\n", "has no preference"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as caught:
        preferred.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_database_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "other.db").write_bytes(b"not SQLite at all")
    with pytest.raises((StorageError, UsageError), match=r"other\.db"):
        preferred.read(tmp_path / "other.db")
