"""The export: its files open elsewhere, and give the dashboard's numbers again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load

from szpo import seeds
from szpo.analysis import evidence, overview
from szpo.cli.app import call
from szpo.errors import IntegrityError, StorageError
from szpo.intervals import wilson
from szpo.ledger import canonical
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.reports import bundle
from szpo.voting import lease, steps
from tests.support.browser import MovableClock, Stage, make

NAMES = ("P-01", "=HYPERLINK(1)", "'@sum")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Twelve steps of mixed votes by three people, a pause, and an open round with two votes."""
    made = make(tmp_path_factory.mktemp("bundle") / "run.db", clock=MovableClock())
    service = made.site.service
    people = [service.enroll("person", name) for name in NAMES]
    made.advance()
    for number in range(12):
        for place, person in enumerate(people):
            while (seat := service.assign(person)) is not None:
                made.clock.forward(20 + 3 * place)
                coin = seeds.integer(seeds.derive(7, "coin", step=number, name=seat.id[:4]), 0, 10)
                choice = "skip" if coin == 9 else "tie" if coin == 8 else "AB"[coin % 2]
                notes = {"notes": {"0": "A", "1": "tie", "9": "B"}, "fast": coin == 3}
                service.cast(seat.id, choice, idem=seat.id, dwell_ms=15_000 + 100 * coin,
                             details=notes)  # fmt: skip
        made.advance()
        if made.ledger.last_applied() != number:  # a comparison that too many skipped
            assert steps.close(made.ledger, number, "operator", reason="skips", actor="olga")
            made.advance()
        if number == 4:
            lease.pause(made.ledger, "olga", "lunch")
            made.clock.forward(600)
            lease.unpause(made.ledger, "olga")
    for person in people[:2]:
        seat = service.assign(person)
        assert seat is not None
        service.cast(seat.id, "A", idem=seat.id)
    return made


def exported(stage: Stage, **what: Any) -> tuple[zipfile.ZipFile, overview.Overview, bytes]:
    file = io.BytesIO()
    page = bundle.write(stage.ledger, file, **what)
    return zipfile.ZipFile(file), page, file.getvalue()


def test_the_zip_alone_gives_every_number_of_the_dashboard(stage: Stage) -> None:
    now = stage.clock()
    shown = overview.overview(evidence.read(stage.ledger, as_of_us=now))
    _, written, content = exported(stage, as_of_us=now)
    assert bundle.recompute(io.BytesIO(content)) == shown == written
    assert shown.progress.hidden == 2
    assert shown.progress.applied == 12


def test_pandas_finds_the_headline_numbers_without_this_library(stage: Stage) -> None:
    packed, page, _ = exported(stage)
    told = json.loads(packed.read("overview.json"))
    votes = pd.read_json(io.BytesIO(packed.read("votes.jsonl")), lines=True)
    steps = pd.read_csv(io.BytesIO(packed.read("steps.csv"))).set_index("step")
    counted = votes[votes["counted"]]
    sided = counted[counted["verdict"].isin(["plus", "minus"])]

    a = wilson(int((sided["choice"] == "A").sum()), len(sided))
    assert [told["agreement"]["a_side"][k] for k in ("low", "high")] == pytest.approx(a, abs=5e-4)

    pairs = [
        one == other
        for _, group in sided.groupby("comparison")
        for one, other in combinations(group["verdict"], 2)
    ]
    same = told["agreement"]["same"]
    assert same["hits"] / same["of"] == pytest.approx(sum(pairs) / len(pairs))
    both = wilson(sum(pairs), len(pairs))  # M = 2: pairs are disjoint
    assert [same["low"], same["high"]] == pytest.approx(both, abs=5e-4)
    assert told["agreement"]["alpha"]["value"] == pytest.approx(_alpha(counted))

    recent = sorted(counted["step"].unique())[-10:]
    hits = of = 0.0
    for _, vote in counted[counted["step"].isin(recent)].iterrows():
        headings = json.loads(steps.loc[vote["step"], "headings"])
        if headings:
            side = "plus" if headings[int(vote["k"])] > 0 else "minus"
            of += 1
            hits += 0.5 if vote["verdict"] == "tie" else vote["verdict"] == side
    heading = told["improving"]["heading"]
    assert (heading["hits"], heading["of"]) == (hits, of)
    assert of > 20
    assert [heading["low"], heading["high"]] == pytest.approx(wilson(hits, of), abs=5e-4)

    for row in told["panelists"]:
        own = counted[counted["panelist"] == row["name"]]
        assert row["votes"] == len(own)
        assert row["median"]["value"] == pytest.approx(own["dwell_ms"].median() / 1e3)
    assert page.as_dict()["progress"] == told["progress"]


def _alpha(counted: Any) -> float:
    """Krippendorff's α from its definition: observed and expected disagreement of pairs."""
    units = [list(g["verdict"]) for _, g in counted.groupby("comparison") if len(g) > 1]
    values = [v for unit in units for v in unit]
    n = len(values)
    observed = sum(
        sum(a != b for a, b in combinations(unit, 2)) * 2 / (len(unit) - 1) for unit in units
    )
    counts = Counter(values)
    expected = sum(counts[a] * counts[b] for a in counts for b in counts if a != b) / (n - 1)
    return 1 - observed / expected


def test_votes_of_the_open_round_are_nowhere_in_it(stage: Stage) -> None:
    packed, _, _ = exported(stage)
    votes = [json.loads(line) for line in packed.read("votes.jsonl").splitlines()]
    assert max(vote["step"] for vote in votes) == 11
    assert "2 votes are not in these files" in packed.read("README.txt").decode()
    whole = [
        json.loads(line) for line in exported(stage, live=True)[0].read("votes.jsonl").splitlines()
    ]
    assert len(whole) == len(votes) + 2
    shut, live = (
        exported(stage, live=value)[0].read("report.html").decode() for value in (False, True)
    )
    assert shut != live


def test_hashes_hold_and_a_changed_file_is_found(stage: Stage, tmp_path: Path) -> None:
    packed, _, content = exported(stage)
    sums = dict(
        reversed(line.split("  ")) for line in packed.read("SHA256SUMS").decode().splitlines()
    )
    assert set(sums) == set(packed.namelist()) - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256(packed.read(name)).hexdigest() == digest
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(forged, "w") as other:
        for name in packed.namelist():
            body = packed.read(name)
            other.writestr(
                name, body.replace(b'"plus"', b'"minus"', 1) if name == "votes.jsonl" else body
            )
    with pytest.raises(IntegrityError, match="votes"):
        bundle.recompute(forged)
    with pytest.raises(StorageError):
        bundle.recompute(io.BytesIO(content[:100]))


def test_no_cell_is_a_formula_and_names_come_back(stage: Stage) -> None:
    packed, _, content = exported(stage)
    for name in ("votes.csv", "panelists.csv", "steps.csv", "updates.csv"):
        for row in csv.reader(io.StringIO(packed.read(name).decode(), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r"))
                if cell.startswith("-"):
                    float(cell)
    assert "'=HYPERLINK(1)" in packed.read("panelists.csv").decode()
    assert [p.name for p in bundle.read(io.BytesIO(content)).panelists] == list(NAMES)


def test_equal_ledgers_are_equal_bytes(stage: Stage) -> None:
    first = exported(stage)[2]
    stage.clock.forward(3600)
    assert exported(stage)[2] == first
    later = exported(stage, as_of_us=stage.clock())[2]
    assert later != first


def test_no_person_is_named(tmp_path: Path) -> None:
    from szpo_ui.web import credentials

    made = make(tmp_path / "run.db", clock=MovableClock())
    invitation = credentials.invite(made.ledger, "panelist", contact="Ada Lovelace")
    made.advance()
    packed, _, _ = exported(made)
    everything = b"".join(packed.read(name) for name in packed.namelist())
    assert b"P-01" in everything
    for secret in ("Lovelace", invitation.token, invitation.code):
        assert secret.encode() not in everything


def test_only_notes_on_single_prompts_become_preferences(stage: Stage) -> None:
    packed, _, content = exported(stage)
    rows = [json.loads(line) for line in packed.read("dpo.jsonl").splitlines()]
    found = bundle.read(io.BytesIO(content))
    counted = [b for b in found.ballots if b.counted]
    assert len(rows) == len(counted)  # each noted A on row 0; a tie, and a row that is not there
    sides = Counter((row["row"], "amber" in row["chosen"]) for row in rows)
    assert sides[0, True] == sum(b.plus_side == "A" for b in counted)
    assert sides[0, False] == sum(b.plus_side == "B" for b in counted)
    by_comparison = defaultdict(set)
    for line in packed.read("pairs.jsonl").splitlines():
        pair = json.loads(line)
        by_comparison[pair["comparison"]].add((pair["plus"], pair["minus"]))
    for row in rows:
        both = by_comparison[row["comparison"]]
        assert {(row["chosen"], row["rejected"]), (row["rejected"], row["chosen"])} & both


def test_without_notes_there_is_no_such_file(tmp_path: Path) -> None:
    made = make(tmp_path / "run.db", clock=MovableClock())
    made.advance()
    assert "dpo.jsonl" not in exported(made)[0].namelist()


def test_weights_and_events_are_those_of_the_record(stage: Stage) -> None:
    packed, _, _ = exported(stage)
    theta = load(packed.read("theta.safetensors"))
    assert parameters.digest(theta, stage.ledger.layout, None) == stage.ledger.head()
    before = stage.ledger.row["spec_sha256"]
    for line in packed.read("events.jsonl").decode().split("\n")[:-1]:
        event = json.loads(line)
        assert event["prev_sha256"] == before
        row = {**event, "run": stage.ledger.run, "body": canonical.canonical(event["body"])}
        before = canonical.event_sha256(row)
        assert event["row_sha256"] == before


def test_where_there_is_no_adapter_the_readme_says_why(stage: Stage) -> None:
    packed = exported(stage)[0]
    assert not [name for name in packed.namelist() if name.startswith("lora/")]
    told = packed.read("README.txt").decode()
    assert "(no lora/)" in told and "szpo export RUN --zip FILE" in told


def test_settings_in_it_begin_the_same_run(stage: Stage, tmp_path: Path) -> None:
    from szpo.config import settings_file

    file = tmp_path / "run.toml"
    file.write_bytes(exported(stage)[0].read("run.toml"))
    assert settings_file.load(file) == stage.site.config


def test_the_command_writes_it_once(stage: Stage, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    words = ["export", str(stage.ledger.path), "--zip", str(target)]
    assert call(words) == 0
    with Ledger.open(stage.ledger.path, readonly=True) as ledger:
        at = bundle.last_event_us(ledger)
        found = overview.overview(evidence.read(ledger, as_of_us=at))
    assert asdict(bundle.recompute(target)) == asdict(found)
    assert call(words) == 4  # it is there already
