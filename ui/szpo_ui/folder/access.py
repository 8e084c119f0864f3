"""The login of a folder's operator; its credentials are in a separate ledger beside the runs."""

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
"""Name of that ledger, without ``.db``, so no command takes it for a run."""
COMPARE: Final = "/compare"
"""The path of the page that compares runs."""


def door(ledger: Ledger, *, secure: bool = False) -> Door:
    """The login of a folder, from the ledger of its operators."""
    homes: dict[Role, str] = {"operator": "", "panelist": ""}
    return Door(ledger=ledger, secure=secure, homes=homes, pages=frozenset({COMPARE}))


def open_ledger(folder: Path) -> Ledger:
    """Open the folder's credentials for reading and writing; create them the first time.

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
    """Refuse a folder that holds other files but none of szpo's, such as a home folder.

    An empty folder is accepted: its first run can be created from the home page.

    Raises:
        UsageError: the folder has files, but neither a run nor a settings file.
        StorageError: the folder cannot be read.
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
