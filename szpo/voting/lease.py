"""The lease that lets one controller drive a run, and its epoch.

The lease keeps a second controller away. Taking the lease raises the epoch, and triggers refuse
every write of a step or an update under an older epoch. So a controller that slept through its
lease fails cleanly instead of writing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from szpo.errors import LeaseError, SzpoError
from szpo.files import WINDOWS
from szpo.ledger.database import Ledger, Record

DEFAULT_TTL_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease: its holder's name, the epoch that fences its writes, its length in µs."""

    holder: str
    epoch: int
    ttl_us: int


def controller(ledger: Ledger) -> Record:
    """The run's row of the table `controller`."""
    return ledger.query("SELECT * FROM controller WHERE run = ?", (ledger.run,))[0]


def is_paused(ledger: Ledger) -> bool:
    """Whether somebody, or a guard, has paused the run."""
    return controller(ledger)["paused_by"] is not None


def is_driven(holder: str | None, expires_us: int | None, now_us: int) -> bool:
    """Whether a controller holds the run: its lease lasts, and its process is not gone."""
    return holder is not None and (expires_us or 0) > now_us and not is_gone(holder)


def holder_name() -> str:
    """This process as host:process:random:space, so that `is_gone` can tell when it is dead."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}:{process_space()}"


@cache
def process_space() -> str:
    """The namespace of process ids as eight hexadecimal digits, or "" where it is unknown.

    Containers may share a host name and have process ids of their own. On Linux the boot id and
    the namespace of process ids distinguish them. Other systems have no such namespaces, so the
    host name is enough.
    """
    if not sys.platform.startswith("linux"):
        return "0" * 8
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        text = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def acquire(ledger: Ledger, holder: str | None = None, ttl_us: int = DEFAULT_TTL_US) -> Lease:
    """Take the run if it is free, its lease has run out, or its holder's process is gone."""
    holder = holder or holder_name()
    with ledger.transaction("controller"):
        row = controller(ledger)
        left_us = 0 if row["lease"] is None else row["expires_us"] - ledger.clock()
        # A lease from a clock that was ahead must not lock the run for more than ten lengths.
        if 0 < left_us <= 10 * ttl_us and row["lease"] != holder and not is_gone(row["lease"]):
            raise LeaseError(
                f"{ledger.path.name}: driven by {row['lease']}, whose lease lasts "
                f"{left_us / 1e6:.0f} s more; stop that process or wait"
            )
        epoch = row["epoch"] + 1
        ledger.execute(
            "UPDATE controller SET lease = ?, expires_us = ?, epoch = ? WHERE run = ?",
            (holder, ledger.clock() + ttl_us, epoch, ledger.run),
        )
    return Lease(holder, epoch, ttl_us)


def renew(ledger: Ledger, lease: Lease) -> None:
    """Extend the lease to its full length from now.

    Raises:
        LeaseError: another controller has taken the run over.
    """
    with ledger.transaction("controller"):
        check(ledger, lease.epoch)
        ledger.execute(
            "UPDATE controller SET lease = ?, expires_us = ? WHERE run = ?",
            (lease.holder, ledger.clock() + lease.ttl_us, ledger.run),
        )


@contextlib.contextmanager
def renewing(ledger: Ledger, lease: Lease) -> Iterator[None]:
    """While the block runs, renew the lease from a thread, three times per length of the lease.

    A rollout or a judge may take longer than any lease. A process that is killed or suspended
    renews nothing. Once another controller has the run, the thread ends, and the older epoch
    stops the block at its next write.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(lease.ttl_us / 3e6):
            try:
                renew(ledger, lease)
            except LeaseError:
                return
            except SzpoError:  # a busy or full disk: if that lasts, the block itself fails on it
                continue

    thread = threading.Thread(target=beat, name="szpo-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def hold(
    ledger: Ledger, holder: str | None = None, ttl_us: int = DEFAULT_TTL_US
) -> Iterator[Lease]:
    """Take the run, keep it while the block runs, and give it back."""
    held = acquire(ledger, holder, ttl_us)
    try:
        with renewing(ledger, held):
            yield held
    finally:
        # A lease that cannot be given back runs out; the first error is the one to show.
        with contextlib.suppress(SzpoError):
            release(ledger, held)


def check(ledger: Ledger, epoch: int) -> None:
    """Raise LeaseError unless the controller of this epoch still has the run.

    Triggers refuse the writes of an older epoch anyway. But if another controller has moved the
    step meanwhile, another check would fail first, with a misleading message.
    """
    found = controller(ledger)["epoch"]
    if found != epoch:
        raise LeaseError(
            f"{ledger.path.name}: another controller has taken this run over (epoch {found}, "
            f"this one {epoch}); this one stops"
        )


def release(ledger: Ledger, lease: Lease) -> None:
    """Give the run back; harmless when somebody else has it by now."""
    with ledger.transaction("controller"):
        ledger.execute(
            "UPDATE controller SET lease = NULL, expires_us = NULL WHERE run = ? AND epoch = ?",
            (ledger.run, lease.epoch),
        )


def is_gone(holder: str) -> bool:
    """Whether the holder was a process of this host and process space that no longer exists.

    False where that is unknown. Such a lease ends only when it expires.
    """
    host, pid, _, space = (holder.split(":") + [""] * 3)[:4]
    here = (socket.gethostname(), process_space())
    if not space or (host, space) != here or not pid.isdigit():
        return False
    if WINDOWS:  # where signal 0 is Ctrl-C
        import psutil

        return not psutil.pid_exists(int(pid))
    try:
        os.kill(int(pid), 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
