"""Cells of a comparison as files: each done once, by whoever comes, and again after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from szpo.errors import RunError
from szpo_simulators.compare import cell_store
from szpo_simulators.compare.cell_store import Cell, CellStore

CELLS = [
    Cell({"method": method, "ask": "batch", "seed": seed}, 10.0)
    for seed in range(3)
    for method in ("a", "b")
]

CHILD = """
import json, os, pathlib, sys
spec, record = json.load(sys.stdin), pathlib.Path(sys.argv[1])
with open(os.environ["STARTED"], "a") as file:
    file.write(record.stem + "\\n")
print("0.5", flush=True)
if spec["method"] == os.environ.get("BREAKS"):
    sys.exit("no such wonder")
if spec["method"] == os.environ.get("WAITS"):
    print("0.75", flush=True)
    open(os.environ["FIFO"]).read()
record.write_text(json.dumps({"asked": spec, "found": {"elapsed": 4.0, "gain": spec["seed"]}}))
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    return CellStore(tmp_path / "kept", (sys.executable, str(script)))


def read_started(store):
    return (store.folder.parent / "started").read_text().split()


def test_two_at_once_share_the_cells_and_do_each_once(store):
    """Both return only when all is done, also what the other was at."""
    failures = []

    def one():
        failures.extend(cell_store.run_cells(store, CELLS, on_progress=lambda step: None))

    both = [threading.Thread(target=one) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert failures == []
    assert sorted(read_started(store)) == sorted(cell.name for cell in CELLS)
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]


@pytest.mark.full
def test_a_cell_that_fails_is_named_in_a_line_and_the_others_go_on(store, monkeypatch):
    monkeypatch.setenv("BREAKS", "a")
    reports = []
    failures = cell_store.run_cells(store, CELLS, on_progress=reports.append)
    assert len(failures) == 3 and all("no such wonder" in line for line in failures)
    assert [store.read(cell) is None for cell in CELLS] == [True, False] * 3
    assert [step.share for step in reports if step.cell == CELLS[1]] == [0.5, 1.0]
    monkeypatch.delenv("BREAKS")
    assert cell_store.run_cells(store, CELLS, on_progress=reports.append) == []
    assert len(read_started(store)) == 3 + 3 + 3  # those that were done are not done again


def test_after_a_kill_the_cell_is_free_and_the_rest_stays(store, monkeypatch, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import sys, pathlib; from szpo_simulators.compare import cell_store; "
        f"folder = pathlib.Path({str(store.folder)!r}); "
        f"store = cell_store.CellStore(folder, {tuple(store.command)!r}); "
        f"todo = [cell_store.Cell(s) for s in {[dict(c.spec) for c in CELLS]!r}]; "
        "cell_store.run_cells(store, todo, "
        "on_progress=lambda one: print(one.share, flush=True))"
    )
    environment = {**os.environ, "WAITS": "b", "FIFO": str(fifo)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    ) as running:  # fmt: skip
        while running.stdout.readline().strip() != "0.75":
            pass
        with store.claim(CELLS[1]) as lock:
            assert lock is None  # somebody is at it
        os.killpg(running.pid, signal.SIGKILL)
    assert store.read(CELLS[0]) is not None and store.read(CELLS[1]) is None
    assert cell_store.run_cells(store, CELLS, on_progress=lambda step: None) == []
    assert [store.read(cell)["gain"] for cell in CELLS] == [0, 0, 1, 1, 2, 2]
    assert (
        read_started(store).count(CELLS[1].name) == 2
        and read_started(store).count(CELLS[0].name) == 1
    )


def test_the_rest_is_guessed_from_what_finished_took(store):
    assert cell_store.guess_seconds(store, CELLS) == {cell.name: 10.0 for cell in CELLS}
    cell_store.run_cells(store, CELLS[:1], on_progress=lambda step: None)
    # It took 4 where 10 were guessed: its kind takes 4, the others 4/10 of their guess.
    assert cell_store.guess_seconds(store, CELLS) == {cell.name: 4.0 for cell in CELLS[1:]}


def test_a_spoiled_record_is_named(store):
    path = store.record_path(CELLS[0])
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(RunError, match=r"a-batch-0-\w+\.json cannot be read .* delete it"):
        store.read(CELLS[0])


def test_other_settings_are_another_cell():
    spec = CELLS[0].spec
    assert CELLS[0].name == Cell(dict(reversed(spec.items()))).name
    assert CELLS[0].name != Cell({**spec, "votes": 1}).name
    assert json.loads(json.dumps(spec)) == spec
