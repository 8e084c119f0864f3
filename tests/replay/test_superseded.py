"""Runs of rules and options that are gone: recorded by szpo 0.1.0, beside their `szpo show`.

``bayes.db`` moved by vectors; ``block.db`` by `known` along coordinates drawn at random;
``options.db`` with momentum, steering and one logit per voter; ``choice.db`` by Adam, with a
choice of comparisons.
"""

import json
from pathlib import Path

import pytest

from szpo.cli.app import call
from szpo.errors import SupersededError, UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim import parameters, superseded
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.replay import replay, verification, without_panelist
from szpo.voting.casting import VoteRequest
from tests.support.browser import MovableClock, make

LEDGERS = Path(__file__).parents[1] / "ledgers" / "superseded"
FROM = "0.1.0 (commit 231555c)"


@pytest.fixture
def kept(tmp_path):
    """Copies, since an open ledger is written to."""
    for path in LEDGERS.glob("*.db"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("bayes", "updates are not recomputed from votes: szpo no longer has rule bayes"),
        ("block", "nor weights from updates: szpo no longer has law block"),
        (
            "options",
            "szpo no longer has weighting median and option momentum and option steering",
        ),
        ("choice", "szpo no longer has option adam and option selection"),
    ],
)
def test_verify_says_in_one_line_who_recomputes_the_updates(kept, capsys, name, gone):
    assert call(["verify", str(kept / f"{name}.db")]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if gone in line)
    assert f"szpo {FROM}" in line and "not recomputed" in said


@pytest.mark.parametrize("name", ["bayes", "options", "choice"])
def test_the_weights_are_still_added_up_and_compared(kept, name):
    with Ledger.open(kept / f"{name}.db") as ledger:
        theta = replay.fold(ledger)
        digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
        assert digest == theta_digest(ledger)
        assert {check.promise for check in verification.verify(ledger).steps} == {"not recomputed"}
        ledger.execute("DROP TRIGGER updates_no_update")
        ledger.execute("UPDATE updates SET theta_sha256 = ? WHERE step = 3", ("0" * 64,))
        assert not verification.verify(ledger).ok


@pytest.mark.parametrize("name", ["bayes", "options", "choice"])
def test_it_is_shown_as_before(kept, capsys, name):
    assert call(["show", str(kept / f"{name}.db"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before = json.loads((LEDGERS / f"{name}.json").read_text(encoding="utf-8"))
    now, then = found.pop("step_rows"), before.pop("step_rows")
    assert {**found, "path": ""} == {**before, "path": ""}
    assert len(now) == len(then)  # rows have the columns of steps.csv besides
    for row, was in zip(now, then, strict=True):
        assert row["info"].items() >= was.pop("info").items() and row.items() >= was.items()


@pytest.mark.parametrize("name", ["bayes", "block", "options", "choice"])
def test_report_and_export_of_the_votes_are_written(kept, name):
    run = str(kept / f"{name}.db")
    assert call(["report", run, "--out", str(kept / "page.html")]) == 0
    assert FROM in (kept / "page.html").read_text(encoding="utf-8")
    assert call(["export", run, "--votes", str(kept / "votes.jsonl")]) == 0


def test_it_does_not_go_on_here(kept, capsys):
    assert call(["run", "--resume", str(kept / "bayes.db")]) == SupersededError.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no rule bayes" in line and FROM in line


def test_weights_along_lost_directions_are_refused(kept):
    with Ledger.open(kept / "block.db") as ledger, pytest.raises(SupersededError) as caught:
        replay.fold(ledger)
    assert "no law block" in str(caught.value) and FROM in str(caught.value)


def test_an_option_that_was_off_changes_nothing():
    settings = defaults(1, (("z", (4,)),))
    plain = settings_to_json(settings)
    law = {**plain["law"], "block": None}
    older = {**plain, "law": law, "forget": 0.94, "momentum": 0.0, "steering": None}
    assert settings_from_json(older) == settings
    with pytest.raises(UsageError, match="no longer has rule margin"):
        settings_from_json({**older, "rule": "margin"})
    assert superseded.find_gone(older) == ()


@pytest.fixture
def stage(tmp_path):
    """Three steps of two comparisons and two votes each.

    Ada and Bob agree in steps 0 and 2; in step 1 they disagree on one comparison of the two.
    """
    made = make(tmp_path / "run.db", clock=MovableClock())
    service = made.site.service
    made.advance()
    ada, bob = (service.enroll("person", name) for name in ("Ada", "Bob"))
    for number in range(3):
        for person in (ada, bob):
            answered = 0
            while (seat := service.assign(person)) is not None:
                against = number == 1 and person == bob
                side = {"A": "B", "B": "A"}[seat.plus_side] if against else seat.plus_side
                service.cast(VoteRequest(seat.id, side, idem=seat.id))
                answered += 1
            assert answered == 2
        made.advance()
    assert made.ledger.last_applied() == 2
    return made


def test_leaving_somebody_out_flips_a_step_where_the_majority_does_and_writes_nothing(stage):
    found = without_panelist.preview(stage.ledger, "Bob")
    assert (found.votes, found.of) == (6, 12)
    assert [(e.step, e.votes, e.theirs) for e in found.effects] == [(s, 4, 2) for s in range(3)]
    # In step 1 all cancelled; without Bob there is a majority for plus.
    assert found.flipped == (1,)
    assert run_spec.recorded_settings(stage.ledger).rule == "known"
    first, second, third = (e.cosine for e in found.effects)
    # One direction: with two votes for plus fewer the first step goes the same way, shorter.
    assert first == pytest.approx(1, abs=1e-6)
    assert second is None  # all votes cancelled: that step went nowhere
    assert third is not None
    assert found.turned == ()
    before = stage.ledger.changes()
    without_panelist.preview(stage.ledger, "Ada")
    assert stage.ledger.changes() == before


def test_somebody_who_never_voted_changes_nothing(stage):
    stage.site.service.enroll("person", "Cy")
    found = without_panelist.preview(stage.ledger, "Cy")
    assert (found.votes, found.effects, found.flipped) == (0, (), ())
    with pytest.raises(UsageError, match="not enrolled"):
        without_panelist.preview(stage.ledger, "Dora")
