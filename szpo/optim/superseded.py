"""Rules and options that szpo no longer has, and how records that name them are read.

A recorded run that used one is read, shown and exported as before. This szpo cannot recompute its
updates from its votes; `VERSION`, at `COMMIT`, can, and can continue the run. An option that was
off changes nothing: such a run continues here.
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
"""For each option: the value that such a run is shown with, and the values that are gone."""
GONE_OPTIONS: Final[Mapping[str, Any]] = {
    "momentum": 0.0, "adam": None, "steering": None, "selection": None, "vote_price": None,
}  # fmt: skip
"""Options that are gone, and their values in records of runs that did not use them."""
SCHEDULES: Final = {"constant": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}
"""The decay powers of μ and α by the names that saved vectors have for them."""
GONE_SUBOPTIONS: Final = ("momentum_terms", "forget", "selection_noise")
"""Gone options that had no effect unless one of `GONE_OPTIONS` was on."""


def find_gone(optimizer: Mapping[str, Any]) -> tuple[str, ...]:
    """The gone rules and options that recorded settings of the optimizer use, in words.

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
    """The run's updates can still be added up, along directions that szpo still draws."""
    return not {"law block", "option momentum"} & set(find_gone(optimizer))


def keep_current(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings of the optimizer without gone options; the rule's name stays."""
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
