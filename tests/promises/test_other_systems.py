"""What differs on Windows, as far as Linux can play it."""

import os
from pathlib import Path

import psutil
import pytest

from szpo import files, memory
from szpo.errors import StorageError
from szpo.voting import lease


def test_folders_are_published_where_a_rename_takes_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.delattr(os, "link")
    rename = os.rename

    def onto_nothing(source: Path, target: Path) -> None:
        if os.path.exists(target):
            raise FileExistsError(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", onto_nothing)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        with files.write_whole(tmp_path / name) as draft:
            draft.mkdir()
            (draft / "a.txt").write_text("whole")
        assert (tmp_path / name / "a.txt").read_text() == "whole"
    again = files.write_whole(tmp_path / "new")
    with pytest.raises(StorageError, match="new exists"), again as draft:
        pytest.fail("it must not begin")
    with files.write_whole(tmp_path / "a.txt") as draft:
        draft.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_peak_memory_is_asked_of_psutil_where_there_is_no_resource(monkeypatch):
    peak = type("Info", (), {"peak_wset": 7 * 2**20})
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda process: peak)
    assert memory.peak_bytes() == 7 * 2**20


def test_a_dead_holder_is_recognised_without_signal_0(monkeypatch):
    """There signal 0 is Ctrl-C: the holder would be ended by the question."""
    own = lease.holder_name()
    monkeypatch.setattr(os, "kill", lambda *words: pytest.fail("a signal was sent"))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == os.getpid())
    monkeypatch.setattr(lease, "WINDOWS", True)
    assert not lease.is_gone(own)
    assert lease.is_gone(own.replace(f":{os.getpid()}:", f":{os.getpid() + 1}:"))
