"""The login of a folder's operator: credentials in a ledger of their own, beside the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from szpo import __version__
from szpo.errors import StorageError, UsageError
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.optim.sample_directions import DIRECTION_VERSION
from szpo_ui.web.credential_rows import Role
from szpo_ui.web.site import Door

FILE: Final = ".szpo-operators"
"""Name of that ledger: no ``.db``, so that no command takes it for a run."""
COMPARE: Final = "/compare"
"""The path of the page of runs side by side."""


def door(ledger: Ledger, *, secure: bool = False) -> Door:
    """The login of a folder over the ledger of its operators."""
    homes: dict[Role, str] = {"operator": "", "panelist": ""}
    return Door(ledger=ledger, secure=secure, homes=homes, pages=frozenset({COMPARE}))


def open_ledger(folder: Path) -> Ledger:
    """Open the folder's credentials for reading and writing; they are made at the first time.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / FILE
    if path.exists():
        return Ledger.open(path)
    new = NewRun(
        {"szpo": __version__},
        root_seed=0,
        layout=(("none", (1,)),),
        direction_version=DIRECTION_VERSION,
    )
    return Ledger.create(path, new)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds other things and nothing of szpo, such as a home folder.

    An empty one is taken: its first run is begun from the home page.

    Raises:
        UsageError: there is neither a run nor a settings file, but something else.
        StorageError: it cannot be read.
    """
    try:
        names = [each.name for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError as error:
        raise StorageError(f"{folder} cannot be read ({error.strerror})") from None
    if names and not any(name.endswith((".db", ".toml")) for name in names):
        raise UsageError(
            f"{folder} holds neither a run (*.db) nor a settings file (*.toml); name a folder of "
            "runs, or an empty one to begin in"
        )
