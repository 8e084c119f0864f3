"""The command line from outside: what is printed, what is written, how it exits."""

import errno
import io
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from szpo import plugins
from szpo.cli import app, console, run_paths
from szpo.cli.app import call
from szpo.cli.machine import call_with_options
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.improvement import policy_search
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest, theta_digests
from szpo.policies.text_guards import Guard
from szpo.replay import verification
from szpo.runs import assemble, budget, guards, setup_progress, status
from szpo.voting import lease
from tests.support import yard_run
from tests.support.tampering import forge, rewrite


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return yard_run.finished(tmp_path_factory.mktemp("yard"))


def heads(path: Path) -> list[str]:
    with Ledger.open(path, readonly=True) as ledger:
        return theta_digests(ledger)


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, once its ledger stands."""
    command = [sys.executable, "-m", "szpo", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            assert any(line.startswith("run yard") for line in child.stderr), "it never began"
            yield child
        finally:
            child.kill()  # otherwise a failed test waits for it for ever


LIGHT = (
    (["--help"], ("numpy", "jinja2", "szpo.config"), 0, ""),
    (["runz"], ("numpy", "jinja2", "szpo.config"), 2, "No such command 'runz'. Did you mean"),
    (["run", "--set", "prompts.path=nowhere.txt"], ("torch", "transformers"), 2, "nowhere.txt"),
)


@pytest.mark.parametrize(
    ("words", "heavy", "code", "said"), LIGHT, ids=["help", "typo", "refused"]
)
def test_what_runs_nothing_loads_next_to_nothing(words, heavy, code, said):
    script = (
        "import sys; from szpo.cli.app import call; code = call(sys.argv[1:]); "
        f"print(code, [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{code} []" and said in done.stderr


BESIDE_THE_RECORD = (
    ["init", "made.toml"], ["invite", "RUN"],
    ["pairs", "RUN", "--rows-of-batches", "--out", "pairs.jsonl"], ["show", "--all"],
    ["show", "RUN"], ["verify", "RUN"], ["export", "RUN", "--votes", "v.jsonl"],
)  # fmt: skip
"""Commands that need a record at most, the lightest first."""
HELPED = tuple([name, "--help"] for name in app.COMMANDS)
REFUSED = (
    ["demo", "--taste", "nothing"], ["compare", "RUN", "nowhere"], ["improve", "nowhere"],
    ["run", "--set", "panel.reward=nothing"], ["run", "--preset", "tiny", "--set", "a.key=1"],
    ["run", "--preset", "tiny", "--set", "run.name=yard"], ["baseline", "nothing"],
    ["baseline", "dpo"], ["baseline", "dpo", "--pairs", "nowhere.jsonl"],
    ["baseline", "dpo", "--fresh", "--set", "a.key=1"], ["baseline", "ppo", "--score", "nothing"],
    ["baseline", "dpo", "--run", "RUN", "--out", "runs"], ["scorer", "nowhere"],
    ["baseline", "dpo", "--fresh", "--recipe", "nokey=1"], ["scorer", "nowhere.jsonl"],
    ["scorer", "RUN", "--model", "nowhere"], ["answer", "RUN", "--mix", "commas=1"],
    ["baseline", "dpo", "--fresh", "--set", "model.name=nowhere"],
    ["adapters", "make", "--model", "nowhere"], ["adapters", "make", "--of", "NONSENSE"],
    ["run", "--set", "model.name=nowhere"],
    ["run", "--set", "model.adapter=nowhere"], ["run", "--set", 'subspace.adapters=["nowhere"]'],
)  # fmt: skip
"""What needs no model to be refused: a taken name, a missing file, an unknown word."""
LIBRARIES = ["torch", "transformers", "peft", "pandas", "matplotlib", "gradio"]
LIBRARIES += ["scipy.stats", "scipy.optimize"]
"""Libraries that take a third of a second or more to load."""


@pytest.mark.parametrize(
    ("lines", "codes"), [(HELPED, [0]), (REFUSED, [2, 4]), (BESIDE_THE_RECORD, [0])],
    ids=["help", "refused", "record"],
)  # fmt: skip
def test_what_needs_a_record_at_most_loads_no_heavy_library(lines, codes, tmp_path):
    path = yard_run.finished(tmp_path)
    script = (
        "import json, sys; from szpo.cli.app import call\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = call(words)\n"
        "    loaded = [name for name in sys.argv[2:] if name in sys.modules]\n"
        f"    assert code in {codes} and not loaded, (words, code, loaded)\n"
        "    first = words[0] in ('init', 'invite', 'pairs') and words[1] != '--help'\n"
        "    assert not first or not {'jinja2', 'scipy.sparse'} & sys.modules.keys(), words[0]\n"
    )
    words = [[str(path) if w == "RUN" else w for w in line] for line in lines]
    command = [sys.executable, "-c", script, json.dumps(words), *LIBRARIES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_breaks_lines_where_the_terminal_does():
    for found in (app.load_command("answer"), app.load_command("adapters").commands["make"]):
        first, second = found.help.split("\n\n")
        assert "\n" not in first + second


class Screen(io.StringIO):
    """A stream that is a terminal, or is not."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.isatty = lambda: terminal  # type: ignore[method-assign]


def test_a_silent_command_says_what_it_does(monkeypatch):
    """On a terminal after 1.5 s, then each second, in one place; in a log once a minute."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "machine_load", lambda: (0.5, 2))
    now = [0.0]
    screen, log = Screen(terminal=True), Screen(terminal=False)
    for to, first in ((screen, 1.5), (log, 60.0)):
        now[0] = 0.0
        pulse = console.Pulse(to, lambda: now[0])
        pulse.note("loading the model")
        for now[0] in (first - 0.1, first, first + 1):
            pulse.beat()
        out = pulse.wrap(to)
        out.write("model tiny\n")
        out.write("Go on? ")  # a question waits as long as it takes
        now[0] += 100
        pulse.beat()
        out.write("\n")
        now[0] += 100
        pulse.note("")  # nobody waits
        pulse.beat()
    assert screen.getvalue() == (
        "\rloading the model (2 s)\x1b[K\rloading the model (2 s)\x1b[K\r\x1b[K"
        "model tiny\nGo on? \n"
    )
    assert log.getvalue() == "loading the model (60 s)\nmodel tiny\nGo on? \n"
    monkeypatch.setattr(console, "machine_load", lambda: (5.1, 4))
    pulse.note("measuring")
    pulse.beat()
    assert log.getvalue().endswith("measuring (0 s; the machine is busy: load 5.1)\n")
    pulse.note("answers written 1/9")
    now[0] += 70
    pulse.note("answers written 2/9, 0:01:00 left")  # other words are other work
    now[0] += 70
    pulse.note("answers written 3/9, 0:00:50 left")
    pulse.beat()
    assert log.getvalue().endswith(" left (70 s; the machine is busy: load 5.1)\n")
    monkeypatch.setenv(console.CHILD, "1")  # a parent writes to the same terminal
    now[0], beside = 0.0, Screen(terminal=True)
    pulse = console.Pulse(beside, lambda: now[0])
    pulse.note("set-up")
    for now[0] in (4.9, 5.0, 9.9):
        pulse.beat()
    assert beside.getvalue() == "set-up (5 s; the machine is busy: load 5.1)\n"


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "serve",
        "run",
        "compare",
        "improve",
        "adapters make set",
        "baseline dpo",
        "baseline self-rewarding",
    ],
)
def test_an_interrupt_before_anything_is_stored_names_the_same_command(name, monkeypatch, capsys):
    def stop(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("szpo.cli.app.app", stop)
    assert call([*name.split(), "--set", "run.name=a b", "--debug"]) == 130
    verb = "Begin again" if name in ("improve", "baseline dpo") else "Continue"
    assert capsys.readouterr().err == (
        f"stopped by an interrupt; nothing counted is lost. {verb} with: "
        f"szpo {name} --set 'run.name=a b'\n"
    )


@pytest.mark.spine
def test_run_spends_its_votes_and_names_what_comes_next(tmp_path, capsys):
    path = yard_run.make(tmp_path)
    message = capsys.readouterr()
    with Ledger.open(path, readonly=True) as ledger:
        total = status.read_results(ledger)
    read = budget.describe_read(total.answers_read, total.person_minutes)
    assert re.fullmatch(r"1?\d\d answers, \d minutes? of reading", read)  # 24 · 2 · 3 at most
    assert f"finished: 24 of 24 votes spent, a step takes 8; 24 votes, {read}\n" in message.out
    assert f"szpo report {path}" in message.out
    assert "panel bt70: 5 simulated panelists, reward walk, sharpness beta" in message.err
    assert f"step 2: 24 votes, {read}, reward -" in message.err  # shown to the person only
    assert "plus won" not in message.err  # it is a coin toss, and read as quality
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.spine
def test_a_run_that_a_guard_pauses_ends_with_1_and_says_how_it_goes_on(tmp_path, capsys):
    assert call(yard_run.arguments(tmp_path, "run.name=far", "guards.length=[900, 901]")) == 1
    said = capsys.readouterr().out
    assert "paused: guard length: after step 0" in said and "szpo run --resume" in said


@pytest.mark.spine
def test_same_seed_gives_the_same_digests(yard, tmp_path):
    assert heads(yard_run.make(tmp_path)) == heads(yard)
    assert heads(yard_run.make(tmp_path / "other", "run.seed=1")) != heads(yard)


@pytest.mark.spine
def test_resume_continues_to_the_same_weights(yard, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        seen = []

        def stop(what: str) -> None:
            seen.append(what)
            if sum(each.startswith("votes ") for each in seen) == 2:
                raise KeyboardInterrupt

        patch.setattr(console, "doing", stop)
        assert call(yard_run.arguments(tmp_path, "run.name=yard")) == 130
    message = capsys.readouterr().err.splitlines()[-1]
    path = tmp_path / "runs" / "yard.db"
    assert message == (
        "stopped by an interrupt; nothing counted is lost. Continue with: szpo run --resume "
        f"{path}"
    )
    assert len(heads(path)) == 3
    assert call(["run", "--resume", "yard", "--folder", str(path.parent)]) == 0
    assert heads(path) == heads(yard)


@pytest.mark.full
def test_what_cannot_be_written_is_named_and_an_earlier_page_stays(tmp_path, monkeypatch, capsys):
    path = yard_run.finished(tmp_path)
    assert call(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text(encoding="utf-8")

    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as here:
        here.setattr(Path, "write_text", full)
        assert call(["report", str(path)]) == 4
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    assert call(yard_run.arguments(tmp_path, "run.name=other")) == 4
    said = capsys.readouterr().err
    assert "html cannot be written (No space left" in said and "set another run.folder" in said
    assert path.with_suffix(".html").read_text(encoding="utf-8") == page


def test_the_end_of_a_run_names_guards_that_fail_on_held_out_prompts(tmp_path, capsys):
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        fine, bad = Guard("fluency", 0.1, "≤ 1", True), Guard("distinct-2", 0.8, "≥ 0.9", False)
        guards.record_held_out(ledger, guards.HeldOut((), (fine, bad)))
    assert call(["run", "--resume", str(path)]) == 0
    assert "guards on held-out prompts: 1 of 2 fail: distinct-2" in capsys.readouterr().out


@pytest.mark.full
def test_votes_that_are_added_end_where_the_whole_number_would_have(yard, tmp_path, capsys):
    whole = yard_run.make(tmp_path / "whole", "run.votes=48")
    path = yard_run.finished(tmp_path)
    capsys.readouterr()
    assert call(["run", "--resume", str(path), "--votes", "+24"]) == 0
    message = capsys.readouterr()
    # 24 votes · 2 sides · 3 rows; of 24 tokens, so 18 words: 144 · 18 / 238 minutes.
    more = "144 answers, 11 minutes of reading"
    assert f"24 votes added (at most {more}): the run ends after 48 votes" in message.err
    assert "finished: 48 of 48 votes spent" in message.out
    assert f"szpo run --resume {path} --votes +40  # the same run goes on" in message.out
    assert heads(path) == heads(whole) and heads(path)[:4] == heads(yard)
    assert [call([*words, str(path)]) for words in (["show"], ["verify"])] == [0, 0]
    said = capsys.readouterr().out
    assert "48 of 48 (24 of them added), 0 skips" in said
    assert "added votes: the run ends after 48 votes" in said
    with Ledger.open(path, readonly=True) as ledger:
        event = ledger.query("SELECT event FROM events WHERE kind = 'budget'")[0]["event"]
    forge(path, "UPDATE events SET body = replace(body, '48', '25') WHERE event = ?", (event,))
    rewrite(path)
    with Ledger.open(path, readonly=True) as ledger:
        failure = verification.verify(ledger).failure
    assert failure is not None
    assert failure.problem == "counts 32 votes where the run ends after 25"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("40", "--votes 40: give the votes to add with a plus, such as +40"),
        ("+-3", "with a plus"),
        ("+0", "+0 votes are less than one step, which takes 8; add 8 or more"),
        ("+2000000", "+2,000,000 votes are too many"),
    ],
)
def test_votes_that_cannot_be_added_leave_the_record_as_it_was(yard, given, says, capsys):
    before = yard.read_bytes()
    assert call(["run", "--resume", str(yard), "--votes", given]) == 2
    assert says in capsys.readouterr().err
    with Ledger.open(yard, readonly=True) as ledger:
        assert not list(ledger.events("budget"))
    assert len(before) == yard.stat().st_size


def test_votes_are_added_to_no_run_that_is_held_elsewhere(tmp_path, capsys):
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger, lease.hold(ledger, "elsewhere:1:a:b"):
        assert call(["run", "--resume", str(path), "--votes", "+8"]) == 3
        assert "driven by elsewhere:1:a:b, whose lease lasts 60 s more" in capsys.readouterr().err
        assert not list(ledger.events("budget"))
    assert call(["run", "--votes", "+8"]) == 2
    assert "for a new run: --set run.votes=40" in capsys.readouterr().err
    assert call(["run", "--resume", "--votes", "+40"]) == 2
    assert "--resume takes a run: szpo run --resume NAME" in capsys.readouterr().err


@pytest.mark.full
def test_a_held_run_asks_nobody_until_somebody_starts_it(tmp_path, capsys):
    line = yard_run.arguments(tmp_path, "run.name=yard")
    assert call([*line, "--hold"]) == 1
    path = tmp_path / "runs" / "yard.db"
    assert capsys.readouterr().out.splitlines() == [
        "paused: operator: the first round waits for its start; 0 votes",
        f"  szpo run --resume {path}  # continues from there",
    ]
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.steps() == []
    assert call(["run", "--resume", str(path)]) == 0
    free = yard_run.finished(tmp_path / "free")
    with Ledger.open(path, readonly=True) as held, Ledger.open(free, readonly=True) as other:
        assert theta_digests(held) == theta_digests(other)


@pytest.mark.spine
def test_termination_exits_143_and_leaves_a_run_to_resume(tmp_path):
    arguments = yard_run.arguments(tmp_path, "run.name=yard", "panel.kind=people")
    with started(arguments) as child:  # it waits for people: nothing ends it
        os.kill(child.pid, signal.SIGTERM)
        _, rest = child.communicate()
    assert child.returncode == 143, rest
    assert rest.splitlines()[-1].startswith("stopped by SIGTERM")


def test_commands_that_look_agree_and_mean_the_newest_run_where_none_is_named(yard, capsys):
    folder = ["--folder", str(yard.parent)]
    assert call(["show", "--all", *folder, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert call(["show", "yard", *folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in shown.items() if k != "step_rows"} == listed
    assert (listed["votes"], listed["steps"], listed["state"]) == (24, 3, "finished")
    assert listed["theta_sha256"] == heads(yard)[-1]
    assert sum(row["votes"] for row in shown["step_rows"]) == 24
    assert sum(row["plus"] + row["minus"] + row["ties"] for row in shown["step_rows"]) == 24
    assert call(["show", str(yard)]) == 0
    shown = capsys.readouterr().out
    assert "tabular" in shown and re.search(r"^state +finished$", shown, re.MULTILINE)
    with setup_progress.writing(yard, setup_progress.MEASURING):
        assert call(["show", str(yard)]) == 0
    assert "finished; it is still being measured" in capsys.readouterr().out
    assert call(["verify", "--folder", str(yard.parent), "--steps"]) == 0
    message = capsys.readouterr().out
    assert f"weights {heads(yard)[-1]} (theta_sha256) after 3 steps" in message
    assert "step 2: 8 votes" in message
    assert "verified:" in message
    assert call(["verify", str(yard), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert call(["simulate", str(yard)]) == 0
    assert "0 votes cast: the run is finished" in capsys.readouterr().out


@pytest.mark.full
def test_the_head_that_show_prints_is_the_one_that_verify_takes(yard, capsys):
    assert call(["show", str(yard)]) == 0
    shown = capsys.readouterr().out
    (head,) = re.findall(r"^head +([0-9a-f]{64})", shown, re.MULTILINE)
    assert call(["verify", str(yard), "--head", head]) == 0
    assert f"head {head}" in capsys.readouterr().out
    assert call(["report", str(yard), "--out", str(yard.with_name("heads.html"))]) == 0
    assert f"Head <code>{head}</code>" in yard.with_name("heads.html").read_text("utf-8")
    capsys.readouterr()
    assert call(["verify", str(yard), "--head", heads(yard)[-1]]) == 2
    assert "the digest of the weights after 3 steps, no head" in capsys.readouterr().err
    assert call(["verify", str(yard), "--head", "0" * 64]) == 5
    assert "the chain was rewritten" in capsys.readouterr().err


@pytest.mark.full
def test_plan_costs_nothing_and_is_arithmetic(tmp_path, capsys):
    arguments = yard_run.arguments(tmp_path, "optimizer.M=2", "run.votes=160")
    assert call([*arguments, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    # 160 votes at K·N·M = 1·8·2 a step; each vote reads 2·D = 6 answers of at most 24 tokens.
    assert (plan["steps"], plan["votes"], plan["answers_to_read"]) == (10, 160, 960)
    assert plan["person_hours"] == pytest.approx(960 * 24 * 0.75 / 238 / 60)
    assert plan["answers_to_generate"] == 10 * 8 * 3 * 2
    assert call([*arguments, "--plan"]) == 0
    shown = capsys.readouterr().err
    assert "at most 960 answers, 73 minutes of reading at 238 words a minute" in " ".join(
        shown.split()
    )
    assert shown.splitlines()[-1].startswith("next: szpo run --set model.name=tabular ")
    scored = ["--set", "subspace.kind=full", "--set", "optimizer.rule=known"]
    assert call(["run", "--preset", "people", *scored, *arguments[1:], "--plan"]) == 0
    folder = tmp_path / "runs"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("next: szpo serve --preset people --set ")
    assert last.endswith(f" --folder {folder}"), "the command as it was given, without --plan"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sets", "answers", "steps", "votes"),
    [
        (["panel.sheet=5"], 8, "8 × 1 votes (pairs × panelists), each on two of the policy's own ",
         ", on about 32 sheets of 5 pairs"),
        (["panel.sheet=1"], 8, "8 × 1 votes (pairs × panelists)", ""),
        (["subspace.kind=none", "panel.sheet=1"], 8, "8 × 1 votes (pairs × panelists)", ""),
        (["optimizer.rule=known", "optimizer.D=1", "panel.sheet=4"], 2,
         "(directions × pairs × panelists), each on two answers to a prompt",
         ", on about 40 sheets of 4 pairs"),
        (["optimizer.D=8"], 16, "(directions × batches × panelists), D = 8 answers a batch",
         ""),
    ],
)  # fmt: skip
def test_the_plan_says_what_a_vote_is_about(sets, answers, steps, votes):
    """Of 160 votes, eight a step; ``answers`` are written for each: eight candidates or 2 D."""
    config = settings_file.load(sets=["panel.kind=people", "run.votes=160", *sets])
    found = budget.estimate_cost(config)
    assert found.answers_to_generate == 160 * answers
    told = dict(budget.describe_cost(found, config))
    assert told["steps"].startswith("20, each of ") and steps in told["steps"]
    assert told["votes"] == f"160 from 5 panelists (people){votes}"


@pytest.mark.parametrize(("sets", "named"), [((), True), (("optimizer.rule=known",), False)])
def test_the_plan_says_what_stays_out_of_named_features_alone(tmp_path, capsys, sets, named):
    (tmp_path / "de.txt").write_text("Warum gehen Menschen gern ans Meer?\n" * 5)
    sets = "model.name=tiny", f"prompts.path={tmp_path / 'de.txt'}", *sets
    assert call(["run", "--plan", *(word for each in sets for word in ("--set", each))]) == 0
    assert ("do not read as English" in capsys.readouterr().err) == named


def test_the_plan_counts_the_answers_that_each_adapter_s_curve_takes():
    sets = ['subspace.adapters=["smollm2"]', "subspace.kind=adapters", "generation.temperature=.7"]
    config = settings_file.load(preset_name="demo", sets=sets)
    new, stored = (budget.estimate_cost(config, basis_is_stored=on) for on in (False, True))
    curves = 16 * 4 * 8  # adapters, lengths in both senses, answers
    assert new.setup_answers - stored.setup_answers == curves + 96 + 256


def test_the_plan_multiplies_what_an_answer_took():
    config = settings_file.load(preset_name="tiny")
    found = budget.estimate_cost(config, answer_seconds=0.3)
    # 15 steps of 8 rows, each from 8 answers; set-up (1,024 for features, 96 for KL, 384 for
    # the panel), and 32 a step for KL, each drawn and read; 16 held-out
    # prompts with 4 answers at both ends and 1 at 3 places between, and 64 pairs at the end.
    setup, measured = 1024 + 96 + 384, 16 * (2 * 4 + 3) + 2 * 64
    answers = 15 * 8 * 8 + 2 * (setup + 15 * 32) + measured
    assert found.generation_minutes == pytest.approx(answers * 0.3 / 60)
    assert found.heldout_answers == measured
    for seconds, told in ((0.3, "minutes on this machine"), (3.0, "hours on this machine")):
        costs = budget.estimate_cost(config, answer_seconds=seconds)
        assert told in dict(budget.describe_cost(costs, config))["generation"]


def test_the_plan_counts_what_improving_draws_besides():
    sets = ["run.votes=80", "subspace.kind=none", "improve.nats=3"]
    config = settings_file.load(preset_name="tiny", sets=sets)
    found = budget.estimate_cost(config, answer_seconds=0.3, train=100)
    # After the first of ten steps, at three doublings, and at the end; each round has eight
    # readings beside sixteen steps.
    assert (found.improving_rounds, found.improving_answers) == (5, 5 * (8 * 64 + 16 * 32))
    pace = policy_search.PACE
    assert pace.prompts * pace.group == budget.DRAWN and policy_search.COMPARED == budget.CHECKED
    assert found.heldout_answers  # it may move, so it is measured
    told = dict(budget.describe_cost(found, config))["improving"]
    assert "at most 5 rounds" in told and "minutes on this machine" in told


def test_a_new_run_lies_where_its_settings_say_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = ["run.folder=a", "run.name=x"]
    for folder, place in ((None, "a"), (Path("b"), "b"), (run_paths.RUNS, "runs")):
        path, config = run_paths.find_target(None, folder, "people", sets)
        assert path == Path(place, "x.db") and config.run.folder == place
    for name in ("run", "vote", "serve"):
        (folder,) = (each for each in app.load_command(name).params if each.name == "folder")
        assert folder.default is None, "the default would win over run.folder"


def test_the_plan_says_what_people_wait_for():
    """Eight rows of four candidates before the first pair; 256 answers once, behind it."""
    config = settings_file.load(preset_name="people", sets=["model.name=smollm2"])
    found = budget.estimate_cost(config, answer_seconds=0.3)
    assert (found.first_answers, found.second_answers) == (32, 32 + 256)
    assert dict(budget.describe_cost(found, config))["waiting"] == (
        "for the first pair 32 answers, about 0.2 minutes on this machine, measured; "
        "for the second round 288 answers, about 1.4 minutes on this machine, measured, while "
        "people read"
    )
    config = settings_file.load(preset_name="people", sets=["subspace.kind=features"])
    found = budget.estimate_cost(config)
    assert (found.first_answers, found.second_answers) == (found.setup_answers + 64, 64)


def test_init_never_overwrites_unasked(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("mine")
    assert call(["init", str(file)]) == 2
    assert "exists; overwrite it with --force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert call(["init", str(file), "--force"]) == 0
    assert "[run]" in file.read_text(encoding="utf-8")
    made = tmp_path / "new" / "our run.toml"
    assert call(["init", str(made)]) == 0  # with its folder
    assert f"szpo run '{made}'" in made.read_text("utf-8").splitlines()[0]


@pytest.mark.spine
def test_doctor_looks_at_everything(tmp_path, capsys):
    call(["doctor", "--folder", str(tmp_path), "--json"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {"versions", "sqlite", "cores", "runs folder", "smollm2"} <= set(found)
    assert found["runs folder"]["status"] == "ok"
    call(["doctor", "--folder", str(tmp_path)])
    last = capsys.readouterr().out.splitlines()[-1]
    if not any(check["status"] == "fail" for check in found.values()):
        assert last == "next: szpo demo, or with people: szpo serve --preset people"


def test_a_bench_takes_typed_options_and_its_json_is_all_of_stdout(capsys, monkeypatch):
    def count(
        seeds: tuple[int, ...] = (0, 1), fast: bool = False, name: str | None = None
    ) -> object:
        """Count."""
        return seeds, fast, name

    found = call_with_options(count, "count", ["--seeds", "3", "4", "--fast"])
    assert found == ([3, 4], True, None)
    assert call_with_options(count, "count", []) == ((0, 1), False, None)
    assert call(["bench", "gridworld", "--help"]) == 0
    assert "--quick" in capsys.readouterr().out
    assert call(["bench", "nope"]) == 2
    assert 'no benchmark "nope"; there are:' in capsys.readouterr().err
    assert call(["bench", "preferences"]) == 2
    assert "arguments are required: --file (see: szpo" in capsys.readouterr().err
    assert call(["adapters"]) == 2
    assert capsys.readouterr().err == "error: no command given (see: szpo adapters --help)\n"
    assert call(["bench", "gridworld", "--nope"]) == 2
    wrong = "error: unrecognized arguments: --nope (see: szpo bench gridworld --help)\n"
    assert capsys.readouterr().err == wrong

    def measured(seed: int = 0) -> dict[str, int]:
        """Measure."""
        print("a table")
        return {"seed": seed}

    monkeypatch.setattr(plugins, "load", lambda *names: measured)
    assert call(["bench", "measured", "--json", "--seed", "3"]) == 0
    message = capsys.readouterr()
    assert json.loads(message.out) == {"seed": 3}
    assert "a table" in message.err


@pytest.mark.full
def test_a_run_is_only_resumed_with_the_prompts_it_began_with(tmp_path, capsys):
    path = yard_run.make(tmp_path)
    file = tmp_path / "yard.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(reversed(lines)) + "\n")
    capsys.readouterr()
    assert call(["run", "--resume", str(path)]) == 5
    assert "not the prompts that yard.db began with" in capsys.readouterr().err
    file.unlink()
    assert call(["run", "--resume", str(path)]) == 2
    with Ledger.open(path, readonly=True) as ledger:
        reported: list[str] = []
        parts = assemble.reopen(ledger, panel=False, say=reported.append)
        assert parts.policy.digest() == theta_digest(ledger)
        assert reported[0].startswith("warning: prompt file")
        with pytest.raises(UsageError, match="3 steps are applied, not 4; give fewer"):
            assemble.reopen(ledger, until=4, panel=False)


def test_a_panel_as_a_process_votes_in_a_run_of_people(tmp_path):
    arguments = yard_run.arguments(tmp_path, "run.name=yard", "panel.kind=people")
    path = tmp_path / "runs" / "yard.db"
    with started([*arguments, "--accept-samples"]) as driver:
        while driver.poll() is None:  # it may take a while to begin
            assert call(["simulate", str(path), "--reward", "walk"]) == 0
    assert driver.returncode == 0
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.last_applied() == 2 and verification.verify(ledger).ok


def test_a_text_of_a_record_is_shown_and_not_obeyed(capsys):
    r"""Escapes could print that a record verifies; ``\[`` before a bracket made it markup."""
    text = "x\x1b[2K\x1b[1G\x9bverified \u202e :cat: regex:w[0-9]2|\\[/b\\] \\[bold red\\]"
    console.say(text)
    console.complain(text)
    console.table([text], [[text]])
    console.pairs({text: text})
    console.emit({text: text})
    out, err = capsys.readouterr()
    assert logging.lastResort is not None
    warned = logging.lastResort.format(logging.makeLogRecord({"msg": text}))
    assert "verified" in warned and not {*"\x1b\x9b\u202e"} & {*warned}
    marked = text.replace("\x1b", "⟨001B⟩").replace("\x9b", "⟨009B⟩").replace("\u202e", "⟨202E⟩")
    assert err == f"{marked}\n"
    shown, document = out.split("{")
    assert " ".join(shown.split()).count(marked) == 1 + 2 + 2
    assert json.loads("{" + document) == {text: text}
    assert not set("\x1b\x9b") & set(out + err)


def test_only_a_process_that_has_the_terminal_to_itself_draws_on_it(monkeypatch):
    monkeypatch.setattr(console, "errors", Console(file=io.StringIO(), force_terminal=True))
    assert console.draws()
    monkeypatch.setenv(console.CHILD, "1")
    assert not console.draws()


def test_a_count_tells_its_pace_and_what_it_tells_is_not_obeyed(monkeypatch):
    now, told = 0.0, []
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    monkeypatch.setattr(console, "doing", told.append)
    tell = console.counting("votes", 1200, 200)
    now = 30.0
    for votes in (200, 400, 1200):
        tell(votes, "measuring" if votes == 1200 else "")
    assert told == [
        "votes 200/1,200",
        "votes 400/1,200, 0:02:00 left",
        "votes 1,200/1,200, measuring",
    ]
    monkeypatch.undo()
    pulse = console.Pulse(io.StringIO())
    monkeypatch.setattr(console, "_pulses", [pulse])
    console.doing("x\x1b[2K\u202e")
    assert pulse._doing == "x⟨001B⟩[2K⟨202E⟩"


def test_commands_that_are_printed_can_be_copied_from_any_folder(tmp_path, capfd):
    path = yard_run.make(tmp_path / "my runs; (new)")
    printed = [line.split("#")[0] for line in capfd.readouterr().out.splitlines()]
    commands = [shlex.split(line) for line in printed if line.startswith("  szpo")]
    assert commands
    for words in commands:
        assert str(path) in words, words


def test_a_path_after_an_equals_sign_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for word, wanted in (
        ("--out=~/a b.db", "--out=/home/me/a b.db"), ("~/a", "/home/me/a"), ("~", "~"),
        ("--set", "--set"), ("run.folder=~/a", "run.folder=~/a"), ("-p=~/x\n~/y", "-p=~/x\n~/y"),
    ):  # fmt: skip
        assert app._at_home(word) == wanted
