"""A run keeps its device; going on elsewhere is refused in a line, or chosen and recorded."""

import pytest
import torch

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.models import devices
from szpo.models.local_engines import FlatEngine
from szpo.replay import verification
from szpo.runs import assemble, run_engine
from tests.support import folder_run


@pytest.fixture
def path(tmp_path):
    return folder_run.finished(tmp_path)


def pretend_it_ran_on(monkeypatch: pytest.MonkeyPatch, device: str, model: str | None) -> None:
    monkeypatch.setattr(run_engine, "read_device", lambda ledger: (device, model))


@pytest.mark.full
def test_auto_is_resolved_when_the_run_is_created(path):
    with Ledger.open(path, readonly=True) as ledger:
        stored = ledger.spec["config"]["model"]
        assert stored["device"] in ("cpu", "cuda", "mps") and stored["dtype"] == "fp32"
        assert ledger.spec["base"]["hardware"] == devices.hardware(stored["device"])
        assert run_engine.read_device(ledger) == (stored["device"], devices.hardware("cpu"))


@pytest.mark.full
def test_a_run_of_another_device_is_not_driven_here(path, monkeypatch, capsys):
    pretend_it_ran_on(monkeypatch, "cuda:99", "Some GPU")
    capsys.readouterr()
    assert call(["run", "--resume", str(path)]) == 2
    message = capsys.readouterr().err
    assert "folder.db runs on cuda:99, which is not on this machine (torch finds: cpu" in message
    assert "resume it there, or name one of these with --device" in message
    assert len(message.strip().splitlines()) == 1
    with Ledger.open(path, readonly=True) as ledger:  # to look at it any device will do
        reported = []
        parts = assemble.reopen(ledger, panel=False, say=reported.append)
        assert parts.base is not None and "which is not here; its model is" in reported[0]


@pytest.mark.full
def test_who_names_a_device_goes_on_there_and_the_ledger_says_so(path, monkeypatch):
    with monkeypatch.context() as patch:
        pretend_it_ran_on(patch, "cuda:99", "Some GPU")
        assert call(["run", "--resume", str(path), "--device", "cpu"]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        moves = [event["body"] for event in ledger.events(run_engine.DEVICE_CHANGED)]
        assert moves == [{"device": "cpu", "hardware": None}]
        assert run_engine.read_device(ledger) == ("cpu", None)
        assert verification.verify(ledger).ok
    assert call(["run", "--resume", str(path)]) == 0  # from now on it is the run's own


def test_a_device_is_named_only_when_a_run_is_resumed(capsys):
    assert call(["run", "--preset", "tiny", "--device", "cpu"]) == 2
    assert "--device goes with --resume" in capsys.readouterr().err


@pytest.mark.full
def test_a_halved_batch_is_recorded_with_the_step(tmp_path, monkeypatch):
    inner = FlatEngine._decode

    def decode(self, owner, *rest):
        if len(owner) > 8:
            raise torch.OutOfMemoryError("a stand-in")
        return inner(self, owner, *rest)

    monkeypatch.setattr(FlatEngine, "_decode", decode)
    path = folder_run.make(tmp_path)
    with Ledger.open(path, readonly=True) as ledger:
        notes = [event["body"] for event in ledger.events("generated")]
        rows = [note.get("batch_rows") for note in notes]
        assert rows == [8, 8]
        assert verification.verify(ledger).ok
