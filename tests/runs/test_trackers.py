"""Trackers write with the real libraries, and what they write is read back from the disk."""

import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from szpo import plugins
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.runs import callbacks
from szpo.runs.callbacks import EachStep, RunFacts, as_callback, read_facts, read_scalars
from szpo.voting.applied_step import Outcome, StepReport

FACTS = RunFacts("0123abcd", "mine", {"optimizer.D": 4, "optimizer.rule": "known"})
SECRET = "Ann Smith <ann@example.org>"
STEP = StepReport(
    step=0, state="applied", pairing="antithetic", mu=0.6, k=1, n=8, m=1, votes=8, ties=1, skips=0,
    answers_read=64, total_votes=8, delta=(0.5,), stderr=(0.1,), kl=0.25, length=20.5,
    repetition=0.1, identical=0.0, norm=1.5, moved=0.5, theta_sha256="ab",
    figures={"length_plus": 21.0}, seconds={"generation_s": 2.5},
    extra={"gradient": 3.0, "weights": {SECRET: 1.0}, "note": SECRET},
)  # fmt: skip
DONE = Outcome("finished", f"as {SECRET} wanted", 2, 16)


@pytest.fixture(autouse=True)
def nobody_elses_project(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def follow(kind: str, folder: Path) -> None:
    """Two steps of a run, resumed between them.

    Not with W&B: it names offline runs by the second, and these two would have one name.
    """
    lines: list[str] = []
    steps = [STEP, replace(STEP, step=1, total_votes=16, kl=float("nan"))]
    for life in [steps] if kind == "wandb" else [steps[:1], steps[1:]]:
        (tracker,) = callbacks.open_tracker(kind, folder, lines.append)
        tracker.begin(FACTS)
        for step in life:
            tracker.after_step(step)
        tracker.end(DONE)
    assert lines == []
    for file in (folder / "tracking").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_step_is_sent_as_finite_numbers_alone():
    found = read_scalars(replace(STEP, kl=float("inf")))
    assert "answers/kl" not in found and "optimizer/alpha" not in found
    assert found["votes/total"] == 8.0 and found["rule/gradient"] == 3.0
    assert found["seconds/generation"] == 2.5 and found["answers/length_plus"] == 21.0
    assert {type(value) for value in found.values()} == {float}
    assert SECRET not in json.dumps(found)


def test_tensorboard_reads_what_was_written(tmp_path):
    follow("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for file in (tmp_path / "tracking" / "mine").glob("events*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found[value.tag, event.step] = value.tensor.float_val[0]
    assert found["votes/total", 0] == 8.0 and found["votes/total", 1] == 16.0
    assert found["answers/kl", 0] == 0.25 and ("answers/kl", 1) not in found


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of the library's own use of another
def test_mlflow_reads_what_was_written(tmp_path):
    follow("mlflow", tmp_path)
    with sqlite3.connect(tmp_path / "tracking" / "mlflow.db") as store:
        runs = store.execute("SELECT name, status, user_id FROM runs").fetchall()
        metrics = store.execute("SELECT key, step, value FROM metrics").fetchall()
        params = dict(store.execute("SELECT key, value FROM params").fetchall())
    store.close()
    assert runs == [("mine", "FINISHED", "")]  # resumed, it is one run
    assert {("votes/total", 0, 8.0), ("votes/total", 1, 16.0)} <= set(metrics)
    assert params == {"optimizer.D": "4", "optimizer.rule": "known"}


def logged(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format in blocks of 32 KiB, after 7 bytes."""
    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_runs(tmp_path):
    follow("wandb", tmp_path)
    import wandb

    wandb.teardown()  # its service writes to the end before it exits; finish does not wait for it
    from wandb.proto import wandb_internal_pb2

    found = {}
    files = sorted((tmp_path / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert files and all(FACTS.id in file.name for file in files)
    for file in files:
        for data in logged(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                found.setdefault(name, []).append(json.loads(item.value_json))
            if record.HasField("run"):
                config = {each.key: each.value_json for each in record.run.config.update}
                assert config.get("optimizer.D", "4") == "4"
                assert record.run.host == "local"
    assert sorted(found["votes/total"]) == [8, 16] and found["answers/kl"] == [0.25]


def test_wandb_sends_only_where_its_own_variable_says_so(tmp_path, monkeypatch):
    begun = []
    library = SimpleNamespace(init=lambda **given: begun.append(given), Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", library)
    callbacks.WandbTracker(tmp_path).begin(FACTS)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    callbacks.WandbTracker(tmp_path).begin(FACTS)
    assert [(one["mode"], one["project"], one["resume"]) for one in begun] == [
        ("offline", "szpo", None), ("online", "mine", "allow")
    ]  # fmt: skip


def test_a_tracker_that_fails_ends_no_run():
    class Broken:
        def begin(self, run):
            pass

        def after_step(self, step):
            raise OSError("no network\nand more")

        def end(self, outcome):
            raise AssertionError("it is called no more")

    lines = []
    tracker = callbacks.NeverFatal(Broken(), "mine", lines.append)
    tracker.begin(FACTS)
    tracker.after_step(STEP)
    tracker.after_step(STEP)
    tracker.end(DONE)
    said = "warning: the tracker mine stopped (OSError: no network); the run goes on without it"
    assert lines == [said]


def test_an_own_tracker_is_found_by_its_entry_point(tmp_path, monkeypatch):
    seen = []

    def own(place):
        assert place == tmp_path / "tracking"
        return EachStep(lambda step: seen.append(step.step))

    entry = SimpleNamespace(name="own", load=lambda: own)
    known = {callbacks.GROUP: [entry]}
    monkeypatch.setattr(plugins, "entry_points", lambda group: known.get(group, []))
    callbacks.check_tracker("own")
    (tracker,) = callbacks.open_tracker("own", tmp_path, print)
    tracker.after_step(STEP)
    assert seen == [0]
    entry.load = lambda: lambda place: object()
    with pytest.raises(UsageError, match="it must have begin, after_step and end"):
        callbacks.open_tracker("own", tmp_path, print)
    with pytest.raises(UsageError, match='no tracker "tensorbord"; there are: tensorboard'):
        callbacks.check_tracker("tensorbord")
    assert callbacks.open_tracker(None, tmp_path, print) == ()


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs mlflow: pip install -e '\.\[mlflow\]'"):
        callbacks.check_tracker("mlflow")


def test_settings_with_texts_contacts_or_addresses_are_not_sent():
    config = settings_file.load(
        sets=[
            f"panel.guideline={SECRET}", f"prompts.system={SECRET}", f"panel.consent={SECRET}",
            "panel.kind=people",
            "judge.base_url=https://example.org/secret",
            "prompts.path=/home/ann/prompts.csv", "model.name=/home/ann/model",
            f'generation.stop=["{SECRET}"]',
        ]
    )  # fmt: skip
    ledger = SimpleNamespace(
        spec={"config": config.model_dump(mode="json")}, run="1", path=Path("x/mine.db")
    )
    facts = read_facts(ledger)
    text = json.dumps(dict(facts.settings))
    for private in ("Ann", "ann", "example.org", "/home"):
        assert private not in text
    assert facts.settings["model.name"] == "model" and facts.settings["panel.kind"] == "people"


def test_a_function_is_a_callback_and_nothing_else_is():
    seen = []
    as_callback(seen.append).after_step(STEP)
    assert seen == [STEP]
    with pytest.raises(TypeError, match="list has no begin, after_step and end"):
        as_callback([])
