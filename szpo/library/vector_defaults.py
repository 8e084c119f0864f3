"""The optimizer's settings for a vector: what serves votes on single pairs best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from szpo.errors import UsageError
from szpo.optim.checked_settings import defaults
from szpo.optim.settings import Settings, SettingsError

RULE: Final = "known"
"""Of the rules, the one that needed fewest votes on six toy preferences (docs/library.md)."""
OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "known": {"kl_step": 0.06, "alpha_decay": 0.5, "decay_horizon": 30.0, "warmup": 0},
    "sign": {"kl_step": 0.06, "alpha_decay": 0.5, "decay_horizon": 30.0},
    "regression": {"kl_budget": None, "centre_step": 0.3},
}  # fmt: skip
"""Settings by rule. Steps shrink with the square root of their number (Robbins & Monro 1951)."""
FIXED: Final = ("K", "N", "M", "D", "layout", "root_seed", "scale", "start")
"""Settings that ask, tell and the vector itself decide."""


def make_settings(seed: int, dim: int, options: Mapping[str, Any]) -> Settings:
    """The settings of an optimizer of ``dim`` coordinates: one pair a step, μ = 1.

    With μ = 1 a shown point stands about one unit from the centre in each coordinate.

    Raises:
        UsageError: an option is unknown, out of range, or not the caller's to choose.
    """
    given = dict(options)
    for name in FIXED:
        if name in given:
            raise UsageError(f"Optimizer: {name} is no option; see szpo.Optimizer for what is")
    if given.get("weighting", "equal") != "equal":
        raise UsageError(
            "Optimizer: weighting learns from who voted how, which tell does not know; weigh "
            "votes yourself with tell(vote, weight=...)"
        )
    rule = given.pop("rule", RULE)
    chosen = {"mu": 1.0, **OWN.get(rule, {}), **given}
    try:
        return defaults(seed, (("z", (dim,)),), rule=rule, K=1, N=1, M=1, D=1, **chosen)
    except SettingsError as error:
        raise UsageError(f"Optimizer: {error.rename({})}") from None
