"""Zips that szpo did not write, whose hashes are right or not: each is refused in one line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szpo.analysis import overview
from szpo.analysis.evidence import RunFacts
from szpo.errors import IntegrityError, ResourceError, StorageError
from szpo.ledger.database import Ledger
from szpo.reports import bundle, exported_rows
from tests.support import many_votes
from tests.support.cases import case

OWN = (StorageError, IntegrityError, ResourceError)
"""What `recompute` promises to raise."""
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("crooked") / "run.db"
    many_votes.make(path, steps=2, comparisons=2, people=6)
    file = io.BytesIO()
    with Ledger.open(path, readonly=True) as ledger:
        bundle.write(ledger, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def files(content):
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        return {name: packed.read(name) for name in packed.namelist() if name != "SHA256SUMS"}


def sums_of(files: Files) -> bytes:
    lines = (f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items())
    return "".join(lines).encode()


def pack(
    files: Files, sums: bytes | None = None, packing: int = zipfile.ZIP_DEFLATED
) -> io.BytesIO:
    """A zip of these files with their right hashes, or with other ``sums``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as packed:
        for name, body in files.items():
            packed.writestr(name, body)
        packed.writestr("SHA256SUMS", sums_of(files) if sums is None else sums)
    return out


def take_or_refuse(file: io.BytesIO) -> None:
    """Nothing else may come out than the numbers or one line."""
    try:
        bundle.recompute(file)
    except OWN as error:
        assert "\n" not in str(error) and len(str(error)) < 500


# ---- files that their hashes do not name ----


def without(files: Files, name: str) -> Files:
    return {other: body for other, body in files.items() if other != name}


def test_a_zip_must_hold_just_what_its_sums_name(files):
    sums = sums_of(files)
    forged = {**files, "votes.jsonl": files["votes.jsonl"].replace(b'"plus"', b'"minus"', 1)}
    for changed, hashes, words in (
        (forged, sums, "votes"),
        (forged, sums_of(without(files, "votes.jsonl")), "votes.jsonl. .* no line"),
        ({**files, "note.txt": b"?"}, sums, "note.txt. .* no line"),
        (without(files, "report.html"), sums, "report.html. .* not in"),
        (without(files, "pairs.jsonl"), None, "lacks pairs.jsonl"),
        (files, sums * 2, "twice"),
        (files, b"hello\n" + sums, "line 1 of"),
    ):
        with case(words):
            with pytest.raises(IntegrityError, match=words) as caught:
                bundle.recompute(pack(changed, hashes))
            assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_a_file_that_stands_twice_is_refused(files):
    file = pack(files)
    with zipfile.ZipFile(file, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("votes.jsonl", b"")
    with pytest.raises(IntegrityError, match=r"'votes\.jsonl' twice"):
        bundle.recompute(file)


# ---- changed bytes ----


def test_a_size_in_the_zip_that_is_not_true_is_found(content):
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        size = packed.getinfo("votes.jsonl").file_size
    lying = content.replace(size.to_bytes(4, "little"), (size - 100).to_bytes(4, "little"))
    assert lying != content
    with pytest.raises((IntegrityError, StorageError)):
        bundle.recompute(io.BytesIO(lying))


def test_a_locked_or_oddly_packed_zip_is_one_line(content, files):
    locked = bytearray(content)
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            locked[start + place] |= 1
    with pytest.raises(StorageError, match="encrypted"):
        bundle.recompute(io.BytesIO(bytes(locked)))
    with pytest.raises(StorageError, match="packed in another way"):
        bundle.recompute(pack(files, packing=zipfile.ZIP_LZMA))
    start = content.find(b"votes.jsonl") + 200
    broken = content[:start] + bytes(50) + content[start + 50 :]
    with pytest.raises((StorageError, IntegrityError)):
        bundle.recompute(io.BytesIO(broken))


@pytest.mark.full
@settings(derandomize=True)
@given(data=st.data())
def test_changed_bytes_are_refused_in_one_line(content, data):
    directory = content.find(b"PK\x01\x02")
    first = data.draw(st.sampled_from([0, directory, len(content) - 22]))
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(first, len(content) - 1))] = data.draw(st.integers(0, 255))
    take_or_refuse(io.BytesIO(bytes(changed)))


# ---- right hashes, wrong values ----

WHOLE = st.one_of(st.integers(-2, 3), st.sampled_from([2**31, 2**53, 2**63, -(2**63), 10**40]))
VALUES = st.one_of(
    st.none(), st.booleans(), WHOLE, st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.lists(WHOLE, max_size=3), st.lists(st.lists(WHOLE, max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.one_of(WHOLE, st.lists(st.floats(), max_size=2))),
    st.sampled_from(["plus", "minus", "tie", "skip", "A", "B", "final", "repeat", "gold", "aa"]),
)  # fmt: skip


def change_vote(content: bytes, draw: Callable[[Any], Any]) -> bytes:
    lines = content.splitlines(True)
    at = draw(st.integers(0, len(lines) - 1))
    vote = json.loads(lines[at])
    for _ in range(draw(st.integers(1, 3))):
        vote[draw(st.sampled_from(sorted(vote)))] = draw(VALUES)
    lines[at] = json.dumps(vote).encode() + b"\n"
    return b"".join(lines)


FACTS = sorted(field.name for field in fields(RunFacts))


def with_fact(content: bytes, name: str, value: object) -> bytes:
    return json.dumps({"facts": {**json.loads(content)["facts"], name: value}}).encode()


def change_run(content: bytes, draw: Callable[[Any], Any]) -> bytes:
    return with_fact(content, draw(st.sampled_from(FACTS)), draw(VALUES))


def change_table(content: bytes, draw: Callable[[Any], Any]) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    row = draw(st.sampled_from(rows))
    value = draw(VALUES)
    place = draw(st.integers(0, len(row)))
    text = value if isinstance(value, str) else json.dumps(value)
    row[place : place + draw(st.integers(0, 1))] = [text]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


CHANGES = {
    "votes.jsonl": change_vote, "run.json": change_run,
    "steps.csv": change_table, "panelists.csv": change_table,
}  # fmt: skip


@pytest.mark.full
@settings(derandomize=True)
@given(data=st.data())
def test_changed_values_with_right_hashes_are_refused_in_one_line(files, data):
    name = data.draw(st.sampled_from(sorted(CHANGES)))
    take_or_refuse(pack({**files, name: CHANGES[name](files[name], data.draw)}))


CROOKED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "k below 0": ("votes.jsonl", lambda b: b.replace(b'"k": 0', b'"k": -1', 1), "line 1.*below 0"),
    "a number as text": ("votes.jsonl", lambda b: b.replace(b'"k": 0', b'"k": "x"', 1), "'k'"),
    "words below 0": (
        "votes.jsonl", lambda b: b.replace(b'"words_plus": ', b'"words_plus": -1', 1), "below 0"
    ),
    "no vote": ("votes.jsonl", lambda b: b + b"\n", "votes.jsonl, line"),
    "a verdict that does not follow": (
        "votes.jsonl", lambda b: b.replace(b'"verdict": "', b'"verdict": "x', 1), "verdict"
    ),
    "steps of no votes": ("run.json", lambda b: with_fact(b, "votes_per_step", 0), "no votes"),
    "an empty band": ("run.json", lambda b: with_fact(b, "bands", {"kl": [2, 1]}), "band kl"),
    "no facts": ("run.json", lambda b: b"{}", "lacks 'facts'"),
    "a deep list": ("run.json", lambda b: b"[" * 100_000, "run.json"),
    "a short line": ("steps.csv", lambda b: b + b"1,2\r\n", "differ in length"),
    "no header": ("steps.csv", lambda b: b"", "no header"),
    "letters": ("panelists.csv", lambda b: b + b"x" * 200_000, "panelists.csv, row"),
}  # fmt: skip


def test_what_is_wrong_and_where_is_said(files):
    for what, (name, change, words) in CROOKED.items():
        with case(what):
            changed = change(files[name])
            assert changed != files[name]
            with pytest.raises(StorageError, match=words) as caught:
                bundle.recompute(pack({**files, name: changed}))
            assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_rows_that_describe_no_run_are_refused(files, monkeypatch):
    def fail(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(overview, "overview", fail)
    with pytest.raises(IntegrityError, match=r"does not describe a run \(ZeroDivisionError"):
        bundle.recompute(pack(files))


# ---- little zips that become large ----


def peak(file: io.BytesIO, words: str) -> int:
    """Bytes that Python holds at most while the file is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ResourceError, match=words) as caught:
            bundle.recompute(file)
        assert caught.value.exit_code == 6 and "\n" not in str(caught.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.full
def test_a_zip_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(content, files):
    bomb = pack({**files, "votes.jsonl": files["votes.jsonl"] + b" " * 300_000_000 + b"\n"})
    assert len(bomb.getvalue()) < 2_000_000
    assert peak(bomb, r"at most 268,435,456.*limit=") < 5_000_000
    kept = ("run.json", "steps.csv", "votes.jsonl", "panelists.csv")
    held, file = sum(len(files[name]) for name in kept), io.BytesIO(content)
    assert sum(map(len, files.values())) < 16 * held
    assert bundle.recompute(file, limit=held) == bundle.recompute(file)
    with pytest.raises(ResourceError, match="the files that the numbers rest on"):
        bundle.recompute(file, limit=held - 1)
    padded = files["pairs.jsonl"] + b" " * 20 * sum(map(len, files.values()))
    with pytest.raises(ResourceError, match="all its files"):
        bundle.recompute(pack({**files, "pairs.jsonl": padded}), limit=held)


def test_a_vote_of_many_little_lists_is_refused_before_it_is_parsed(files):
    vote = json.loads(files["votes.jsonl"].splitlines()[0])
    text = json.dumps({**vote, "notes": "@"}).encode()
    size = 2**24
    bomb = text.replace(b'"@"', b"[" + b"[]," * (size // 3) + b"0]") + b"\n"
    assert peak(pack({**files, "votes.jsonl": bomb}), "line 1 .* 1,048,576") < 2 * size


def test_tables_and_facts_have_limits_of_their_own(files, monkeypatch):
    facts = files["run.json"] + b" " * 2**22
    assert peak(pack({**files, "run.json": facts}), "its run.json.*limit=") < 2**21
    monkeypatch.setattr(exported_rows, "ROWS", 5)
    file = pack(files)
    assert peak(file, "panelists.csv has more than 5 rows.*limit=") < 2**22
    assert bundle.recompute(file, limit=2 * bundle.LIMIT)["panelists"]


@pytest.mark.full
def test_votes_are_parsed_when_they_are_read_and_not_held(files):
    lines = files["votes.jsonl"] * 500
    found = bundle.read(pack({**files, "votes.jsonl": lines}))
    tracemalloc.start()
    assert sum(1 for _ in found.votes) == sum(1 for _ in found.votes) == lines.count(b"\n")
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_a_vote_with_as_many_notes_as_a_page_takes_is_read(files):
    first, rest = files["votes.jsonl"].split(b"\n", 1)
    notes = {str(row): "tie" for row in range(4096)}
    long = json.dumps({**json.loads(first), "notes": notes, "panelist": "\0" * 64}).encode()
    assert 8 * len(long) < exported_rows.LINE_BYTES
    found = bundle.read(pack({**files, "votes.jsonl": long + b"\n" + rest}))
    assert next(iter(found.votes)).notes == notes
