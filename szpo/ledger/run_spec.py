"""Read a run's settings from its spec, also where szpo no longer has all of them."""

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
"""Kind of the event by which a run ends after more votes and steps than its spec says."""


def recorded_settings(ledger: Ledger) -> Settings:
    """The optimizer's settings as the run's spec records them.

    What szpo no longer has is left out, but for the rule's name: enough to read the run by. What
    asks the rule calls `require_current` first.

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
    """Load the run's rule where another package brings it.

    Raises:
        MissingPluginError: no installed package does.
    """
    name = ledger.spec["optimizer"].get("rule")
    gone = name in superseded.GONE_RULES
    if gone or not isinstance(name, str) or rule_plugins.find(name) is not None:
        return
    origin = ledger.spec.get("plugins", {}).get("rule")
    package = "a package" if origin is None else f"{origin['package']} {origin['version']}"
    raise MissingPluginError(
        f'{ledger.path.name}: its rule "{name}" comes from {package}, which is not installed; '
        "install it, or nothing of the run can be recomputed"
    )


def recorded_config(ledger: Ledger) -> Config | None:
    """The settings that `szpo run` was given; None for a run that was made otherwise.

    With the votes that were added since. Of what szpo no longer has, the default.

    Raises:
        UsageError: some setting is not what it may be.
    """
    recorded = ledger.spec.get("config")
    if recorded is None:
        return None
    return with_budget(settings_file.check_recorded(recorded, where=ledger.path.name), ledger)


def with_budget(config: Config, ledger: Ledger) -> Config:
    """The settings with the votes and steps after which the run ends as of now."""
    run = config.run.model_copy(update=read_budget(ledger))
    return config.model_copy(update={"run": run})


def read_budget(ledger: Ledger) -> dict[str, int | None]:
    """``votes`` and ``steps`` after which a run ends since votes were added; empty where none."""
    sql = "SELECT body FROM events WHERE kind = ? ORDER BY event DESC LIMIT 1"
    found = ledger.query(sql, (BUDGET,))
    return dict(json.loads(found[0]["body"])) if found else {}


def describe_budget(ends: Mapping[str, int | None]) -> str:
    """After what a run ends, as `read_budget` has it.

    >>> describe_budget({"votes": 48, "steps": None})
    '48 votes'
    """
    return " or ".join(f"{n} {what}" for what, n in ends.items() if n is not None)


def require_current(ledger: Ledger) -> None:
    """Refuse what needs the rule and options of a run, where szpo no longer has them.

    Raises:
        SupersededError: names the version that has them.
    """
    if gone := superseded.find_gone(ledger.spec.get("optimizer", {})):
        raise SupersededError(
            f"{ledger.path.name}: szpo {__version__} has no {' and no '.join(gone)}, so the run "
            f"cannot go on here; {superseded.INSTEAD} and goes on with the run"
        )


def require_weights(ledger: Ledger) -> None:
    """Refuse to add up updates along directions, or with a momentum, that szpo no longer has.

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
    """The recorded updates can be added up here; always where they are vectors."""
    folded = superseded.is_folded(ledger.spec.get("optimizer", {}))
    return folded or not ledger.query("SELECT 1 FROM updates WHERE coef <> 0 LIMIT 1")


def direction_version(spec: Mapping[str, Any]) -> int:
    """The number that this szpo gives the law by which a spec's directions are drawn."""
    law = spec.get("optimizer", {}).get("law", {})
    return ORTHONORMAL_VERSION if law.get("kind") == "orthonormal" else DIRECTION_VERSION
