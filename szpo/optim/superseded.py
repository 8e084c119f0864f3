"""Rules and options that szpo no longer has, and what is left of records that name them.

A recorded run that used one is read, shown and exported as before. Here its votes cannot be made
updates again; `VERSION`, at `COMMIT`, does so, and goes on with the run. An option that was off
changes nothing: such a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

VERSION: Final = "0.1.0"
"""The last version that had them."""
COMMIT: Final = "231555c"
INSTEAD: Final = f"szpo {VERSION} (commit {COMMIT}) recomputes updates from votes with it"
GONE_RULES: Final = ("bayes", "margin")
GONE_VALUES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "weighting": ("equal", ("dawid-skene", "shrunk-logits", "median")),
    "smoothing": (
        "haldane", ("clip", "laplace", "score", "second", "posterior", "pooled"),
    ),
}  # fmt: skip
"""By option the value that such a run is looked at with, and those that are gone."""
GONE_OPTIONS: Final[Mapping[str, Any]] = {
    "momentum": 0.0, "adam": None, "steering": None, "selection": None, "vote_price": None,
}  # fmt: skip
"""Options that are gone, and what they are in records of runs that did without them."""
SCHEDULES: Final = {"constant": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}
"""Names that the powers of μ and α had in saved vectors."""
GONE_SUBOPTIONS: Final = ("momentum_terms", "forget", "selection_noise")
"""Options without effect alone."""


def find_gone(optimizer: Mapping[str, Any]) -> tuple[str, ...]:
    """What recorded settings of the optimizer use and szpo no longer has, in words.

    >>> find_gone({"rule": "bayes", "momentum": 0.0})
    ('rule bayes',)
    """
    found = [f"rule {optimizer['rule']}"] if optimizer.get("rule") in GONE_RULES else []
    if optimizer.get("law", {}).get("kind") == "block":
        found.append("law block")
    found += [
        f"{name} {optimizer[name]}"
        for name, (_, gone) in GONE_VALUES.items()
        if optimizer.get(name) in gone
    ]
    found += [
        f"option {name}" for name, off in GONE_OPTIONS.items() if optimizer.get(name, off) != off
    ]
    return tuple(found)


def is_folded(optimizer: Mapping[str, Any]) -> bool:
    """Updates are added up as they stand, along directions that szpo still draws."""
    return not {"law block", "option momentum"} & set(find_gone(optimizer))


def keep_current(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings of the optimizer without what is gone, but for the name of the rule."""
    kept = {
        name: optimizer[name]
        for name in optimizer
        if name not in {*GONE_OPTIONS, *GONE_SUBOPTIONS}
    }
    if isinstance(law := kept.get("law"), Mapping):
        kept["law"] = {name: value for name, value in law.items() if name != "block"}
        if law.get("kind") == "block":
            kept["law"]["kind"] = "gaussian"
    kept |= {name: now for name, (now, gone) in GONE_VALUES.items() if kept.get(name) in gone}
    for name in ("mu", "alpha"):
        if isinstance(schedule := kept.get(name), Mapping):
            power = SCHEDULES[schedule["kind"]]
            kept |= {name: schedule["start"], f"{name}_decay": power}
            kept["decay_horizon"] = schedule["horizon"]
    return kept
