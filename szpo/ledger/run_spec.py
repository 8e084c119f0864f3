"""Read a run's settings from its spec, even if this szpo no longer has all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from szpo import __version__
from szpo.config import rule_plugins, settings_file
from szpo.config.schema import Config
from szpo.errors import IntegrityError, MissingPluginError, SupersededError
from szpo.ledger.database import Ledger
from szpo.optim import superseded
from szpo.optim.checked_settings import read_recorded, settings_from_json
from szpo.optim.sample_directions import DIRECTION_VERSION, ORTHONORMAL_VERSION
from szpo.optim.settings import Settings

BUDGET: Final = "budget"
"""Kind of the event that raises a run's votes and steps above those in its spec."""


def recorded_settings(ledger: Ledger) -> Settings:
    """The optimizer's settings as the run's spec records them.

    Settings that szpo no longer has are left out, except the rule's name. That is enough to read
    the run; callers that use the rule call `require_current` first.

    Raises:
        IntegrityError: the spec has none, they disagree with the run's seed or layout, or the
            run's directions come from another table than this szpo has.
        MissingPluginError: the run's rule comes from a package that is not installed.
    """
    version, own = ledger.row["direction_version"], direction_version(ledger.spec)
    if version != own:
        raise IntegrityError(
            f"{ledger.path.name}: made with direction table {version}, this szpo has {own}; "
            f"install the szpo that made it ({ledger.spec.get('szpo', '?')})"
        )
    if "optimizer" not in ledger.spec:
        raise IntegrityError(f"{ledger.path.name}: the spec has no optimizer settings")
    require_rule(ledger)
    optimizer = ledger.spec["optimizer"]
    gone = superseded.find_gone(optimizer)
    found = read_recorded(optimizer) if gone else settings_from_json(optimizer)
    if found.root_seed != ledger.root_seed or found.layout != ledger.layout:
        raise IntegrityError(
            f"{ledger.path.name}: the optimizer's seed or layout is not that of the run"
        )
    return found


def require_rule(ledger: Ledger) -> None:
    """Load the run's rule if it comes from another package.

    Raises:
        MissingPluginError: that package is not installed.
    """
    name = ledger.spec["optimizer"].get("rule")
    gone = name in superseded.GONE_RULES
    if gone or not isinstance(name, str) or rule_plugins.find(name) is not None:
        return
    origin = ledger.spec.get("plugins", {}).get("rule")
    package = "a package" if origin is None else f"{origin['package']} {origin['version']}"
    raise MissingPluginError(
        f'{ledger.path.name}: its rule "{name}" comes from {package}, which is not installed; '
        "without it the run cannot be recomputed; install it"
    )


def recorded_config(ledger: Ledger) -> Config | None:
    """The settings given to `szpo run`, with votes added since; None for a run made otherwise.

    Settings that szpo no longer has are left at their defaults.

    Raises:
        UsageError: a setting is invalid.
    """
    recorded = ledger.spec.get("config")
    if recorded is None:
        return None
    return with_budget(settings_file.check_recorded(recorded, where=ledger.path.name), ledger)


def with_budget(config: Config, ledger: Ledger) -> Config:
    """The settings with the votes and steps after which the run now ends."""
    run = config.run.model_copy(update=read_budget(ledger))
    return config.model_copy(update={"run": run})


def read_budget(ledger: Ledger) -> dict[str, int | None]:
    """``votes`` and ``steps`` after which a run with added votes ends; empty if none were."""
    sql = "SELECT body FROM events WHERE kind = ? ORDER BY event DESC LIMIT 1"
    found = ledger.query(sql, (BUDGET,))
    return dict(json.loads(found[0]["body"])) if found else {}


def describe_budget(ends: Mapping[str, int | None]) -> str:
    """A budget, as `read_budget` returns it, in words.

    >>> describe_budget({"votes": 48, "steps": None})
    '48 votes'
    """
    return " or ".join(f"{n} {what}" for what, n in ends.items() if n is not None)


def require_current(ledger: Ledger) -> None:
    """Refuse a run whose rule or options this szpo no longer has.

    Raises:
        SupersededError: names the version that has them.
    """
    if gone := superseded.find_gone(ledger.spec.get("optimizer", {})):
        raise SupersededError(
            f"{ledger.path.name}: szpo {__version__} has no {' and no '.join(gone)}, so the run "
            f"cannot go on here; {superseded.INSTEAD} and goes on with the run"
        )


def require_weights(ledger: Ledger) -> None:
    """Refuse a run whose updates need directions or a momentum that szpo no longer has.

    Raises:
        SupersededError: names the version that has them.
    """
    if has_weights(ledger):
        return
    gone = " and no ".join(superseded.find_gone(ledger.spec["optimizer"]))
    raise SupersededError(
        f"{ledger.path.name}: szpo {__version__} has no {gone}, so its weights cannot be made "
        f"from its updates; szpo {superseded.VERSION} (commit {superseded.COMMIT}) makes them"
    )


def has_weights(ledger: Ledger) -> bool:
    """Whether this szpo can add up the recorded updates; if they are vectors, it always can."""
    folded = superseded.is_folded(ledger.spec.get("optimizer", {}))
    return folded or not ledger.query("SELECT 1 FROM updates WHERE coef <> 0 LIMIT 1")


def direction_version(spec: Mapping[str, Any]) -> int:
    """This szpo's version number for the distribution that a spec's directions come from."""
    law = spec.get("optimizer", {}).get("law", {})
    return ORTHONORMAL_VERSION if law.get("kind") == "orthonormal" else DIRECTION_VERSION
