"""Runs cells in processes and stores their records: locks, finished cells, expected time left.

Each cell is a fresh process that holds a lock file while it works. The system releases the lock
once both the command and the cell's process have ended, so a killed process leaves no lock. If
the same command is started twice in one folder, both share the cells.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from szpo.errors import RunError
from szpo_simulators.study import claim, hash_spec, read_record

CHILD: Final = (sys.executable, "-m", "szpo_simulators.compare.cell_process")
POLL: Final = 0.5
"""Seconds between checks of cells that other processes work on."""


@dataclass(frozen=True)
class Cell:
    """One method under one way of asking with one seed: plain JSON values."""

    spec: Mapping[str, Any]
    guess: float = 0.0
    """Expected seconds."""
    label: str | None = None
    """Name of the cell without seed and hash; None: method and way of asking."""

    @property
    def name(self) -> str:
        """Readable name: label, seed and a hash of the whole spec."""
        spec = self.spec
        label = self.label or f"{spec['method']}-{spec['ask']}"
        return f"{label}-{spec['seed']}-{hash_spec(spec)[:10]}"

    @property
    def kind(self) -> tuple[str, str]:
        """(method or label, ask): cells of one kind take about equally long."""
        return self.label or self.spec["method"], self.spec["ask"]


@dataclass(frozen=True)
class CellStore:
    """The folder of a comparison: records, locks and logs of its cells."""

    folder: Path
    command: Sequence[str] = CHILD

    def record_path(self, cell: Cell) -> Path:
        """Path of the cell's record."""
        return self.folder / "cells" / f"{cell.name}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a cell; None if the cell is not finished.

        Raises:
            RunError: the file exists but cannot be read.
        """
        try:
            body = read_record(self.record_path(cell))
        except FileNotFoundError:
            return None
        return {"asked": body["asked"], **body["found"]}

    def claim(self, cell: Cell) -> AbstractContextManager[Any]:
        """Hold the lock of a cell; yields None if another process has it."""
        return claim(self.folder / "locks" / f"{cell.name}.lock")

    def run(self, cell: Cell, lock: Any, report: Callable[[float], None]) -> str | None:
        """Run a claimed cell in a fresh process; returns its error in one line, or None.

        The process inherits the lock, so the cell stays claimed while the process works.
        """
        record, log = self.record_path(cell), self.folder / "logs" / f"{cell.name}.log"
        for path in (record, log):
            path.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [*self.command, str(record)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, text=True, pass_fds=[lock.fileno()],
            ) as child,
        ):  # fmt: skip
            try:
                if child.stdin is not None:
                    with contextlib.suppress(BrokenPipeError), child.stdin:
                        child.stdin.write(json.dumps(dict(cell.spec)))
                for line in child.stdout or ():
                    with contextlib.suppress(ValueError):
                        report(float(line))
                code = child.wait()
            except BaseException:
                child.kill()
                raise
        if code == 0 and record.exists():
            log.unlink(missing_ok=True)
            return None
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else f'ended with code {code}'} (log: {log})"


def run_cells(
    console: Console, store: CellStore, wanted: Sequence[Cell], jobs: int = 1
) -> list[str]:
    """Run all unfinished cells in order; then wait for cells that other processes have claimed.

    Each of ``jobs`` threads runs one process at a time and prints its progress to the console.
    A cell that fails is reported and skipped. If this process is killed, the cells' processes
    end by themselves soon afterwards.

    Returns:
        One line for each cell that failed.
    """
    failures: set[str] = set()
    quarters: dict[str, int] = {}

    def count_left() -> tuple[int, str]:
        left = guess_seconds(store, wanted)
        return len(wanted) - len(left), format_duration(sum(left.values()) / jobs)

    def report(cell: Cell, share: float, state: str = "") -> None:
        quarter = 5 if state else int(4 * share)
        if quarter > quarters.get(cell.name, -1):
            quarters[cell.name] = quarter
            finished, rest = count_left()
            line = f"{finished}/{len(wanted)} {cell.name} {state or f'{share:.0%}'}, about {rest}"
            console.print(f"{line} left", markup=False)

    def work() -> None:
        try:
            run_unclaimed(list(wanted))
        except RunError as error:
            failures.add(str(error))

    def run_unclaimed(left: list[Cell]) -> None:
        while left:
            before = len(left)
            for cell in list(left):
                if store.record_path(cell).exists():
                    left.remove(cell)
                    continue
                with store.claim(cell) as lock:
                    if lock is None or store.record_path(cell).exists():
                        continue
                    problem = store.run(cell, lock, partial(report, cell))
                    left.remove(cell)
                    if problem is not None:
                        failures.add(f"{cell.name}: {problem}")
                    report(cell, 1.0, "done" if problem is None else "failed")
            if len(left) == before:
                time.sleep(POLL)

    finished, rest = count_left()
    where = "one process, which others may share" if jobs == 1 else f"{jobs} processes"
    console.print(f"{len(wanted)} cells, {finished} finished; about {rest} in {where}")
    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(failures)


def guess_seconds(store: CellStore, cells: Sequence[Cell]) -> dict[str, float]:
    """Expected seconds of each unfinished cell, by name.

    This is the mean over finished cells of the same kind. Until there is one, it is the cell's
    guess, times the median ratio of elapsed to guessed seconds over the finished cells.
    """
    took: dict[tuple[str, str], list[float]] = {}
    ratios: list[float] = []
    open_cells = []
    for cell in cells:
        record = store.read(cell)
        if record is None:
            open_cells.append(cell)
        elif "elapsed" in record:
            took.setdefault(cell.kind, []).append(record["elapsed"])
            if cell.guess:
                ratios.append(record["elapsed"] / cell.guess)
    scale = sorted(ratios)[len(ratios) // 2] if ratios else 1.0
    means = {kind: sum(each) / len(each) for kind, each in took.items()}
    return {cell.name: means.get(cell.kind, scale * cell.guess) for cell in open_cells}


def format_duration(seconds: float) -> str:
    """A duration as text, in its two largest units of h, min and s.

    >>> format_duration(48), format_duration(150), format_duration(7330)
    ('48 s', '2 min 30 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
