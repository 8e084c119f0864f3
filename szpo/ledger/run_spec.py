"""Read the optimizer's settings from a run's spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from szpo.config import rule_plugins
from szpo.errors import IntegrityError, MissingPluginError
from szpo.ledger.database import Ledger
from szpo.optim.checked_settings import settings_from_json
from szpo.optim.directions import DIRECTION_VERSION, ORTHONORMAL_VERSION
from szpo.optim.settings import Settings


def recorded_settings(ledger: Ledger) -> Settings:
    """The optimizer's settings as the run's spec records them.

    Raises:
        IntegrityError: the spec has none, they disagree with the run's seed or layout, or the
            run's directions come from another table than this szpo has.
        MissingPluginError: the run's rule is of another package, which is not installed.
    """
    version, own = ledger.row["direction_version"], direction_version(ledger.spec)
    if version != own:
        raise IntegrityError(
            f"{ledger.path.name}: made with direction table {version}, this szpo has {own}; "
            f"install the szpo that made it ({ledger.spec.get('szpo', '?')})"
        )
    if "optimizer" not in ledger.spec:
        raise IntegrityError(f"{ledger.path.name}: the spec has no optimizer settings")
    demand_rule(ledger)
    found = settings_from_json(ledger.spec["optimizer"])
    if found.root_seed != ledger.root_seed or found.layout != ledger.layout:
        raise IntegrityError(
            f"{ledger.path.name}: the optimizer's seed or layout is not that of the run"
        )
    return found


def demand_rule(ledger: Ledger) -> None:
    """Load the run's rule where another package brings it.

    Raises:
        MissingPluginError: no installed package does.
    """
    name = ledger.spec["optimizer"].get("rule")
    if not isinstance(name, str) or rule_plugins.find(name) is not None:
        return
    origin = ledger.spec.get("plugins", {}).get("rule")
    package = "a package" if origin is None else f"{origin['package']} {origin['version']}"
    raise MissingPluginError(
        f'{ledger.path.name}: its rule "{name}" comes from {package}, which is not installed; '
        "install it, or nothing of the run can be recomputed"
    )


def direction_version(spec: Mapping[str, Any]) -> int:
    """The number that this szpo gives the law by which a spec's directions are drawn."""
    law = spec.get("optimizer", {}).get("law", {})
    return ORTHONORMAL_VERSION if law.get("kind") == "orthonormal" else DIRECTION_VERSION
