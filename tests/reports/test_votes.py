"""Votes and tables: they open elsewhere, and give the dashboard's numbers again."""

import csv
import io
import itertools
import json
import stat
from collections import Counter
from itertools import combinations
from typing import Any

import pandas as pd
import pytest

import szpo
from szpo import files, seeds
from szpo.analysis import html_report, overview, vote_rows
from szpo.analysis.vote_export import export_votes, write_jsonl, write_votes
from szpo.cli.app import call
from szpo.metrics import wilson
from szpo.voting import pauses, step_states
from szpo.voting.service import VoteService
from tests.support.asking import open_run
from tests.support.browser import make
from tests.support.quadratic import (
    ValueJudge,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
    start,
)

NAMES = ("P-01", "=HYPERLINK(1)", "'@sum")


def close(made: Any, step: int = 0) -> None:
    assert step_states.close(made.ledger, step, "operator", reason="skips", actor="olga")


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
                service.cast(seat.id, choice, seat.id, dwell_ms=dwell, details=notes)
        made.advance()
        if made.ledger.last_applied() != number:  # a comparison that too many skipped
            close(made, number)
            made.advance()
        if number == 4:
            pauses.pause(made.ledger, "olga", "lunch")
            made.clock.forward(600)
            pauses.unpause(made.ledger, "olga")
    for person in people[:2]:
        seat = service.assign(person)
        assert seat is not None
        service.cast(seat.id, "A", idem=seat.id)
    return made


@pytest.mark.full
def test_pandas_finds_the_headline_numbers_without_this_library(stage):
    found, file = vote_rows.read_evidence(stage.ledger), io.StringIO()
    page = overview.overview(found)
    assert (len(found.run.hidden_us), page["progress"]["applied"]) == (2, 12)
    write_jsonl(stage.ledger, file)
    table = pd.read_json(io.StringIO(file.getvalue()), lines=True)
    assert table["step"].max() == 11, "without the open round"
    counted = table[table["counted"]]
    sided = counted[counted["verdict"].isin(["plus", "minus"])]

    a = wilson(int((sided["choice"] == "A").sum()), len(sided))
    side = page["agreement"]["a_side"]
    assert [side.low, side.high] == pytest.approx(a, abs=5e-4)

    pairs = [
        one == other
        for _, group in sided.groupby("comparison")
        for one, other in combinations(group["verdict"], 2)
    ]
    same = page["agreement"]["same"]
    assert same.hits / same.of == pytest.approx(sum(pairs) / len(pairs))
    both = wilson(sum(pairs), len(pairs))  # M = 2: pairs are disjoint
    assert [same.low, same.high] == pytest.approx(both, abs=5e-4)
    assert page["agreement"]["alpha"].value == pytest.approx(_alpha(counted))

    for row in page["panelists"]:
        own = counted[counted["panelist"] == row["name"]]
        assert row["votes"] == len(own)
        assert row["median"].value == pytest.approx(own["dwell_ms"].median() / 1e3)


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
def test_a_report_shows_the_open_round_only_where_it_is_asked_to(stage):
    shut, live = (html_report.render(stage.ledger, open_round=value) for value in (False, True))
    assert shut != live


def test_a_vote_s_words_are_no_formula_in_either_table(tmp_path):
    made = make(tmp_path / "run.db")
    made.advance()
    for reason in ("\x00=1+1", "\x0b=2", "\x1b=3", "\n=4", "'=5"):
        seat = made.site.service.assign(made.site.service.enroll("person", f"P-{ord(reason[-1])}"))
        assert seat is not None
        made.site.service.cast(seat.id, "skip", idem=seat.id, skip_reason=reason)
    close(made)
    out = tmp_path / "votes.csv"
    assert call(["export", str(made.ledger.path), "--votes", str(out)]) == 0
    with open(out, encoding="utf-8", newline="") as file:
        cells = [row["skip_reason"] for row in csv.DictReader(file)]
    assert cells == ["'\x00=1+1", "'\x0b=2", "'\x1b=3", "'\n=4", "''=5"]


def test_an_exported_vote_is_for_the_texts_that_the_voter_preferred(tmp_path):
    settings, ledger, policy = start(tmp_path)
    with ledger:
        sure = panel_of(ledger, judge=ValueJudge(beta=1e9))  # always for the larger number
        go(settings, ledger, policy, sure, until_step=2)
    out = tmp_path / "votes.jsonl"
    assert call(["export", str(ledger.path), "--votes", str(out)]) == 0
    cast = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(cast) == 2 * settings.section.N
    for vote in cast:
        plus, minus = (
            sum(float(text.split()[1]) for text in vote[side]) for side in ("plus", "minus")
        )
        assert plus != minus and vote["verdict"] == ("plus" if plus > minus else "minus")
        assert (vote["choice"] == vote["plus_side"]) == (vote["verdict"] == "plus")


def test_votes_of_an_open_round_leave_the_record_by_no_file(tmp_path):
    with open_run(tmp_path, n=4, m=1) as ledger:
        service = VoteService(ledger)
        seat = service.assign(service.enroll("person", "ann"))
        service.cast(seat.id, "A", idem=seat.id)
        assert len(list(export_votes(ledger))) == 1
        for form in ("csv", "jsonl", "db"):
            assert write_votes(ledger, tmp_path / f"open.{form}") == 0
        step_states.close(ledger, 0, "operator", reason="enough", actor="bob")
        for form in ("csv", "jsonl", "db"):
            assert write_votes(ledger, tmp_path / f"closed.{form}") == 1


def test_votes_are_for_their_owner_alone_and_replace_nothing(stage, tmp_path):
    for name in ("v.csv", "v.jsonl", "v.db"):
        words = ["export", str(stage.ledger.path), "--votes", str(tmp_path / name)]
        assert call(words) == 0
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert call(words) == 4  # it is there already


def test_tables_hold_what_the_ledger_holds(tmp_path):
    settings, ledger, policy = start(tmp_path, M=2)
    with ledger:
        go(settings, ledger, policy, until_step=3)
    with szpo.open(ledger.path) as run:
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
