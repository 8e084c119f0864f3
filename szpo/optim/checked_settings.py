"""Make settings that suit their rule: fill in defaults, read JSON, check the combination."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from szpo.errors import UsageError
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import layout_dim
from szpo.optim.rules.registry import RULES, rule_of
from szpo.optim.sample_directions import Law
from szpo.optim.settings import Settings, SettingsError
from szpo.types import Layout

REGRESSION_UP_TO_DIM = 64
"""Largest number of coordinates for which `regression` is the default rule."""
WARMUP = 5
"""Default number of warm-up steps where the step size has to be measured."""
TWO_POINT_SETTINGS = (
    "kl_budget", "centre_step", "score_share", "guarded", "features", "asking_noise",
    "earlier_votes",
)  # fmt: skip
"""Settings of rules with two points: one where they ask, and another that they recommend."""


def defaults(
    root_seed: int, layout: Layout, *, rule: str | None = None, **changes: Any
) -> Settings:
    """The default settings: `regression` for one tensor of d ≤ 64, else `known` with a warm-up.

    >>> settings = defaults(1, (("z", (8,)),))
    >>> settings.rule, settings.law.normalise, settings.N, settings.warmup
    ('regression', False, 1, 0)
    >>> settings = defaults(1, (("w", (100, 100)),), rule="sign", N=4)
    >>> settings.law.normalise, settings.N, settings.warmup
    (False, 4, 0)
    """
    dim = layout_dim(layout)
    small = len(layout) == 1 and dim <= REGRESSION_UP_TO_DIM
    chosen = rule_of(rule or ("regression" if small else "known"))
    measured = changes.get("alpha") is None
    wide = chosen.can_warm_up and dim > REGRESSION_UP_TO_DIM
    base: dict[str, Any] = {"law": Law.for_dim(dim), "warmup": WARMUP if wide and measured else 0}
    base |= chosen.defaults
    known = [field.name for field in dataclasses.fields(Settings)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.8)
        hint = f'did you mean "{near[0]}"?' if near else f"it knows {', '.join(sorted(known))}"
        raise SettingsError(f"{', '.join(unknown)} unknown to the optimizer; {hint}")
    return check(Settings(root_seed, layout, rule=chosen.name, **{**base, **changes}))


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON values, which `settings_from_json` reads back."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(settings))
    if settings.features is not None and not settings.features.coordinates:
        for name in ("coordinates", "axes", "curves"):
            del plain["features"][name]
    return plain


def settings_from_json(body: Mapping[str, Any]) -> Settings:
    """Settings from their JSON form."""
    try:
        values = dict(body)
        values["layout"] = tuple((name, tuple(shape)) for name, shape in values["layout"])
        values["law"] = Law(**values["law"])
        if values["earlier_votes"] is not None:
            values["earlier_votes"] = tuple(tuple(row) for row in values["earlier_votes"])
        if values["features"] is not None:
            values["features"] = NamedFeatures.from_json(values["features"])
        found = Settings(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"settings: cannot be read ({error})") from error
    return check(found)


def check(settings: Settings) -> Settings:
    """Return the settings if their rule can work with them."""
    s, rule = settings, rule_of(settings.rule)
    measures = rule.can_warm_up and s.alpha is None
    if s.warmup and not measures:
        able = " and ".join(name for name, other in RULES.items() if other.can_warm_up)
        raise SettingsError(f"warmup only measures an unset alpha, for {able}; set warmup = 0")
    if not rule.two_points:
        plain = Settings(s.root_seed, s.layout, s.law, s.rule)
        given = [name for name in TWO_POINT_SETTINGS if getattr(s, name) != getattr(plain, name)]
        able = " or ".join(name for name, other in RULES.items() if other.two_points)
        if given:
            raise SettingsError(f"{given[0]} belongs to the rule {able}; leave it out")
    rule.check(s)
    return s


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
