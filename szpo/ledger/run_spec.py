"""Read the optimizer's settings from a run's spec."""

from __future__ import annotations

from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.optim.checked_settings import settings_from_json
from szpo.optim.directions import DIRECTION_VERSION
from szpo.optim.settings import Settings


def recorded_settings(ledger: Ledger) -> Settings:
    """The optimizer's settings as the run's spec records them.

    Raises:
        IntegrityError: the spec has none, they disagree with the run's seed or layout, or the
            run's directions come from another table than this szpo has.
    """
    version = ledger.row["direction_version"]
    if version != DIRECTION_VERSION:
        raise IntegrityError(
            f"{ledger.path.name}: made with direction table {version}, this szpo has "
            f"{DIRECTION_VERSION}; install the szpo that made it ({ledger.spec.get('szpo', '?')})"
        )
    if "optimizer" not in ledger.spec:
        raise IntegrityError(f"{ledger.path.name}: the spec has no optimizer settings")
    found = settings_from_json(ledger.spec["optimizer"])
    if found.root_seed != ledger.root_seed or found.layout != ledger.layout:
        raise IntegrityError(
            f"{ledger.path.name}: the optimizer's seed or layout is not that of the run"
        )
    return found
