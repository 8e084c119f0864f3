"""Settings of a run that are gone, and what to set now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_FALLING: Final = "set optimizer.alpha_decay, or optimizer.rule regression"
_ALL_ASKED: Final = "a run asks every comparison; szpo select chooses pairs of a pool"
GONE: Final[Mapping[str, tuple[object, str]]] = {
    "optimizer.block": (None, "directions move every coordinate"),
    "optimizer.momentum": (0.0, _FALLING),
    "optimizer.adam": (False, _FALLING),
    "optimizer.steer": (False, "set optimizer.mu_decay"),
    "optimizer.forget": (0.94, "set optimizer.forgetting, under the rule regression"),
    "selection.candidates": (None, _ALL_ASKED),
    "selection.by": ("rows", _ALL_ASKED),
    "selection.floor": (0.2, _ALL_ASKED),
    "selection.vote_price": (None, "set run.votes, and fewer optimizer.comparisons a step"),
}
"""Settings that are gone: what they were by default, and what to do now."""
_LEARNED: Final = "choose skill or rationality"
GONE_VALUES: Final[Mapping[str, str]] = {
    'optimizer.rule = "bayes"': "choose regression",
    'optimizer.rule = "margin"': "choose known or sign",
    'optimizer.weighting = "dawid-skene"': _LEARNED,
    'optimizer.weighting = "shrunk-logits"': _LEARNED,
    'optimizer.weighting = "median"': _LEARNED,
}
"""Values that are gone, and what to do now."""


def without_gone(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings without what is gone, and a line on each that was not as it is by default.

    >>> without_gone({"optimizer": {"momentum": 0.0, "steer": True, "rows": 4}})
    ({'optimizer': {'rows': 4}}, ['optimizer.steer is gone: set optimizer.mu_decay'])
    """
    kept: dict[str, Any] = {}
    lines = []
    for table, values in tree.items():
        rest = values
        if isinstance(values, Mapping):
            rest = {}
            for name, value in values.items():
                key, given = f"{table}.{name}", f'{table}.{name} = "{value}"'
                if key in GONE:
                    default, instead = GONE[key]
                    lines += [] if value == default else [f"{key} is gone: {instead}"]
                elif given in GONE_VALUES:
                    lines.append(f"{given} is gone: {GONE_VALUES[given]}")
                else:
                    rest[name] = value
        if rest or not values:
            kept[table] = rest
    return kept, lines
