"""Rules and options that szpo no longer has, and what is left of records that name them.

A recorded run that used one is read, shown and exported as before. Here its votes cannot be made
updates again; `VERSION`, at `COMMIT`, does so, and goes on with the run. An option that was off
changes nothing: such a run goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from szpo.aggregation.registry import WEIGHTINGS
from szpo.optim.settings import Settings

VERSION: Final = "0.1.0"
"""The last version that had them."""
COMMIT: Final = "231555c"
INSTEAD: Final = f"szpo {VERSION} (commit {COMMIT}) recomputes updates from votes with it"
GONE_RULES: Final = ("bayes", "margin")
_FIELDS: Final = {field.name for field in dataclasses.fields(Settings)}
_OFF: Final = {
    "momentum": 0.0, "adam": None, "steering": None, "selection": None, "vote_price": None,
}  # fmt: skip
OFF: Final[Mapping[str, Any]] = {name: v for name, v in _OFF.items() if name not in _FIELDS}
"""Options that are gone, and what they are in records of runs that did without them."""
_IDLE: Final = ("momentum_terms", "forget", "selection_noise")
IDLE: Final = tuple(name for name in _IDLE if name not in _FIELDS)
"""Those that do nothing by themselves."""
GONE_WEIGHTINGS: Final = tuple(
    name for name in ("dawid-skene", "shrunk-logits", "median") if name not in WEIGHTINGS
)


def find_gone(optimizer: Mapping[str, Any]) -> tuple[str, ...]:
    """What recorded settings of the optimizer use and szpo no longer has, in words.

    >>> find_gone({"rule": "bayes", "momentum": 0.0})
    ('rule bayes',)
    """
    found = [f"rule {optimizer['rule']}"] if optimizer.get("rule") in GONE_RULES else []
    if optimizer.get("law", {}).get("kind") == "block":
        found.append("law block")
    if optimizer.get("weighting") in GONE_WEIGHTINGS:
        found.append(f"weighting {optimizer['weighting']}")
    found += [f"option {name}" for name, off in OFF.items() if optimizer.get(name, off) != off]
    return tuple(found)


def is_folded(optimizer: Mapping[str, Any]) -> bool:
    """Updates are added up as they stand, along directions that szpo still draws."""
    return not {"law block", "option momentum"} & set(find_gone(optimizer))


def keep_current(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings of the optimizer without what is gone, but for the name of the rule."""
    kept = {name: optimizer[name] for name in optimizer if name not in {*OFF, *IDLE}}
    if isinstance(law := kept.get("law"), Mapping):
        kept["law"] = {name: value for name, value in law.items() if name != "block"}
        if law.get("kind") == "block":
            kept["law"]["kind"] = "gaussian"
    if kept.get("weighting") in GONE_WEIGHTINGS:
        kept["weighting"] = "equal"
    return kept
