"""szpo vote: a person's sheets in a terminal, driven here by a pipe or a pseudo-terminal."""

import io
import os
import pty
import re
import shlex
import signal
import string
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import seeds
from szpo.cli import console, vote
from szpo.cli.app import call
from szpo.config.sentences import ENGLISH
from szpo.ledger import orders, theta
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.replay import verification
from szpo.runs import budget, setup_progress
from szpo.runs.status import round_status
from szpo.voting import counting, lease
from tests.support import yard_run
from tests.support.panel_states import final_comparison

pytest_plugins = ["tests.support.browser"]
ROWS = "optimizer.N=8", "optimizer.D=1", "optimizer.M=1", "panel.sheet=8"


@pytest.fixture
def type_in(monkeypatch, capsys):
    """Answer a run through a pipe; returns the exit code, and what the person saw."""

    def vote(keys, *words):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        capsys.readouterr()
        return call(["vote", *map(str, words)]), "".join(capsys.readouterr())

    return vote


@pytest.fixture
def driven(staged):
    """A run with an open round of eight rows, which somebody else drives."""
    stage = staged(sets=ROWS)
    with lease.hold(stage.ledger):
        yield stage


def given(ledger):
    return ledger.query(
        "SELECT assignment, sheet, plus_side, revision, choice, skip_reason FROM votes "
        "JOIN assignments USING (assignment) ORDER BY vote"
    )


def test_who_leaves_after_five_of_eight_has_given_five_and_finds_the_same_sheet(driven, type_in):
    path = driven.ledger.path
    code, seen = type_in(["", "a", "right", "x", "S", "?", "h"], path)
    assert code == 0 and "row 6 of 8, sheet 1 of about " in seen
    assert seen.count("left or a: A is better; right or b: B;") == 1  # x is none of the keys
    assert f"your votes stored: 5. Continue with: szpo vote {path}" in seen
    five = given(driven.ledger)
    assert [(row["choice"], row["skip_reason"]) for row in five] == [
        ("A", None), ("B", None), ("tie", None), ("skip", None), ("skip", counting.HARMFUL),
    ]  # fmt: skip
    code, seen = type_in(["u", "b", "left", "q"], path)
    assert [re.findall(r"row (\d) of 8", seen), code] == [["6", "5", "6", "7"], 0]
    assert "Enter: agree" not in seen and "your vote so far: harmful" in seen
    more = given(driven.ledger)[5:]
    assert [(row["choice"], row["revision"]) for row in more] == [("B", 1), ("A", 0)]
    assert more[0]["assignment"] == five[4]["assignment"]
    assert len({row["sheet"] for row in given(driven.ledger)}) == 1


def test_nobody_agrees_silently_and_the_record_has_the_wording(driven, type_in):
    code, seen = type_in(["a", "q"], driven.ledger.path)
    assert code == 0 and "row 1" not in seen and not list(driven.ledger.events("consent"))
    type_in(["y", "q"], driven.ledger.path, "--as", "Ada")
    (event,) = driven.ledger.events("consent")
    told = ENGLISH.consent(moves=True)
    assert event["body"]["text"] == sha256(canonical(told))
    assert all(text.replace("{name}", "Ada") in seen.replace("terminal", "Ada") for text in told)


@pytest.mark.parametrize("columns", [99, 100])
def test_a_models_text_has_no_effect_on_the_terminal(staged, type_in, monkeypatch, columns):
    evil = "\x1b]0;title\x07\x1b[2Jgone \u202eback\u2066 \x9b31m [bold]loud[/bold] [/] :smile:"
    stage = staged(text=lambda step, i, side: f"{evil} {side}", sets=ROWS)
    monkeypatch.setattr(console.console, "_width", columns)
    with lease.hold(stage.ledger):
        _, seen = type_in(["y", "q"], stage.ledger.path)
    assert not set("\x1b\x07\x9b\u202e\u2066") & set(seen)
    assert "[bold]loud[/bold]" in seen and ":smile:" in seen
    beside = any("─ A ─" in line and "─ B ─" in line for line in seen.splitlines())
    assert beside == (columns == 100)


def test_sides_are_those_of_the_seats_and_no_policy_is_named(staged, type_in):
    words = {"plus": "amber", "minus": "cobalt"}
    stage = staged(text=lambda step, i, side: words[side], sets=ROWS)
    with lease.hold(stage.ledger):
        _, seen = type_in(["y", *"aaaaaaa", "q"], stage.ledger.path)
    shown = ["A" if word == "amber" else "B" for word in re.findall("amber|cobalt", seen)[::2]]
    assert shown[:7] == [row["plus_side"] for row in given(stage.ledger)]
    assert set(shown) == {"A", "B"} and not re.search("plus|minus|base|tuned|θ", seen)


def test_who_waits_for_an_improvement_reads_how_far_it_is_and_how_long_it_takes(
    tmp_path, monkeypatch
):
    clock, run, pace = iter(range(0, 600, 60)), tmp_path / "run.db", vote._Pace(320)
    monkeypatch.setattr(vote.time, "monotonic", lambda: next(clock))
    said = []
    with setup_progress.writing(run, setup_progress.IMPROVING) as tell:
        for stage in (
            ("the start's answers", 0, 0),
            *((setup_progress.STEPS, n, 80) for n in (0, 1, 1, 4, 12)),
        ):
            if not said:
                tell(setup_progress.STEPS, 0, 80)
            tell(*stage)
            said.append(pace.describe(*setup_progress.read_improving(run)))
    assert said == [
        "improving: 0 of some 10 steps, at most 80; the start's answers",
        "improving: 0 of some 10 steps, at most 80",
        "improving: 1 of some 10 steps, at most 80; about 38 minutes with measuring",
        "improving: 1 of some 10 steps, at most 80; about 37 minutes with measuring",
        "improving: 4 of some 10 steps, at most 80; about 16 minutes with measuring",
        "improving: 12 of 80 at most; at most 33 minutes with measuring",
    ]
    assert setup_progress.read_improving(run) is None


def test_who_waits_for_the_last_measurement_reads_how_many_answers_are_left(driven):
    clock, path = iter((0.0, 60.0, 70.0, 70.0)), driven.ledger.path
    sitting = SimpleNamespace(
        ledger=driven.ledger, measured=setup_progress.Countdown(lambda: next(clock)),
        _goes_further=lambda: True,
    )  # fmt: skip
    over = replace(round_status(driven.ledger), state="finished")
    said = [vote._Sitting._describe(sitting, over)]
    with setup_progress.writing(path, setup_progress.MEASURING) as tell:
        for stage in (("answers written", 0, 512), *[("answers written", 128, 512)] * 2,
                      ("prompts read", 0, 64)):  # fmt: skip
            tell(*stage)
            said.append(vote._Sitting._describe(sitting, over))
    begun = "measuring on prompts set aside"
    assert said == [
        begun,
        f"{begun}: answers written 0/512; then they are read",
        f"{begun}: answers written 128/512, 0:03:00 left; then they are read",
        f"{begun}: answers written 128/512, 0:02:50 left; then they are read",
        f"{begun}: prompts read 0/64",
    ]


def test_a_taste_is_told_of_once_when_the_votes_first_show_it_and_never_by_name(
    driven, type_in, monkeypatch
):
    for shown, told in (([(), ()], 0), ([(), (8,)], 1), ([(8,), (8,)], 0)):  # begun, at a sheet
        monkeypatch.setattr(vote.taught_taste, "shown_from", lambda ledger, of=shown: of.pop(0))
        _, seen = type_in(["y", "a", "q"], driven.ledger.path)
        assert seen.count(vote.SHOWN) == told and "row " in seen


def test_once_all_votes_are_in_a_person_reads_what_follows_and_in_which_order(driven, monkeypatch):
    ledger, said = driven.ledger, []
    monkeypatch.setattr(vote, "last_begun", lambda ledger: -1)  # this run has no step yet
    for improves, shown, read in (
        (True, (8,), 512), (True, (8,), 0), (True, (), 512), (False, (8,), 0),
    ):  # fmt: skip
        monkeypatch.setattr(vote.taught_taste, "shown_from", lambda ledger, shown=shown: shown)
        sitting = a_sitting(driven, [])
        sitting.config, sitting.read_at_end = SimpleNamespace(improves=improves), read
        said.append(sitting._what_follows())
    after = "measuring on prompts set aside, then blind pairs for you"
    assert said == [
        f". Now improving on what they liked; if it gains, {after}",
        ". Now improving on what they liked", f". Now {after}", "",
    ]  # fmt: skip
    assert not list(ledger.events(theta.KEPT)) and sitting._goes_further() is False
    sitting.read_at_end = 512
    assert sitting._goes_further(), "who comes back goes on with what was interrupted"
    final_comparison(driven)
    assert not sitting._goes_further()


def a_sitting(stage, keys):
    config, keys = recorded_config(stage.ledger), SimpleNamespace(read=iter(keys).__next__)
    return vote._Sitting(stage.ledger, config, "Ada", keys, vote._Model(), [], "szpo vote")


def test_the_blind_pairs_of_start_and_end_are_asked_here_and_closed_once_all_are_answered(
    driven, staged, capsys
):
    number, ledger = final_comparison(driven, 3), driven.ledger
    a_sitting(driven, ["q"])._compare()
    assert "3 blind pairs: Compare two versions" in capsys.readouterr().out
    a_sitting(driven, ["", "a", "b", "u", "s", "q"])._compare()
    assert re.findall(r"pair \d of \d", capsys.readouterr().out) == [
        f"pair {n} of 3" for n in (1, 2, 3, 2, 3)
    ]
    assert [(row["choice"], row["revision"]) for row in given(ledger)] == [
        ("A", 0), ("B", 0), ("tie", 1),
    ]  # fmt: skip
    assert orders.get(ledger, number).closed_us is None
    a_sitting(driven, ["y", "a"])._compare()
    assert "pair 1 of 1, about 1 minute left" in capsys.readouterr().out
    assert orders.get(ledger, number).closed_us is not None
    a_sitting(driven, [])._compare()
    assert not capsys.readouterr().out
    sitting = a_sitting(driven, [])
    assert (sitting._count_given(), sitting._own_votes()) == (
        "0 votes of yours, 0 of them for one of the two", [],
    )  # fmt: skip
    shown = staged("shown", sets=ROWS)
    number, sitting = final_comparison(shown, 1), a_sitting(shown, [])
    sitting.service.final = lambda *_, **__: None  # shown before and given up: none is left
    sitting._compare()
    assert orders.get(shown.ledger, number).closed_us is not None
    panel = staged("panel", sets=ROWS)
    panel.panelist("Bob")
    number = final_comparison(panel, 1)
    a_sitting(panel, ["", "a"])._compare()
    assert len(given(panel.ledger)) == 1 and orders.get(panel.ledger, number).closed_us is None


def test_who_waits_without_a_terminal_reads_at_once_what_for(staged, type_in, monkeypatch):
    stage = staged(begun=False, sets=ROWS)
    monkeypatch.setattr(console.Keys, "pause", lambda keys, seconds: True)  # q, while waiting
    with lease.hold(stage.ledger):
        code, seen = type_in(["y"], stage.ledger.path)
    assert code == 0 and seen.count("the model writes the first answers\n") == 1


@pytest.mark.parametrize("pace", [1.0, 0.5, 2.0])
def test_the_time_left_is_true_to_half_as_much_again_soon_after_a_person_changes_pace(pace):
    """Twenty sheets of eight rows, whose times differ by half; the pace changes after ten."""
    draws = np.random.default_rng(5).lognormal(np.log(12), 0.5, (200, 160))
    draws[:, 80:] *= pace
    known = [each for each in range(8, 153, 8) if pace == 1 or each >= 96]
    apart = [
        np.log(vote.usual_seconds(times[:at].tolist()) / times[at:].mean())
        for times in draws
        for at in known
    ]
    assert np.mean(np.abs(apart) < np.log(1.5)) > 0.93


def test_a_run_of_simulated_raters_is_not_voted_in(tmp_path, capsys):
    path = yard_run.finished(tmp_path)
    assert call(["vote", str(path)]) == 2
    assert "its panel is bt70, not people" in capsys.readouterr().err


def test_keys_of_a_terminal_come_one_by_one_and_no_sequence_is_taken_for_a_verdict(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(theirs)
        with console.Keys() as keys:
            os.write(ours, b"\x1b[D\x1bOC\x1b[1;5B\x1b[3~A\r?\x1b")
            found = [keys.read() for _ in range(8)]
            assert found == ["left", "right", "?key", "?key", "a", "", "?", "?key"]
            os.write(ours, "фшьы\u03b2é\xff日".encode() + b"\xe9")
            found = [keys.read() for _ in range(9)]
            assert found == ["a", "i", "m", "s", "b", "é", "ÿ", "日", "?key"]  # by their place
            os.write(ours, b"ab")
            assert [keys.pause(0.2), keys.pause(0.2), keys.pause(0)] == [False] * 3
            os.write(ours, b"q")
            assert keys.pause(5)
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


def test_every_key_of_the_terminal_has_its_place_on_other_keyboards():
    for alphabet in ("фышрйгцу", "ασχθς", "שד", "شسحاضعصي"):
        assert {console.at_place(letter) for letter in alphabet} <= set(string.ascii_lowercase)
    for letters, keys in (("фиырйгц", "abshquw"), ("αβσηθς", "abshuw"), ("ضعاس", "quhs")):
        assert [*map(console.at_place, letters)] == [*keys]


def test_a_signal_leaves_the_terminal_as_it_was(driven):
    number = signal.SIGHUP
    keyboard, seen = pty.openpty()
    before = termios.tcgetattr(seen)
    words = [sys.executable, "-m", "szpo", "vote", str(driven.ledger.path)]
    # Under nohup the test itself ignores the signal, and its children would with it.
    with subprocess.Popen(
        words, stdin=seen, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert any(line.startswith("Enter: agree") for line in child.stdout)
        assert not termios.tcgetattr(seen)[3] & termios.ECHO
        child.send_signal(number)
        assert child.wait(60) == 128 + number
    assert termios.tcgetattr(seen) == before
    os.close(keyboard)
    os.close(seen)


def begin(folder: Path, *sets: str) -> list[str]:
    every = (
        *yard_run.SETS, f"prompts.path={yard_run.prompts(folder)}", "optimizer.D=1",
        "run.votes=16", "run.name=mine", "panel.sheet=8", *sets,
    )  # fmt: skip
    return [
        *(word for each in every for word in ("--set", each)),
        "--folder",
        str(folder / "runs"),
        "--accept-samples",
    ]


def test_a_plan_says_what_a_new_run_costs_and_begins_none(driven, tmp_path, type_in):
    words = [word for word in begin(tmp_path) if word != "--accept-samples"]
    code, seen = type_in([], *words, "--plan")
    assert code == 0 and re.search(r"^votes +16 from 5 panelists", seen, re.M)
    assert seen.endswith("next: the same without --plan\n")
    assert not any((tmp_path / "runs").iterdir())
    code, seen = type_in([], driven.ledger.path, "--plan")
    assert code == 2 and "--plan is for a new run, and run has begun" in seen


@pytest.mark.full
def test_a_pipe_begins_a_run_and_votes_to_its_end(tmp_path, type_in, capsys):
    code, seen = type_in(["y", *"ab" * 8, "", *"ab" * 32], *begin(tmp_path))
    assert code == 0, seen
    path = tmp_path / "runs" / "mine.db"
    ended = r"\nfinished; thank you: (\d+) votes of yours, \1 of them for one of the two\n"
    assert re.search(ended + "64 blind pairs: Compare two versions", seen), seen
    assert "pair 64 of 64" in seen and re.search(r"of 64 (blind )?pairs", seen)
    assert re.search(r"\n\d+ votes: no taste shown \(odds of ", seen)
    assert f"szpo verify {path}" in seen and "guards on held-out prompts" not in seen
    (more,) = re.findall(r"^  (szpo vote .*) +#", seen, re.M)
    assert seen.index("you will be asked: Which answer do you like") < seen.index("setting up")
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger).ok
        (person,) = ledger.query("SELECT kind, pseudonym FROM panelists")
        assert person == {"kind": "person", "pseudonym": "terminal"}
        assert lease.controller(ledger)["lease"] is None, "the model's process gave it back"
    code, seen = type_in([], "mine", "--folder", path.parent)
    assert code == 0 and "finished" in seen
    with Ledger.open(path) as ledger:  # an operator's limit ends it before the added votes
        budget.set_limits(ledger, "Olga", budget.Limits(votes=16))
    code, seen = type_in([], *shlex.split(more)[2:])
    assert "40 votes added" in seen
    said = r"(?m)^stopped: asked to stop at 16 votes: \d+ are spent, a step takes 8; thank you"
    assert re.search(said, seen) and code == 0, seen
    goes_on = rf"(?m)^  szpo vote {re.escape(str(path))}( +#.*)?$"  # with the votes it has left
    assert re.search(goes_on, seen) and "--votes" not in seen
    call(["show", str(path)])
    assert re.search(goes_on, capsys.readouterr().out)


@pytest.mark.full
def test_who_begins_a_run_reads_what_the_words_named(tmp_path, type_in):
    said = "features.add=say: shorter, zesty"
    code, seen = type_in(["y"], *begin(tmp_path, said))
    assert code == 0 and 'say: "shorter" is length, characters, sentences; whether' in seen
    assert 'say: not understood: "zesty"; szpo taste --list has all' in seen
    other = "run.name=other", "subspace.kind=features", "subspace.samples=256"
    code, seen = type_in(["y"], *begin(tmp_path, said, *other))
    assert code == 2 and "has no coordinates of named features; set subspace.kind=none" in seen


@pytest.mark.full
def test_a_model_that_cannot_load_ends_it_with_one_line(staged, type_in):
    path = staged(begun=False, sets=ROWS).ledger.path  # of a model that nobody can load
    code, seen = type_in(["y"], path)
    then = f"; your votes are stored, go on with: szpo vote {path}"
    assert code == 5 and seen.count("error: ") == 1  # its record names no model's weights
    assert re.fullmatch(rf"error: .*{re.escape(then)}", seen.splitlines()[-1])


@pytest.mark.timeout(600)
def test_no_verdict_is_lost_when_it_is_killed_in_the_middle_of_a_sheet(tmp_path):
    """The next row on screen is the acknowledgement of the verdict before."""
    path, kills, acked = tmp_path / "runs" / "mine.db", 3, 0
    draws = seeds.uniform(seeds.derive(3, "kills"), kills)
    words = begin(tmp_path, "run.votes=64")
    for kill in range(kills + 1):
        with subprocess.Popen(
            [sys.executable, "-m", "szpo", "vote", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as child:  # fmt: skip
            assert child.stdin is not None and child.stdout is not None
            if not kill:
                print("y", file=child.stdin, flush=True)
            for _ in range(1 + int(7 * draws[kill]) if kill < kills else 1):
                assert any(line.startswith("row ") for line in child.stdout)
                print("a", file=child.stdin, flush=True)
                acked += 1
            assert any(line.startswith("row ") for line in child.stdout)
            print("b", file=child.stdin, flush=True)  # in flight: it may be stored or not
            child.kill()
        words = [str(path)]
        with Ledger.open(path) as ledger:
            votes = given(ledger)
            assert [row["choice"] for row in votes].count("A") == acked
            assert len({row["assignment"] for row in votes}) == len(votes) <= acked + kill + 1
            assert verification.verify(ledger).ok
