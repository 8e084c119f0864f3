"""Bad input through the command line: one clear line, the right exit code, nothing left behind.

docs/bad-inputs.md lists them for users.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.replay import verification
from szpo.runs import assemble
from tests.support import folder_run, quadratic, yard_run

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return yard_run.make(tmp_path_factory.mktemp("yard"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_run.make(tmp_path_factory.mktemp("folder"))


@pytest.fixture
def refused(capsys: Capture) -> Refused:
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
    """A copy of a run's file, all of it in the main file."""
    target = folder / run.name
    with sqlite3.connect(run) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    return target


# --- settings ----------------------------------------------------------------------------------


def test_row_1_missing_settings_file(refused: Refused, tmp_path: Path) -> None:
    message = refused(2, "run", tmp_path / "run.toml")
    assert message == f"run.toml not found (looked in {tmp_path}); create one with: szpo init"


def test_row_2_settings_file_not_utf8(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"[run]\n\nseed = 1 # \xff\n")
    assert refused(2, "run", tmp_path / "run.toml") == "run.toml: byte 0xff at line 3 is not UTF-8"


def test_row_2_a_byte_order_mark_is_no_fault(
    refused: Refused, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbf[run]\nseed = -1\n")
    assert refused(2, "run", file).startswith(f"{file}: run.seed must be a whole number")
    file.write_bytes(b"\xef\xbb\xbf[run]\n\nseed = 1 # \xff\n")
    assert refused(2, "run", file) == "run.toml: byte 0xff at line 3 is not UTF-8"


def test_row_3_settings_file_not_toml(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[run]\nseed = = 1\n")
    message = refused(2, "run", tmp_path / "run.toml")
    assert re.fullmatch(r"run\.toml is not TOML: .*line 2, column 8.*", message)


def test_row_4_unknown_key(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nkl_radus = 1.0\n")
    message = refused(2, "run", tmp_path / "run.toml")
    assert message.endswith('unknown key "kl_radus" in [optimizer]; did you mean "kl_radius"?')


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", '"0.1"'])
def test_row_5_radius_out_of_range(refused: Refused, value: str) -> None:
    shown = value if value.startswith('"') else {"0": "0", "-1": "-1"}.get(value, value)
    message = refused(2, "run", "--set", f"optimizer.mu={value}")
    assert (
        message == f"settings: optimizer.mu must be a finite number > 0 and <= 1e+06 (got {shown})"
    )


def test_row_6_step_beyond_fp32(refused: Refused) -> None:
    message = refused(2, "run", "--set", "optimizer.alpha=1e38")
    assert message == "settings: optimizer.alpha × Δ̂ × v would exceed fp32 range (alpha = 1e+38)"


@pytest.mark.parametrize("value", ["0", "2.5", "1000000000"])
def test_row_7_counts_out_of_range(refused: Refused, value: str) -> None:
    message = refused(2, "run", "--set", f"comparisons={value}")
    wanted = "settings: optimizer.comparisons must be a whole number >= 1 and <= 4,096"
    assert message == f"{wanted} (got {value})"


def test_row_8_more_votes_than_panelists(refused: Refused) -> None:
    message = refused(2, "run", "--set", "optimizer.votes=8")
    assert message == "settings: optimizer.votes 8 needs 8 panelists; panel.size is 5"


@pytest.mark.parametrize("value", ["-1", "9223372036854775808", '"text"', "text"])
def test_row_9_seed_out_of_range(refused: Refused, value: str) -> None:
    message = refused(2, "run", "--set", f"seed={value}")
    assert message.startswith(
        "settings: run.seed must be a whole number >= 0 and < 9,223,372,036,"
    )


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "name", "content", "words"),
    [
        (10, "empty.jsonl", b"", "no prompts in"),
        (10, "blank.txt", b"\n  \n", "no prompts in"),
        (11, "bad.jsonl", b'{"text": "a"}\n{"text": \n', ":2: "),
        (12, "long.jsonl", b'"' + b"a" * 70_000 + b'"\n', "line 1 is 70,003 bytes; limit 65,536"),
        (14, "zip.jsonl", b"PK\x03\x04rest", "compressed prompt files are not read"),
        (15, "nul.txt", b"one\x00two\n", "holds a NUL character"),
        (17, "prompts.yaml", b"!!python/object/apply:os.system [id]\n", "prompts are read from"),
    ],
)
def test_rows_10_to_17_prompt_files(
    refused: Refused, tmp_path: Path, row: int, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    folder = tmp_path / "runs"
    assert words in refused(2, "run", "--folder", folder, "--set", f"prompts.path={file}")
    assert not list(folder.glob("*"))


def test_row_13_prompts_from_a_device_or_a_pipe(refused: Refused, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    arguments = ["run", "--folder", tmp_path / "runs", "--set"]
    assert "is not a regular file" in refused(2, *arguments, f"prompts.path={pipe}")
    link = tmp_path / "zero.jsonl"
    link.symlink_to("/dev/zero")
    assert "is not a regular file" in refused(2, *arguments, f"prompts.path={link}")


@pytest.mark.full
def test_rows_15_and_16_are_reported_and_the_run_goes_on(tmp_path: Path, capsys: Capture) -> None:
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


# --- models ------------------------------------------------------------------------------------


def test_row_18_model_missing(refused: Refused, tmp_path: Path) -> None:
    message = refused(2, *folder_run.arguments(tmp_path, model_folder=tmp_path / "absent"))
    assert "not found" in message
    assert "give smollm2, tiny, a local folder, or a hub id" in message


def test_row_18_no_layer_of_that_name(refused: Refused, tmp_path: Path) -> None:
    model = folder_run.model(tmp_path)
    message = refused(
        2, *folder_run.arguments(tmp_path, 'adapter.targets=["q_prj"]', model_folder=model)
    )
    assert message.startswith("no adapter layer matches 'q_prj'; this model has ")
    assert "q_proj" in message


def test_row_19_pickle_weights(refused: Refused, tmp_path: Path) -> None:
    model = folder_run.model(tmp_path)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = refused(2, *folder_run.arguments(tmp_path, model_folder=model))
    assert "pickle" in message
    assert "pytorch_model.bin" in message


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_row_18_no_tokenizer(refused: Refused, tmp_path: Path, plan: list[str]) -> None:
    model = folder_run.model(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink(missing_ok=True)
    message = refused(2, *folder_run.arguments(tmp_path, model_folder=model), *plan)
    assert message == (
        f"{model}: no tokenizer there (looked for tokenizer.json, tokenizer.model, vocab.json, "
        "vocab.txt); copy those of the model's files that are its tokenizer's"
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_row_57_a_device_that_is_not_there(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    import torch

    kind = device.partition(":")[0]
    monkeypatch.setattr(getattr(torch, kind), "device_count", lambda: 0)
    line = ["run", "--preset", "tiny", "--folder", tmp_path, "--set", f"model.device={device}"]
    for words in ([], ["--plan"]):
        message = refused(2, *line, *words)
        assert message.startswith(
            f"model.device {device} is not on this machine (torch finds: cpu"
        )
        assert message.endswith("; set model.device to one that is")


@pytest.mark.parametrize("how", ["cut", "header"])
def test_row_20_corrupt_safetensors(refused: Refused, tmp_path: Path, how: str) -> None:
    model = folder_run.model(tmp_path)
    file = model / "model.safetensors"
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[:-100])
    else:
        file.write_bytes(struct.pack("<Q", 2**63) + content[8:])
    message = refused(2, *folder_run.arguments(tmp_path, model_folder=model))
    assert message.startswith("corrupt safetensors: ")
    assert "header says" in message


def test_row_21_weights_not_finite(refused: Refused, tmp_path: Path) -> None:
    model = folder_run.model(tmp_path)
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].flat[:2] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    message = refused(2, *folder_run.arguments(tmp_path, model_folder=model))
    assert f"tensor {name} has 2 values that are not finite" in message


@pytest.mark.full
def test_row_22_adapter_layout_differs(folder: Path, tmp_path: Path, refused: Refused) -> None:
    """A model of the recorded hash cannot have other shapes; the check stands behind it."""
    from szpo.models import weight_files
    from szpo.policies import responder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_files, "demand_same", lambda *_, **__: None)
        patch.setattr(responder, "_shapes", lambda model, site: {site.a: (16, 64)})
        message = refused(5, "sample", folder)
    assert re.fullmatch(
        r"tensor .*lora_A is \(1, 64\) in the run, \(16, 64\) in this model", message
    )


def test_row_23_base_model_differs(folder: Path, tmp_path: Path, refused: Refused) -> None:
    model = folder.parent.parent / "llama"
    remaining = tmp_path / "kept"
    shutil.copytree(model, remaining)
    try:
        file = model / "model.safetensors"
        tensors = load_file(file)
        tensors[sorted(tensors)[0]] *= 2
        save_file(tensors, file, metadata={"format": "pt"})
        message = refused(5, "sample", folder)
    finally:
        shutil.rmtree(model)
        shutil.copytree(remaining, model)
    assert re.search(r"was made with [0-9a-f]{16}…?, found [0-9a-f]{16}", message)


# --- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a", "con", "", "x" * 300, "run-\N{SNAKE}", "/etc/x", "a.b"])
def test_rows_24_and_25_run_names_stay_in_the_folder(refused: Refused, name: str) -> None:
    message = refused(2, "run", "--set", f"run.name={name}")
    assert message.startswith("settings: run.name")
    assert (
        "must be 1 to 64 small letters, digits and hyphens" in message
        or "is reserved by some file systems" in message
    )


@pytest.mark.full
def test_row_26_run_exists(yard: Path, refused: Refused) -> None:
    message = refused(4, *yard_run.arguments(yard.parent.parent, "run.name=yard"))
    assert message.startswith(f"{yard} exists; continue it with: szpo run --resume yard")


def test_row_26_folder_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands where the folder should be")
    message = refused(4, *yard_run.arguments(tmp_path))
    assert message.startswith(f"{tmp_path / 'runs'} cannot be written")


# --- ledgers -----------------------------------------------------------------------------------


def test_row_27_not_a_ledger(refused: Refused, tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("not a database, though long enough to be looked at " * 20)
    with sqlite3.connect(other) as conn:
        conn.execute("CREATE TABLE notes (text)")
    assert "is not a szpo ledger (not an SQLite file)" in refused(4, "show", text)
    assert "is not a szpo ledger (application_id 0)" in refused(4, "show", other)


def test_row_28_ledger_truncated(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in refused(5, "verify", path)


def test_row_29_schema_is_newer(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA user_version = 9")
    message = refused(2, "show", path)
    assert message == f"{path}: schema 9; this szpo reads up to 1: upgrade"


def test_row_30_ledger_locked(
    yard: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from szpo.ledger import connection

    path = copied(yard, tmp_path)
    patient = [p for p in connection._PRAGMAS if "busy_timeout" not in p]
    monkeypatch.setattr(connection, "_PRAGMAS", ("PRAGMA busy_timeout=1", *patient))
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        message = refused(4, "run", "--resume", path)
    finally:
        holder.close()
    assert "locked by another program" in message


def test_row_31_ledger_on_a_network(
    yard: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from szpo.ledger import connection

    monkeypatch.setattr(connection, "filesystem", lambda folder: "nfs4")
    assert "lies on nfs4, where file locks do not hold" in refused(4, "show", yard)


def test_row_32_wal_of_another_file(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    other = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    other.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (x);")
    for i in range(300):
        other.execute("INSERT INTO t VALUES (?)", ("x" * 200 + str(i),))
    shutil.copy(tmp_path / "other.db-wal", f"{path}-wal")
    other.close()
    assert call(["verify", str(path)]) in {4, 5}  # whichever of the two its pages break first


def test_row_33_ledger_row_edited(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    with sqlite3.connect(path) as conn:
        (trigger,) = conn.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'votes_no_update'"
        ).fetchone()
        conn.execute("DROP TRIGGER votes_no_update")
        conn.execute("UPDATE votes SET choice = iif(choice = 'A', 'B', 'A') WHERE vote = 5")
        conn.execute(trigger)
    message = refused(5, "verify", path)
    assert message.startswith("does not verify: votes row 5: ")


def test_row_33_report_shows_a_broken_ledger(yard: Path, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    with sqlite3.connect(path) as conn:
        conn.execute("DROP TRIGGER votes_no_update")
    assert call(["report", str(path)]) == 0
    assert "does not verify" in path.with_suffix(".html").read_text(encoding="utf-8")


def test_row_34_ledger_with_a_gap(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    with sqlite3.connect(path) as conn:
        (trigger,) = conn.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'updates_no_delete'"
        ).fetchone()
        conn.execute("DROP TRIGGER updates_no_delete")
        conn.execute("DELETE FROM updates WHERE step = 1")
        conn.execute(trigger)
    assert refused(5, "verify", path).startswith("does not verify: ")


FULL = """
set -e
mount -t tmpfs -o size=4m,mode=700 tmpfs "$1"
cp "$2"/yard.db* "$1"
cat /dev/zero > "$1/ballast" 2>/dev/null || true
shift 2
exec "$@"
"""


@pytest.mark.parametrize("log", [False, True], ids=["folded", "log"])
def test_row_59_a_full_disk_is_read_and_exported_from(
    yard: Path, tmp_path: Path, log: bool
) -> None:
    """In a name space of its own; "log": the last vote is only in the file's log."""
    full, remaining, out = (tmp_path / name for name in ("full", "kept", "out"))
    for folder in (full, remaining, out):
        folder.mkdir()
    path = copied(yard, remaining)
    if log:
        other = tmp_path / "other"
        other.mkdir()
        source = copied(yard, other)
        with Ledger.open(source) as ledger:
            ledger.record_event("remark", "test", {"in": "the log"})
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{source}{suffix}", f"{path}{suffix}")
        assert Path(f"{path}-wal").stat().st_size
    enter = ["unshare", "--map-root-user", "--mount"]
    probe = subprocess.run([*enter, "mount", "-t", "tmpfs", "x", str(full)], capture_output=True)
    if probe.returncode:
        pytest.skip("mounting is not permitted here")
    path = full / "yard.db"
    lines = [
        ["show", path], ["verify", path], ["export", path, "--votes", out / "v.csv"],
        ["export", path, "--zip", out / "r.zip"], ["report", path, "--out", out / "r.html"],
        ["backup", path, "--out", out / "b.db"],
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
    assert {file.name for file in out.iterdir()} == {"v.csv", "r.zip", "r.html", "b.db"}
    with Ledger.open(out / "b.db", readonly=True) as ledger:
        assert len(list(ledger.events("remark"))) == log


# --- who drives, and what nobody expected ------------------------------------------------------


def test_a_log_left_of_a_run_that_is_gone_exits_4(tmp_path: Path, refused: Refused) -> None:
    left = tmp_path / "runs" / "yard.db-wal"
    left.parent.mkdir()
    left.write_bytes(b"pages of votes")
    line = refused(4, *yard_run.arguments(tmp_path, "run.name=yard"))
    assert "yard.db-wal belongs to a run whose file is gone" in line
    assert left.read_bytes() == b"pages of votes"


def test_lease_held_elsewhere_exits_3(yard: Path, refused: Refused, tmp_path: Path) -> None:
    path = copied(yard, tmp_path)
    with Ledger.open(path) as ledger:
        ledger.execute(
            "UPDATE controller SET lease = 'another-host:1:x', expires_us = ?",
            (ledger.clock() + 30_000_000,),
        )
    assert "run by another-host:1:x" in refused(3, "run", "--resume", path)


@pytest.mark.full
def test_failed_own_check_exits_1(tmp_path: Path, refused: Refused) -> None:
    """A guard that cannot be met pauses the run with one line."""
    code = call(yard_run.arguments(tmp_path, "run.name=yard", "guards.max_length=0.5"))
    assert code == 1
    with Ledger.open(tmp_path / "runs" / "yard.db", readonly=True) as ledger:
        assert len(theta_digests(ledger)) == 2  # it paused after its first step


COMMAND = (sys.executable, "-c", "from szpo.__main__ import main; main()")
"""What the installed command does."""


def test_row_52_two_interrupts(tmp_path: Path) -> None:
    """More come while the first is being handled, to the end: one line, and a run to resume."""
    arguments = yard_run.arguments(tmp_path, "run.name=yard", "panel.inside=false")
    child = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert any("waiting for votes" in line for line in child.stderr), "it never began"
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
def test_row_52_an_interrupt_while_the_command_is_loaded(
    tmp_path: Path, sent: signal.Signals, code: int, words: str
) -> None:
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


def test_row_52_the_installed_command_loads_nothing_before_it_answers_signals() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["szpo"] == "szpo.__main__:main"


@pytest.mark.parametrize("year", [1970, 2099])
def test_row_53_a_strange_year(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    from szpo.runs import machine_check

    strange = type("Strange", (), {"gmtime": lambda: type("Year", (), {"tm_year": year})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_check, "time", strange)
        (check,) = machine_check._clock(tmp_path)
    assert (check.status, check.text) == ("warn", f"year {year}; times in the ledger will say so")
    digests = []
    for start in (1_700_000_000_000_000, 0 if year == 1970 else 4_070_908_800_000_000):
        settings = quadratic.settings_of(N=2, D=1)
        clock = quadratic.Clock(start)
        with quadratic.new_ledger(tmp_path / f"{start}.db", settings, clock) as ledger:
            quadratic.go(settings, ledger, quadratic.QuadraticPolicy(settings), until_step=2)
            assert verification.verify(ledger).ok
            digests.append(quadratic.history(ledger))
    assert digests[0] == digests[1]


def test_out_of_memory_exits_6(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from szpo.runs import machine_check

    def hungry(folder: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(machine_check, "examine", hungry)
    assert refused(6, "doctor").startswith("out of memory; use fewer rows")


def test_a_fault_of_szpo_says_so(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from szpo.runs import machine_check

    def broken(folder: Path) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr(machine_check, "examine", broken)
    assert "unexpected ZeroDivisionError: seven; this is a fault of szpo" in refused(1, "doctor")
    with pytest.raises(ZeroDivisionError):
        call(["--debug", "doctor"])


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("panel.kind=nobody", 'no evaluator "nobody"'),
        ("panel.reward=nothing", "no reward of that name"),
        ("prompts.path=absent.txt", "absent.txt"),
        ("model.name=./absent", "not found"),
        ("model.adapter=./absent", "adapter folder absent not found"),
        ("optimizer.momentum=0.5", "optimizer.momentum is gone"),
    ],
)
def test_row_58_a_refusal_is_all_that_is_printed(
    tmp_path: Path, capsys: Capture, plan: list[str], setting: str, words: str
) -> None:
    """`--plan` refuses what a run refuses, and neither prints its costs before."""
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path / "runs"), *plan]
    assert call([*line, "--set", setting]) == 2
    message = capsys.readouterr()
    assert message.out == ""
    (reported,) = message.err.splitlines()
    assert words in reported
    assert not (tmp_path / "runs").exists()


# --- what a model reads ------------------------------------------------------------------------


def long_prompts(folder: Path) -> Path:
    """Three prompts, the second of 5,000 words."""
    path = folder / "long.txt"
    path.write_text(f"How was the sea?\n{'sea ' * 5000}\nTell me more.\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_row_55_a_prompt_longer_than_the_model_reads(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, plan: list[str]
) -> None:
    from szpo.policies import language_model

    monkeypatch.setattr(language_model, "prepare", lambda *a: pytest.fail("the set-up began"))
    path = long_prompts(tmp_path)
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path / "runs"), *plan]
    assert call([*line, "--set", f"prompts.path={path}"]) == 2
    message = capsys.readouterr()
    assert message.out == ""
    (reported,) = message.err.splitlines()
    assert re.match(
        rf"error: {re.escape(str(path))}:2: [\d,]+ tokens and 24 for the answer "
        r"\(generation\.max_new_tokens\) are more than the 512 that model tiny reads; ",
        reported,
    )
    assert reported.endswith('prompts.too_long = "cut"')
    assert not (tmp_path / "runs").exists()


def test_row_55_an_answer_longer_than_the_model_reads(refused: Refused, tmp_path: Path) -> None:
    message = refused(
        2, "run", "--preset", "tiny", "--folder", tmp_path, "--set", "max_new_tokens=512"
    )
    assert message == (
        "generation.max_new_tokens 512 leaves no room for a prompt: model tiny reads 512 tokens; "
        "lower it"
    )


@pytest.mark.full
def test_row_55_a_short_context_counts_prompt_and_answer(refused: Refused, tmp_path: Path) -> None:
    """Prompts of 4 tokens and answers of 8 fit into 12 positions, not into 11."""
    for most in (11, 12):
        place = tmp_path / str(most)
        place.mkdir()
        model = folder_run.model(place, positions=most)
        arguments = folder_run.arguments(place, "run.steps=1", model_folder=model)
        if most == 12:
            assert call(arguments) == 0
        else:
            message = refused(2, *arguments)
            assert message.startswith(f"{place / 'prompts.txt'}:1: 4 tokens and 8 for the answer")
            assert '"cut" (19 more prompts are too long)' in message


@pytest.mark.full
def test_row_55_it_is_cut_where_that_is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    """The end of the question stays, and a resumed run cuts alike."""
    model = folder_run.model(tmp_path, positions=13)
    path = tmp_path / "own.jsonl"
    long = " ".join(f"w{i}" for i in range(30, 60))
    lines = [{"text": text, "split": "train"} for text in ("w20 w21", long)]
    lines.append({"text": "w22 w23", "split": "heldout"})
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    sets = ["prompts.too_long=cut", "run.steps=1", "panel.beta=1.0"]
    arguments = folder_run.arguments(tmp_path, *sets, model_folder=model)
    assert call([*arguments, "--set", f"prompts.path={path}"]) == 0
    assert (
        f"warning: cut at their beginning to fit model {model}: {path}:2\n"
        in capsys.readouterr().err
    )
    with Ledger.open(tmp_path / "runs" / "folder.db", readonly=True) as ledger:
        asked = {row.prompt.text for c in ledger.comparisons(0) for row in c.rows}
        assert asked == {"w20 w21", "w57 w58 w59"}
        assemble.reopen(ledger, say=lambda _: None)
    assert call(["sample", str(tmp_path / "runs" / "folder.db"), "-p", "w7 " * 50]) == 0


def test_row_55_a_question_of_ones_own(folder: Path, refused: Refused) -> None:
    message = refused(2, "sample", folder, "-p", "w7 " * 3000)
    assert re.match(r'prompt "w7 w7 .*…": 3,002 tokens and 8 for the answer', message)
