"""Write the file of a new run, whole or not at all."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from szpo.errors import StorageError
from szpo.files import publish
from szpo.ledger import canonical, rows, witness
from szpo.ledger.connection import connect
from szpo.ledger.schema import schema


def write(
    path: Path,
    run: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    clock: Callable[[], int],
) -> None:
    """Write a file (mode 0600) with the schema, the row of `runs`, tensors and the first event.

    Raises:
        StorageError: the file exists, or its folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        conn = connect(draft, readonly=False)
        try:
            conn.executescript(f"BEGIN IMMEDIATE;\n{schema()}\nCOMMIT;")
            conn.execute("BEGIN IMMEDIATE")
            rows.insert(conn, "runs", run)
            conn.execute("INSERT INTO controller (run) VALUES (?)", (run["run"],))
            hashes = [["runs", run["run"], canonical.row_sha256("runs", run)]]
            for name, array in sorted(tensors.items()):
                tensor = rows.tensor(name, array)
                rows.insert(conn, "tensors", tensor)
                key = canonical.row_key("tensors", tensor)
                hashes.append(["tensors", key, canonical.row_sha256("tensors", tensor)])
            event = rows.event(run, None, clock(), "szpo", "rows", {"rows": hashes})
            rows.insert(conn, "events", event)
            conn.execute("COMMIT")
        finally:
            conn.close()
        witness.forget(path)  # of a run that had this name and is gone
        publish(draft, path)
    except FileExistsError:
        raise StorageError(f"{path} already exists; choose another name") from None
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: cannot be written ({error})") from None
    finally:
        draft.unlink(missing_ok=True)
