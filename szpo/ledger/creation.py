"""The tables of a ledger, and the file of a new run, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from szpo import files
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.ledger import canonical, witness
from szpo.ledger.connection import check_place, connect
from szpo.optim import parameters
from szpo.seeds import SEED_LIMIT
from szpo.types import Layout

APPLICATION_ID: Final = 0x535A504F
SCHEMA_VERSION: Final = 5
NO_BASE: Final = canonical.sha256("no base model")
"""The base hash of policies that have no base model."""


def schema() -> str:
    """The whole DDL: the file schema.sql and the append-only triggers of every chained table."""
    text = resources.files("szpo").joinpath("ledger", "schema.sql").read_text(encoding="utf-8")
    guards = []
    for table in [*canonical.CHAINED, "events"]:
        if table == "assignments":  # partly mutable: its triggers are in schema.sql
            continue
        for action in ("UPDATE", "DELETE"):
            guards.append(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;"
            )
    return text + "\n".join(guards)


def check_kind(path: Path, conn: sqlite3.Connection) -> None:
    """Raise StorageError for another program's file, UsageError for another version's.

    A schema number that no szpo ever had raises IntegrityError.
    """
    number = conn.execute("PRAGMA application_id").fetchone()[0]
    if number != APPLICATION_ID:
        raise StorageError(f"{path} is not a szpo ledger (application_id {number})")
    check_version(path, conn)


def check_version(path: Path, conn: sqlite3.Connection) -> None:
    """Raise UsageError for a file of another version."""
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version < 1:
        raise IntegrityError(f"{path}: schema {version}, which no szpo wrote; restore a copy")
    if version != SCHEMA_VERSION:
        which = "a newer szpo" if version > SCHEMA_VERSION else "the szpo that made it"
        raise UsageError(
            f"{path}: schema {version}; this szpo reads {SCHEMA_VERSION}; install {which}"
        )


def draw_seed() -> int:
    """An unpredictable root seed."""
    return secrets.randbelow(SEED_LIMIT)


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """What defines a run: recorded when it is created, and never changed.

    ``spec`` holds plain JSON values; the layout is added to it under spec["space"]["layout"].
    ``tensors`` are stored by name (see `szpo.ledger.canonical` for the prefixes). ``run`` is
    the new run's id; None draws one at random.
    """

    spec: Mapping[str, Any] = field(kw_only=False)
    root_seed: int
    layout: Layout
    base_sha256: str = NO_BASE
    basis_sha256: str | None = None
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    run: str | None = None

    def row(self, at_us: int) -> dict[str, Any]:
        """The run's row in the table `runs`.

        Raises:
            UsageError: the spec is not JSON.
        """
        layout = [[name, list(shape)] for name, shape in self.layout]
        space = {**self.spec.get("space", {}), "layout": layout}
        try:
            text = canonical.canonical({**self.spec, "space": space})
        except (TypeError, ValueError) as error:
            raise UsageError(f"{error}; use plain JSON values") from None
        return {
            "run": self.run or secrets.token_hex(8),
            "root_seed": int(self.root_seed),
            "spec": text,
            "spec_sha256": canonical.sha256(text),
            "base_sha256": self.base_sha256,
            "basis_sha256": self.basis_sha256,
            "layout_sha256": parameters.layout_sha256(self.layout),
            "created_us": at_us,
        }


def write(path: Path, new: NewRun, clock: Callable[[], int]) -> None:
    """Write a file (mode 0600) with the schema, the row of `runs`, tensors and the first event.

    Raises:
        StorageError: the file exists, or its folder cannot be written or is on a network.
        UsageError: the spec is not JSON.
    """
    with new_file(path) as draft:
        try:
            run = new.row(clock())
        except UsageError as error:
            raise UsageError(f"spec of {path.name}: {error}") from None
        with contextlib.closing(connect(draft, readonly=False)) as conn:
            conn.executescript(f"BEGIN IMMEDIATE;\n{schema()}\nCOMMIT;")
            conn.execute("BEGIN IMMEDIATE")
            canonical.insert(conn, "runs", run)
            conn.execute("INSERT INTO controller (run) VALUES (?)", (run["run"],))
            hashes = [["runs", run["run"], canonical.row_sha256("runs", run)]]
            for name, array in sorted(new.tensors.items()):
                tensor = canonical.tensor_row(name, array)
                canonical.insert(conn, "tensors", tensor)
                key = canonical.row_key("tensors", tensor)
                hashes.append(["tensors", key, canonical.row_sha256("tensors", tensor)])
            event = canonical.event_row(run, None, clock(), "szpo", "rows", {"rows": hashes})
            canonical.insert(conn, "events", event)
            conn.execute("COMMIT")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a draft's path (mode 0600) to write to; becomes ``path`` at the end of the block."""
    check_place(path, new=True)
    draft = files.new_draft(path)
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield draft
        files.flush(draft)
        witness.forget(path)  # left by a deleted run of this name
        files.publish(draft, path)
    except FileExistsError:
        raise StorageError(f"{path} already exists; choose another name") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: cannot be written ({error})") from None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
