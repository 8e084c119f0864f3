"""Cells, each a spec and what was found for it, stored once, and the processes that compute them.

A cell is computed once, by one process, and is whole or not there. A cell of a plan is a fresh
process that holds a lock file while it works. The system releases the lock once both the command
and the cell's process have ended, so a killed process leaves no lock. If the same command is
started twice in one folder, both share the cells.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console

from szpo.cli import console as to_user
from szpo.errors import RunError
from szpo.files import claim, replace_whole

Spec = Mapping[str, Any]
"""All inputs of a cell as plain JSON values."""
CHILD: Final = (sys.executable, "-m", "szpo_simulators.cells")


def hash_spec(spec: Spec) -> str:
    """The hash under which a cell is stored."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def write_record(path: Path, asked: Spec, found: Mapping[str, Any]) -> None:
    """Write a cell's spec and result, completely or not at all."""
    with replace_whole(path) as draft:
        text = json.dumps({"asked": dict(asked), "found": dict(found)})
        draft.write_text(text, encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Raises:
        FileNotFoundError: the cell is not finished.
        RunError: the file exists but cannot be read.
    """
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"asked": {**body["asked"]}, "found": {**body["found"]}}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); delete it to compute it anew") from None


def make_once(path: Path, folder: Path, make: Callable[[], None]) -> None:
    """Make a file unless it exists; if several processes ask, only one makes it."""
    if path.exists():
        return
    with claim(folder / "locks" / f"{path.parent.name}-{path.stem}.lock", wait=True):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make()


@dataclass(frozen=True)
class Cell:
    """One job of a plan: plain JSON values with a ``seed``."""

    spec: Spec
    label: str

    @property
    def name(self) -> str:
        """Readable name: label, seed and a hash of the whole spec."""
        return f"{self.label}-{self.spec['seed']}-{hash_spec(self.spec)[:10]}"


@dataclass(frozen=True)
class Store:
    """The folder of a plan: records, locks and logs of its cells."""

    folder: Path
    command: Sequence[str] = CHILD

    def record_path(self, cell: Cell) -> Path:
        """Path of the cell's record."""
        return self.folder / "cells" / f"{cell.name}.json"

    def lock_path(self, cell: Cell) -> Path:
        """Path of the file that is locked while the cell is computed."""
        return self.folder / "locks" / f"{cell.name}.lock"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell found; None if it is not finished."""
        try:
            return dict(read_record(self.record_path(cell))["found"])
        except FileNotFoundError:
            return None

    def run(self, cell: Cell, lock: IO[str], report: Callable[[float], None]) -> str | None:
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
        if lines and lines[-1] == "KeyboardInterrupt":  # Ctrl-C reaches both
            raise KeyboardInterrupt
        return f"{lines[-1] if lines else f'ended with code {code}'} (log: {log})"


def run_cells(console: Console, store: Store, wanted: Sequence[Cell], jobs: int = 1) -> list[str]:
    """Run all unfinished cells in order; then wait for cells that other processes have claimed.

    ``jobs`` processes run at a time. A cell that fails is reported and skipped. If this process is
    killed, the cells' processes end by themselves soon afterwards.

    Returns:
        One line for each cell that failed.
    """
    failures: list[str] = []

    def tell(cell: Cell, share: float) -> None:
        to_user.doing(f"{cell.name}, {share:.0%}")

    def work(cell: Cell, *, wait: bool) -> bool:
        """Compute a cell; returns False if another process is at it."""
        if store.record_path(cell).exists():
            return True
        with claim(store.lock_path(cell), wait=wait) as lock:
            if lock is not None and not store.record_path(cell).exists():
                problem = store.run(cell, lock, lambda share: tell(cell, share))
                if problem is not None:
                    failures.append(f"{cell.name}: {problem}")
                state = "done" if problem is None else "failed"
                console.print(f"{cell.name} {state}", markup=False)
            return lock is not None

    unfinished = [cell for cell in wanted if not store.record_path(cell).exists()]
    console.print(f"{to_user.count(len(wanted), 'cell')}, {len(unfinished)} unfinished")
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(partial(work, wait=False), unfinished))
        left = [cell for cell, over in zip(unfinished, done, strict=True) if not over]
        list(pool.map(partial(work, wait=True), left))
    return sorted(failures)
