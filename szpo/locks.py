"""A lock on an open file, by the system's means; it ends when the file or process is closed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

LOCK_BYTE: Final = 2**40
"""Windows locks bytes, which others then cannot read; so the lock is on a byte past any file."""

if sys.platform == "win32":
    import msvcrt

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file (its descriptor); False while somebody else has it.

        With ``shared`` others may share it, where the system knows shared locks.
        """
        place = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, place, os.SEEK_SET)
        return True

else:
    try:
        import fcntl
    except ImportError:  # then nothing is locked; records have their own checksums
        fcntl = None  # type: ignore[assignment]

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file (its descriptor); False while somebody else has it.

        With ``shared`` others may share it, where the system knows shared locks.
        """
        if fcntl is None:
            return True
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


POLL_S: Final = 0.5


@contextmanager
def claim(lock: Path, *, wait: bool = False) -> Iterator[IO[str] | None]:
    """Hold a file's lock until the block or the process ends.

    None if another process has it, unless ``wait``.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as file:
        while not (held := try_lock(file.fileno())) and wait:
            time.sleep(POLL_S)
        yield file if held else None
