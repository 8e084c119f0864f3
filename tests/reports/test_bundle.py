"""The export: its files open elsewhere, and give the dashboard's numbers again."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import stat
import zipfile
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load

import szpo
from szpo import files, seeds
from szpo.analysis import evidence, overview
from szpo.cli.app import call
from szpo.errors import StorageError
from szpo.intervals import wilson
from szpo.ledger import canonical
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim import parameters
from szpo.reports import bundle
from szpo.voting import pauses, steps
from szpo.voting.casting import VoteRequest
from tests.support.browser import Stage, make
from tests.support.quadratic import QuadraticPolicy, go, history, new_ledger, settings_of

NAMES = ("P-01", "=HYPERLINK(1)", "'@sum")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Twelve steps of mixed votes by three people, a pause, and an open round with two votes."""
    made = make(tmp_path_factory.mktemp("bundle") / "run.db")
    service = made.site.service
    people = [service.enroll("person", name) for name in NAMES]
    made.advance()
    for number in range(12):
        for place, person in enumerate(people):
            for turn in itertools.count():
                if (seat := service.assign(person)) is None:
                    break
                made.clock.forward(20 + 3 * place)
                key = seeds.derive(7, "coin", step=number, k=place, name=str(turn))
                coin = seeds.integer(key, 0, 10)  # of no id: ids are random, and so who votes
                choice = "skip" if coin == 9 else "tie" if coin == 8 else "AB"[coin % 2]
                notes = {"notes": {"0": "A", "1": "tie", "9": "B"}, "fast": coin == 3}
                dwell = 15_000 + 100 * coin
                service.cast(VoteRequest(seat.id, choice, seat.id, dwell_ms=dwell, details=notes))
        made.advance()
        if made.ledger.last_applied() != number:  # a comparison that too many skipped
            assert steps.close(
                made.ledger, number, steps.Closing("operator", reason="skips", actor="olga")
            )
            made.advance()
        if number == 4:
            pauses.pause(made.ledger, "olga", "lunch")
            made.clock.forward(600)
            pauses.unpause(made.ledger, "olga")
    for person in people[:2]:
        seat = service.assign(person)
        assert seat is not None
        service.cast(VoteRequest(seat.id, "A", idem=seat.id))
    return made


def exported(stage: Stage, **what: Any) -> tuple[zipfile.ZipFile, dict[str, Any], bytes]:
    file = io.BytesIO()
    page = bundle.write(stage.ledger, file, **what)
    return zipfile.ZipFile(file), page, file.getvalue()


@pytest.mark.full
def test_the_zip_alone_gives_every_number_of_the_dashboard(stage):
    now = stage.clock()
    shown = overview.overview(evidence.read(stage.ledger, as_of_us=now))
    _, written, content = exported(stage, as_of_us=now)
    assert bundle.recompute(io.BytesIO(content)) == shown == written
    assert shown["progress"]["hidden"] == 2
    assert shown["progress"]["applied"] == 12


@pytest.mark.full
def test_pandas_finds_the_headline_numbers_without_this_library(stage):
    packed, page, _ = exported(stage)
    reported = json.loads(packed.read("overview.json"))
    votes = pd.read_json(io.BytesIO(packed.read("votes.jsonl")), lines=True)
    steps = pd.read_csv(io.BytesIO(packed.read("steps.csv"))).set_index("step")
    counted = votes[votes["counted"]]
    sided = counted[counted["verdict"].isin(["plus", "minus"])]

    a = wilson(int((sided["choice"] == "A").sum()), len(sided))
    assert [reported["agreement"]["a_side"][k] for k in ("low", "high")] == pytest.approx(
        a, abs=5e-4
    )

    pairs = [
        one == other
        for _, group in sided.groupby("comparison")
        for one, other in combinations(group["verdict"], 2)
    ]
    same = reported["agreement"]["same"]
    assert same["hits"] / same["of"] == pytest.approx(sum(pairs) / len(pairs))
    both = wilson(sum(pairs), len(pairs))  # M = 2: pairs are disjoint
    assert [same["low"], same["high"]] == pytest.approx(both, abs=5e-4)
    assert reported["agreement"]["alpha"]["value"] == pytest.approx(_alpha(counted))

    recent = sorted(counted["step"].unique())[-10:]
    hits = of = 0.0
    for _, vote in counted[counted["step"].isin(recent)].iterrows():
        headings = json.loads(steps.loc[vote["step"], "headings"])
        if headings:
            side = "plus" if headings[int(vote["k"])] > 0 else "minus"
            of += 1
            hits += 0.5 if vote["verdict"] == "tie" else vote["verdict"] == side
    heading = reported["improving"]["heading"]
    assert (heading["hits"], heading["of"]) == (hits, of)
    assert of > 20
    assert [heading["low"], heading["high"]] == pytest.approx(wilson(hits, of), abs=5e-4)

    for row in reported["panelists"]:
        own = counted[counted["panelist"] == row["name"]]
        assert row["votes"] == len(own)
        assert row["median"]["value"] == pytest.approx(own["dwell_ms"].median() / 1e3)
    assert page["progress"] == reported["progress"]


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


@pytest.mark.full
def test_votes_of_the_open_round_are_nowhere_in_it(stage):
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


def test_hashes_are_those_of_the_files(stage):
    packed, _, content = exported(stage)
    sums = dict(
        reversed(line.split("  ")) for line in packed.read("SHA256SUMS").decode().splitlines()
    )
    assert set(sums) == set(packed.namelist()) - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256(packed.read(name)).hexdigest() == digest
    with pytest.raises(StorageError):
        bundle.recompute(io.BytesIO(content[:100]))


def test_no_cell_is_a_formula_and_names_come_back(stage):
    packed, _, content = exported(stage)
    for name in ("votes.csv", "panelists.csv", "steps.csv", "updates.csv"):
        for row in csv.reader(io.StringIO(packed.read(name).decode(), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r"))
                if cell.startswith("-"):
                    float(cell)
    assert "'=HYPERLINK(1)" in packed.read("panelists.csv").decode()
    assert [p.name for p in bundle.read(io.BytesIO(content)).panelists] == list(NAMES)


def test_a_vote_s_words_are_no_formula_in_either_table(tmp_path):
    made = make(tmp_path / "run.db")
    made.advance()
    for reason in ("\x00=1+1", "\x0b=2", "\x1b=3", "\n=4", "'=5"):
        seat = made.site.service.assign(made.site.service.enroll("person", f"P-{ord(reason[-1])}"))
        assert seat is not None
        made.site.service.cast(VoteRequest(seat.id, "skip", idem=seat.id, skip_reason=reason))
    out = tmp_path / "votes.csv"
    assert call(["export", str(made.ledger.path), "--votes", str(out)]) == 0
    packed = exported(made, live=True)[0].read("votes.csv").decode()
    for text in (out.read_bytes().decode(), packed):
        cells = [
            row["skip_reason"]
            for row in csv.DictReader(io.StringIO(text, newline=""))
            if row["choice"] == "skip"
        ]
        assert cells == ["'\x00=1+1", "'\x0b=2", "'\x1b=3", "'\n=4", "''=5"]


def test_votes_and_zip_are_for_their_owner_alone(stage, tmp_path):
    for name in ("v.csv", "v.jsonl", "v.db", "v.zip"):
        target, kind = tmp_path / name, "--zip" if name == "v.zip" else "--votes"
        assert call(["export", str(stage.ledger.path), kind, str(target)]) == 0
        assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_equal_ledgers_are_equal_bytes(stage):
    first = exported(stage)[2]
    stage.clock.forward(3600)
    assert exported(stage)[2] == first
    later = exported(stage, as_of_us=stage.clock())[2]
    assert later != first


def test_no_person_is_named_and_without_notes_there_are_no_preferences(tmp_path):
    from szpo_ui.web import credentials

    made = make(tmp_path / "run.db")
    invitation = credentials.invite(made.ledger, "panelist", contact="Ada Lovelace")
    made.advance()
    packed, _, _ = exported(made)
    everything = b"".join(packed.read(name) for name in packed.namelist())
    assert b"P-01" in everything
    for secret in ("Lovelace", invitation.token, invitation.code):
        assert secret.encode() not in everything
    assert "dpo.jsonl" not in packed.namelist()


def test_only_notes_on_single_prompts_become_preferences(stage):
    packed, _, content = exported(stage)
    rows = [json.loads(line) for line in packed.read("dpo.jsonl").splitlines()]
    found = bundle.read(io.BytesIO(content))
    counted = [b for b in found.votes if b.counted]
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


def test_the_zip_is_that_of_the_record_and_begins_the_same_run(stage, tmp_path):
    packed, _, _ = exported(stage)
    theta = load(packed.read("theta.safetensors"))
    assert parameters.digest(theta, stage.ledger.layout, None) == theta_digest(stage.ledger)
    before = stage.ledger.row["spec_sha256"]
    for line in packed.read("events.jsonl").decode().split("\n")[:-1]:
        event = json.loads(line)
        assert event["prev_sha256"] == before
        row = {**event, "run": stage.ledger.run, "body": canonical.canonical(event["body"])}
        before = canonical.event_sha256(row)
        assert event["row_sha256"] == before
    from szpo.config import settings_file

    file = tmp_path / "run.toml"
    file.write_bytes(exported(stage)[0].read("run.toml"))
    assert settings_file.load(file) == stage.site.config


def test_the_command_writes_it_once(stage, tmp_path):
    target = tmp_path / "out.zip"
    words = ["export", str(stage.ledger.path), "--zip", str(target)]
    assert call(words) == 0
    with Ledger.open(stage.ledger.path, readonly=True) as ledger:
        at = bundle.last_event_us(ledger)
        found = overview.overview(evidence.read(ledger, as_of_us=at))
    assert bundle.recompute(target) == found
    assert call(words) == 4  # it is there already


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "run.db"
    settings = settings_of(M=2)
    with new_ledger(path, settings) as ledger:
        go(settings, ledger, QuadraticPolicy(settings), until_step=3)
    return path


def test_tables_hold_what_the_ledger_holds(path):
    with szpo.open(path) as run:
        assert len(run.votes) == 3 * 4 * 2
        assert run.votes["counted"].all()
        assert list(run.steps["state"]) == ["applied"] * 3
        assert list(run.steps["theta_sha256"]) == [h[2] for h in history(run.ledger)]
        assert run.steps["total_votes"].iloc[-1] == 24
        counts = run.comparisons[["plus", "minus", "tie"]].sum(axis=1)
        assert (counts == 2).all() and len(counts) == 12
        assert len(run.answers) == 12 * 2
        assert run.answers["prompt"].str.startswith("Question").all()
        assert run.updates["coef"].notna().all() and len(run.updates) == 3
        assert run.verify().ok
        assert run.theta(until=0)["z"].tolist() == [0, 0, 0, 0]


def test_an_empty_run_has_empty_tables_with_their_columns(tmp_path):
    new_ledger(tmp_path / "empty.db", settings_of()).close()
    with szpo.open(tmp_path / "empty.db") as run:
        for table, column in ((run.votes, "choice"), (run.steps, "mu"), (run.updates, "coef")):
            assert len(table) == 0 and column in table.columns
        assert len(run.comparisons) == 0 and len(run.answers) == 0


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), files.write_whole(tmp_path / "out") as draft:
        draft.mkdir()
        (draft / "half").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
