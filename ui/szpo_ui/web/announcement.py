"""Where a run is served at this moment: a small file beside it, locked while its server lives."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

MOST = 2_000
"""Characters of an address; links of this kind are far shorter."""


@contextlib.contextmanager
def announced(run: Path, url: str) -> Iterator[None]:
    """Tell other commands of this machine the address; what cannot be written is left untold.

    The lock goes with the process, however it ends. Where the run is served twice, the first
    server's address stands.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another server has it, or the disk is full
            file = stack.enter_context(_place(run).open("a+", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(url)
            file.flush()
            stack.callback(_place(run).unlink, missing_ok=True)
        yield


def address(run: Path) -> str | None:
    """The address that links to this run begin with; None where no server of it is running."""
    try:
        with _place(run).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(MOST) or None
    except OSError:
        pass
    return None


def _place(run: Path) -> Path:
    return run.with_name(f"{run.name}-served")
