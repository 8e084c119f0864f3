"""Read a run's settings from its spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from szpo.config import optimizer, settings_file
from szpo.config.optimizer import read_settings, section_keys
from szpo.config.schema import Config
from szpo.errors import IntegrityError, MissingPluginError, UsageError
from szpo.ledger import guided_spans
from szpo.ledger.database import Ledger
from szpo.optim.named_features import NamedFeatures
from szpo.optim.settings import Settings

FEATURES: Final = "features"
"""Kind of the event with the named features of a run without coordinates."""
BUDGET: Final = "budget"
"""Kind of the event that raises a run's votes and steps above those in its spec."""


def recorded_settings(ledger: Ledger) -> Settings:
    """The optimizer's settings as the run's spec records them.

    A run without coordinates, or with guided directions, draws its features behind its first
    rounds (the event `FEATURES`); the spans that guide directions are events, too.

    Raises:
        IntegrityError: the spec has none, or its features cannot be read.
        MissingPluginError: the run's rule is not here.
    """
    if "optimizer" not in ledger.spec:
        raise IntegrityError(f"{ledger.path.name}: the spec has no optimizer settings")
    if "optimizer" not in ledger.checked:
        require_rule(ledger)
        body = ledger.spec["optimizer"]
        ledger.checked["optimizer"] = read_settings(body, ledger.root_seed, ledger.layout)
    settings: Settings = ledger.checked["optimizer"]
    drawn = list(ledger.events(FEATURES)) if settings.awaits_features else []
    try:
        if drawn:
            named = NamedFeatures.from_json(drawn[0]["body"])
            if settings.idle:
                settings = replace(settings, features=named)
            else:
                settings = replace(settings, regressors=named)
            ledger.checked["optimizer"] = settings
        return replace(settings, spans=guided_spans.read(ledger)) if settings.guides else settings
    except (KeyError, TypeError, UsageError) as error:
        raise IntegrityError(
            f"{ledger.path.name}: its features cannot be read ({error})"
        ) from None


def require_rule(ledger: Ledger) -> None:
    """Load the run's rule if it comes from another package."""
    name = ledger.spec["optimizer"].get("rule")
    if not isinstance(name, str) or optimizer.find_rule(name) is not None:
        return
    origin = ledger.spec.get("plugins", {}).get("rule")
    why, way = "is not among those of this szpo", "use the szpo that made it"
    if origin is not None:
        package = f"{origin['package']} {origin['version']}"
        why, way = f"comes from {package}, which is not installed", "install it"
    raise MissingPluginError(
        f'{ledger.path.name}: its rule "{name}" {why}; '
        f"without it the run cannot be recomputed; {way}"
    )


def recorded_config(ledger: Ledger) -> Config | None:
    """The settings given to `szpo run`, with votes added since; None for a run made otherwise."""
    if "config" not in ledger.spec:
        return None
    if "config" not in ledger.checked:
        tables = recorded_tables(ledger.spec)
        ledger.checked["config"] = settings_file.check(tables, where=ledger.path.name)
    return with_budget(ledger.checked["config"], ledger)


def recorded_tables(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a spec's settings; the optimizer's are recorded with what the set-up found."""
    if "config" not in spec:
        return {}
    return {**spec["config"], "optimizer": section_keys(spec.get("optimizer", {}))}


def with_budget(config: Config, ledger: Ledger) -> Config:
    """The settings with the votes after which the run now ends."""
    run = config.run.model_copy(update=read_budget(ledger))
    return config.model_copy(update={"run": run})


def read_budget(ledger: Ledger) -> dict[str, int]:
    """``votes`` after which a run with added votes ends; empty if none were."""
    sql = "SELECT body FROM events WHERE kind = ? ORDER BY event DESC LIMIT 1"
    rows = ledger.query(sql, (BUDGET,))
    return dict(json.loads(rows[0]["body"])) if rows else {}
