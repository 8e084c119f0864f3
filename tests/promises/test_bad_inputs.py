"""Bad input through the command line: one clear line, the right exit code, nothing left behind.

docs/reference/commands.md lists the codes for users.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import szpo
from szpo.cli import console
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support import folder_run, yard_run
from tests.support.cases import case
from tests.support.tampering import forge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return yard_run.finished(tmp_path_factory.mktemp("yard"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_run.make(tmp_path_factory.mktemp("folder"))


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused; its last line on stderr, checked to be one."""

    def run(code: int, *arguments: object) -> str:
        capsys.readouterr()
        assert call([str(a) for a in arguments]) == code
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "\n".join(lines)
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        return lines[-1].removeprefix("error: ")

    return run


def copied(run: Path, folder: Path) -> Path:
    """A copy of the file of a run that was closed, so that all of it is in the main file."""
    return Path(shutil.copy(run, folder))


SETTINGS_FILES = {
    b"[run]\n\nseed = 1 # \xff\n": "run.toml: byte 0xff at line 3 is not UTF-8",
    b"\xef\xbb\xbf[run]\nseed = -1\n": "run.toml: run.seed must be a whole number",
    b"[run]\nseed = = 1\n": "line 2, column 8",
    b"[run]\nseed = " + b"[" * 100_000: "run.toml is not TOML: ",
    b"[optimizer]\nkl_radus = 1.0\n": 'in [optimizer]; did you mean "kl_radius"?',
}
SETTINGS = (
    *((f"optimizer.mu={value}", f"mu must be a finite number > 0 and <= 1e+06 (got {value})")
      for value in ("0", "-1", "nan", "inf", '"0.1"')),
    *((f"optimizer.N={value}", f"must be a whole number >= 1 and <= 4,096 (got {value})")
      for value in ("0", "2.5", "1000000000")),
    *((f"seed={value}", "run.seed must be a whole number >= 0 and < 9,223,372,036,")
      for value in ("-1", "9223372036854775808", '"text"', "text")),
    *((f"run.name={name}", "must be 1 to 64 small letters, digits and hyphens")
      for name in ("../a", "", "x" * 300, "run-\N{SNAKE}", "/etc/x", "a.b")),
    ("run.name=con", "is reserved by some file systems"),
    ("optimizer.M=8", "optimizer.M 8 needs 8 panelists; panel.size is 5"),
)  # fmt: skip


def test_settings_files(refused, tmp_path):
    file = tmp_path / "run.toml"
    assert refused(2, "run", file).endswith(f"(looked in {tmp_path}); create one with: szpo init")
    assert refused(2, "run", "tiny").endswith("for the preset of that name: --preset tiny")
    assert "give --set prompts.path=" in refused(2, "run", file.with_suffix(".csv"))
    for content, words in SETTINGS_FILES.items():
        file.write_bytes(content)
        with case(content):
            assert words in refused(2, "run", file)


def test_settings_out_of_range(refused):
    for setting, words in SETTINGS:
        with case(setting):
            message = refused(2, "run", "--set", setting)
            assert message.startswith("settings: ") and words in message


PLANS = {
    "panel.kind=nobody": 'no panel.kind "nobody"',
    "panel.reward=nothing": "reward 'nothing': no reward of that name",
    "panel.kind=people+side=1": 'no panel.kind "people+side=1"',
    "prompts.path=absent.txt": "absent.txt",
    "prompts.path={long}": "{long}:2: 5,0",
    "model.name=./absent": "not found",
    "model.adapter=./absent": "adapter folder absent not found",
    "model.device=cuda:7": "model.device cuda:7 is not on this machine (torch finds: cpu",
    "model.device=mps": "model.device mps is not on this machine (torch finds: cpu",
    "panel.consent_file=a.txt": 'unknown key "consent_file" in [panel]',
    "max_new_tokens=512": "leaves no room for a prompt: model tiny reads 512 tokens; lower it",
}


@pytest.mark.full
def test_a_plan_refuses_what_a_run_refuses_and_neither_begins(tmp_path, capsys, monkeypatch):
    """Neither prints its costs before, loads a model or leaves a folder."""
    import torch

    from szpo.policies import language_model

    monkeypatch.setattr(language_model, "prepare", lambda *a: pytest.fail("the set-up began"))
    for kind in (torch.cuda, torch.mps):
        monkeypatch.setattr(kind, "device_count", lambda: 0)
    long = tmp_path / "long.txt"
    long.write_text(f"How was the sea?\n{'sea ' * 5000}\nTell me more.\n", encoding="utf-8")
    runs = tmp_path / "runs"
    for setting, words in PLANS.items():
        sets = [w for s in setting.format(long=long).split() for w in ("--set", s)]
        for plan in ([], ["--plan"]):
            with case(setting, *plan):
                assert call(["run", "--preset", "tiny", "--folder", str(runs), *plan, *sets]) == 2
                message = capsys.readouterr()
                assert message.out == ""
                (reported,) = message.err.splitlines()
                assert words.format(long=long) in reported
                assert not runs.exists()


@pytest.mark.full
def test_odd_prompts_are_reported_and_the_run_goes_on(tmp_path, capsys):
    path = yard_run.prompts(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    marked = lines[1].replace("Walk from", "\u202eWalk from")
    path.write_text("\n".join([*lines, lines[1], marked]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yard_run, "prompts", lambda folder: path)
        yard_run.make(tmp_path, "run.votes=8")
    message = capsys.readouterr().err
    assert "warning: 1 duplicate prompt" in message
    assert "direction" in message


def without_a_layer(model: Path) -> None:
    file = model / "model.safetensors"
    less = {name: tensor for name, tensor in load_file(file).items() if ".layers.2." not in name}
    save_file(less, file, metadata={"format": "pt"})


LACKS = "its files lack 9 of the model's tensors: model.layers.2.input_layernorm.weight"


def test_a_model_without_a_tokenizer_is_refused_in_a_line(refused, tmp_path):
    model = folder_run.model(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink(missing_ok=True)
    for plan in ([], ["--plan"]):
        message = refused(2, *folder_run.arguments(tmp_path, model_folder=model), *plan)
        assert "no tokenizer there (looked for tokenizer.json, tokenizer.model," in message


@pytest.mark.full
def test_a_model_that_lacks_a_layer_or_is_an_adapter_is_refused_wherever_one_is_loaded(
    refused, folder, tmp_path
):
    """Nothing is loaded into a base from there, and nothing is looked for on the hub."""
    base, adapter = folder.parent.parent / "llama", tmp_path / "adapter"
    lacking = Path(shutil.copytree(base, tmp_path / "lacking"))
    without_a_layer(lacking)
    assert call(["export", str(folder), "--anyway", "--out", str(adapter)]) == 0
    said = f"{adapter} is an adapter (adapter_config.json, adapter_model.safetensors), not a model"
    run = folder_run.arguments(tmp_path, model_folder=adapter)
    for model, words, more in (
        (lacking, f"{lacking}: {LACKS}", []),
        (adapter, f"{said}; set model.adapter to its folder", [run, [*run, "--plan"]]),
    ):
        for line in (*more, *commands_that_load(model, base, tmp_path)):
            with case(*line[:2]):
                assert refused(2, *line).startswith(words)
    whole, inside = (base / "model.safetensors").read_bytes(), base / "adapter_config.json"
    merged = ["export", folder, "--merged", "--anyway", "--out", tmp_path / "out"]
    try:
        without_a_layer(base)
        assert LACKS in refused(2, *merged)
        shutil.copy(adapter / inside.name, inside)
        message = refused(2, *merged)
    finally:
        (base / "model.safetensors").write_bytes(whole)
        inside.unlink(missing_ok=True)
    assert message.startswith(f"{base} has an adapter beside the model (adapter_config.json); ")
    assert not [*tmp_path.glob("runs/*"), *tmp_path.glob("out")]


def commands_that_load(model: Path, base: Path, folder: Path) -> Iterator[list[str]]:
    """Commands that load a model other than as a run's base, which is ``base``."""
    pairs, out = folder / "pairs.jsonl", ["--out", str(folder / "out")]
    pairs.write_text('{"prompt": "w20 w21", "chosen": "w30", "rejected": "w31"}\n')
    judge = ["panel.kind=judge", f"judge.model={model}"]
    yield folder_run.arguments(folder, *judge, model_folder=base)
    yield ["scorer", str(pairs), "--model", str(model), "--out", str(folder / "out.safetensors")]
    yield ["baseline", "dpo", "--pairs", str(pairs), "--set", f"model.name={model}", *out]


def test_an_adapter_of_which_szpo_would_leave_out_a_part_is_refused_at_once(
    refused, folder, tmp_path, monkeypatch
):
    from szpo.models import loading

    adapter, base = tmp_path / "adapter", folder.parent.parent / "llama"
    assert call(["export", str(folder), "--anyway", "--out", str(adapter)]) == 0
    file, head = adapter / "adapter_model.safetensors", "base_model.model.lm_head.weight"
    save_file({**load_file(file), head: np.ones((2, 2), np.float32)}, file)
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    for plan in ([], ["--plan"]):
        line = folder_run.arguments(tmp_path, f"model.adapter={adapter}", model_folder=base)
        assert f"tensors {head}; merge it into its base" in refused(2, *line, *plan)


def test_places_that_a_run_cannot_have(yard, refused, tmp_path):
    message = refused(4, *yard_run.arguments(yard.parent.parent, "run.name=yard"))
    assert message.startswith(f"{yard} exists; continue it with: szpo run --resume {yard}, ")
    (tmp_path / "runs").write_text("a file stands where the folder should be")
    message = refused(4, *yard_run.arguments(tmp_path))
    assert message.startswith(f"{tmp_path / 'runs'} cannot be written")


def text(path: Path) -> None:
    path.write_text("not a database, though long enough to be looked at " * 20)


def other_tables(path: Path) -> None:
    path.unlink()
    forge(path, "CREATE TABLE notes (text)")


def forged(sql: str) -> Callable[[Path], object]:
    return lambda path: forge(path, sql)


def leased(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.execute(
            "UPDATE controller SET lease = 'another-host:1:x', expires_us = ?",
            (ledger.clock() + 30_000_000,),
        )


LEDGERS: list[tuple[Callable[[Path], object], list[str], int, str]] = [
    (text, ["show"], 4, "is not a szpo ledger (not an SQLite file)"),
    (other_tables, ["show"], 4, "is not a szpo ledger (application_id 0)"),
    (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
     ["verify"], 5, "damaged"),
    (forged("PRAGMA user_version = 6"),
     ["show"], 2, ": schema 6; this szpo reads 5; install a newer"),
    (forged("UPDATE votes SET choice = iif(choice = 'A', 'B', 'A') WHERE vote = 5"),
     ["verify"], 5, "does not verify: votes row 5: "),
    (forged("DELETE FROM updates WHERE step = 1"),
     ["verify"], 5, "does not verify: "),
    *((forged(f"UPDATE runs SET spec = '{spec}'"), [command],
       5, "not a JSON object")
      for spec in ("[" * 5000 + "]" * 5000, "[[1]]") for command in ("show", "verify")),
    (forged(f"UPDATE events SET body = '{'[' * 5000 + ']' * 5000}'"),
     ["show"], 5, "restore a copy"),
    (forged("UPDATE runs SET spec = replace(spec, '\"rule\":\"', '\"rule\":\"no ')"),
     ["show", "--voters"], 2, "is not among those of this szpo; without it"),
    (leased, ["run", "--resume"], 3, "driven by another-host:1:x"),
]  # fmt: skip

DOORS = (
    "show", "show --voters", "taste", "taste --several", "sample", "report", "verify", "backup",
    "export", "export --merged", "compare {other}", "pairs --out {out}",
    "export --votes {out}.csv", "run --resume", "serve", "invite",
    "simulate", "judge", "visualize", "scorer --out {out}.safetensors",
    "baseline dpo --out {out} --run",
)  # fmt: skip


@pytest.mark.full
def test_a_run_of_an_earlier_version_is_refused_at_every_door(yard, refused, tmp_path, capsys):
    path = copied(yard, tmp_path)
    forge(path, "PRAGMA user_version = 1")
    out, content, other = tmp_path / "out", path.read_bytes(), tmp_path / "other.db"
    other.write_bytes(content)
    for door in DOORS:
        name, *options = door.format(out=out, other=other).split()
        last = options[-1:] == ["--run"] or name == "run"
        words = [name, *options, str(path)] if last else [name, str(path), *options]
        with case(door):
            line = refused(2, *words)
            assert "schema 1; this szpo reads 5; install the szpo that made it" in line
            assert path.read_bytes() == content and not out.exists()
    for opening in (szpo.open, lambda path: szpo.Tuner.resume(path, min)):
        with pytest.raises(UsageError, match="install the szpo that made it"):
            opening(path)
    for words in (["show", "--all", "--folder", str(tmp_path)], ["doctor", str(path)]):
        call(words)
        said = " ".join("".join(capsys.readouterr()).split())
        assert "install the szpo that made it" in said


def test_ledgers_that_cannot_be_used(yard, refused, tmp_path):
    for number, (change, command, code, words) in enumerate(LEDGERS):
        place = tmp_path / str(number)
        place.mkdir()
        path = copied(yard, place)
        change(path)
        with case(number, words):
            assert words in refused(code, *command, path)


def test_a_report_shows_a_broken_ledger(yard, tmp_path):
    path = copied(yard, tmp_path)
    with sqlite3.connect(path) as conn:
        conn.execute("DROP TRIGGER votes_no_update")
    assert call(["report", str(path)]) == 0
    assert "does not verify" in path.with_suffix(".html").read_text(encoding="utf-8")


FULL = """
set -e
mount -t tmpfs -o size=4m,mode=700 tmpfs "$1"
cp "$2"/yard.db* "$1"
cat /dev/zero > "$1/ballast" 2>/dev/null || true
shift 2
exec "$@"
"""


def test_a_full_disk_is_read_and_exported_from(yard, tmp_path):
    """In a name space of its own; the run was closed, so its file has all that there is."""
    full, remaining, out, other = (tmp_path / name for name in ("full", "kept", "out", "other"))
    for folder in (full, remaining, out, other):
        folder.mkdir()
    path, source = remaining / yard.name, copied(yard, other)
    with Ledger.open(source) as ledger:
        ledger.record_event("remark", "test", {"in": "the log"})
    shutil.copyfile(source, path)
    enter = ["unshare", "--map-root-user", "--mount"]
    probe = subprocess.run([*enter, "mount", "-t", "tmpfs", "x", str(full)], capture_output=True)
    if probe.returncode:
        pytest.skip("mounting is not permitted here")
    path = full / "yard.db"
    lines = [
        ["show", path], ["verify", path], ["export", path, "--votes", out / "v.csv"],
        ["report", path, "--out", out / "r.html"], ["backup", path, "--out", out / "b.db"],
    ]  # fmt: skip
    code = (
        "import json, sys; from szpo.cli.app import call\n"
        "sys.exit(sum(call(line) for line in json.loads(sys.argv[1])))"
    )
    reported = json.dumps([[str(word) for word in line] for line in lines])
    done = subprocess.run(
        [*enter, "sh", "-c", FULL, "sh", str(full), str(remaining), sys.executable, "-c", code,
         reported],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {file.name for file in out.iterdir()} == {"v.csv", "r.html", "b.db"}
    with Ledger.open(out / "b.db", readonly=True) as ledger:
        assert len(list(ledger.events("remark"))) == 1


COMMAND = (sys.executable, "-c", "from szpo.__main__ import main; main()")
"""What the installed command does."""


def test_two_interrupts(tmp_path):
    """More come while the first is being handled, to the end: one line, and a run to resume."""
    arguments = yard_run.arguments(tmp_path, "run.name=yard", "panel.kind=people")
    child = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert any("people vote in" in line for line in child.stderr), "it never began"
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    child.stderr.close()
    path = tmp_path / "runs" / "yard.db"
    assert child.returncode == 130, rest
    # The line at hand when the first came may be printed a second time.
    assert rest.count("stopped by") == 1 and "Traceback" not in rest
    assert rest.endswith(
        "stopped by an interrupt; nothing counted is lost. Continue with: szpo run --resume "
        f"{path}\n"
    )
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger).ok
        assert not ledger.votes()


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [(signal.SIGINT, 130, "an interrupt"), (signal.SIGTERM, 143, "SIGTERM")],
    ids=["INT", "TERM"],
)
def test_an_interrupt_while_the_command_is_loaded(tmp_path, sent, code, words):
    """The first module that the command line imports tells that it is being loaded, and waits."""
    (tmp_path / "typer.py").write_text(
        "import os, time\nos.write(1, b'loading\\n')\nwhile True: time.sleep(0.01)\n"
    )
    places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])]
    child = subprocess.Popen(
        [*COMMAND, "runs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "loading\n"
    for _ in range(2):
        child.send_signal(sent)
    _, message = child.communicate()
    assert (child.returncode, message) == (code, f"stopped by {words}\n")


def test_the_installed_command_loads_nothing_before_it_answers_signals():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["szpo"] == "szpo.__main__:main"


FAULTS = (
    (MemoryError(), 6, "error: out of memory; lower optimizer.D"),
    (OSError(28, "No space left on device", "a.db"), 4, "error: a.db: No space left on device"),
    (KeyboardInterrupt(), 130, "stopped by an interrupt"),
    (ZeroDivisionError("seven"), 1,
     "error: unexpected ZeroDivisionError: seven; this is a fault of szpo"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (console.Terminated(15), 143)], ids=str
)
def test_a_signal_amid_the_making_of_a_class_is_no_fault(capsys, monkeypatch, raised, code):
    from szpo.runs import doctor

    class Named:
        def __set_name__(self, *_):
            raise raised

    monkeypatch.setattr(doctor, "examine_machine", lambda folder: type("C", (), {"n": Named()}))
    assert call(["doctor"]) == code
    assert capsys.readouterr().err.startswith("stopped by ")


def test_what_nobody_expected_has_its_words_and_code(capsys, monkeypatch):
    from szpo.runs import doctor

    for error, code, words in FAULTS:

        def broken(folder, error=error):
            raise error

        monkeypatch.setattr(doctor, "examine_machine", broken)
        with case(error):
            assert call(["doctor"]) == code
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(words)
    with pytest.raises(ZeroDivisionError):
        call(["--debug", "doctor"])


@pytest.mark.full
def test_a_short_context_counts_prompt_and_answer(refused, tmp_path):
    """Prompts of 4 tokens and answers of 8 fit into 12 positions, not into 11."""
    for most in (11, 12):
        place = tmp_path / str(most)
        place.mkdir()
        model = folder_run.model(place, positions=most)
        arguments = folder_run.arguments(place, "run.votes=4", model_folder=model)
        if most == 12:
            assert call(arguments) == 0
        else:
            message = refused(2, *arguments)
            assert message.startswith(f"{place / 'prompts.txt'}:1: 4 tokens and 8 for the answer")
            assert "(19 more prompts are too long)" in message


def test_a_question_of_ones_own(folder, refused):
    message = refused(2, "sample", folder, "-p", "w7 " * 3000)
    assert re.match(r'prompt "w7 w7 .*…": 3,002 tokens and 8 for the answer', message)
