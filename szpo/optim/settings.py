"""The settings of a run's optimizer, each in its range.

Everything `szpo.optim.optimizer` does is a function of these settings and of the recorded votes.
What a rule asks of them is checked by `szpo.optim.checked_settings`, which makes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from szpo.aggregation import links
from szpo.aggregation.bradley_terry import Ties
from szpo.aggregation.registry import LEARNED, WEIGHTINGS
from szpo.errors import UsageError
from szpo.optim.directions import Law
from szpo.optim.parameters import Space, layout_dim
from szpo.types import Layout, Pairing

SMALL_DIM = 4096
"""Largest space whose updates may be recorded as a vector (momentum, Adam)."""
ADAM_NEEDS = f"Adam needs one tensor of at most {SMALL_DIM} coordinates and a rule but regression"
SMOOTHINGS = ("haldane", "clip", "trim", "laplace", "score", "second", "posterior", "pooled")


class SettingsError(UsageError):
    """Settings that are out of range or do not go together.

    In the text the names of settings stand in backticks, so that it can be put in the names by
    which they were given; see `rename`.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.text: Final = text

    def __str__(self) -> str:
        return f"settings: {self.rename({})}"

    def rename(self, names: Mapping[str, str]) -> str:
        """The text with other names for settings.

        >>> SettingsError("`M` is 0; give an integer from 1 up").rename({"M": "optimizer.votes"})
        'optimizer.votes is 0; give an integer from 1 up'
        """
        return re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[1]), self.text)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A value that changes with the step t: start · shape(t), all in exactly rounded operations.

    ``inverse_sqrt``: 1/√(1 + t/horizon); ``inverse``: 1/(1 + t/horizon); ``linear``: from 1 down
    to ``floor`` at t = horizon, then flat; ``constant``: 1. ``start`` None stands for the default
    value (α, μ).

    >>> Schedule("inverse", 0.2, horizon=10).at(10)
    0.1
    """

    kind: Literal["constant", "inverse_sqrt", "inverse", "linear"] = "constant"
    start: float | None = None
    horizon: float = 100.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "inverse_sqrt", "inverse", "linear"):
            raise UsageError(f"schedule: {self.kind!r} is unknown")
        if not self.horizon > 0 or not 0 <= self.floor <= 1:
            raise UsageError("schedule: horizon must be positive and floor within [0, 1]")
        _positive("schedule start", self.start)

    def shape(self, step: int) -> float:
        """The factor at that step; 1 at step 0."""
        if self.kind == "inverse_sqrt":
            return 1 / math.sqrt(1 + step / self.horizon)
        if self.kind == "inverse":
            return 1 / (1 + step / self.horizon)
        if self.kind == "linear":
            return 1 - (1 - self.floor) * min(step / self.horizon, 1.0)
        return 1.0

    def at(self, step: int, default: float = 1.0) -> float:
        """The value at that step."""
        return (default if self.start is None else self.start) * self.shape(step)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam's constants (Kingma & Ba 2015); β is called decay here, β is the panel's."""

    decay1: float = 0.9
    decay2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the optimizer's settings; `szpo.optim.checked_settings.defaults` makes them.

    ``mu`` None: μ = scale · √(2 · kl_radius / d). ``alpha`` None: the value whose expected step is
    as long as √(2 · kl_step) in whitened units (`szpo.optim.rules.counting.default_alpha`).
    ``tie_nu`` is Davidson's ν; None estimates it from the share of ties so far. ``coef_cap``: the
    longest step along a direction, in units of μ. ``steering``: the bounds of the KL radius, or
    None for a constant one. ``weighting``: how much each voter counts
    (`szpo.aggregation.weighting`).

    The last ten are ``regression``'s. ``kl_budget``: how far the recommended point may be from
    the model's start, as points (counted votes, nats), linear between them and constant outside;
    None for no bound. ``centre_step``: how far the asked centre moves in a step at most, in
    whitened units. ``score_share``: the weight of the shown texts' scores in a vote's feature.
    ``prior_widths``: prior variances of a vote's logit that are averaged over.
    ``prior_variances``: how those of the coordinates compare (flat, falling, blocks). ``start``:
    θ₀ of a branch; None for 0. ``guarded``: the recommended point stays where guards hold that are
    predicted from what was recorded of the start's answers. ``sided``: the fit has a coefficient
    for the side on which plus stood. ``unproven_kl``: how far, in nats, the recommended point goes
    while the votes may be chance. These three are None in runs recorded before they were.
    ``forgetting``: λ, by which a vote's weight falls with each step; None: it stays.

    Raises:
        UsageError: a value out of range, or a combination that cannot work.
    """

    root_seed: int
    layout: Layout
    law: Law
    rule: str
    pairing: Pairing = "antithetic"
    K: int = 1
    N: int = 8
    M: int = 1
    D: int = 8
    mu: float | Schedule | None = None
    alpha: float | Schedule | None = None
    link: str = "logistic"
    smoothing: str = "haldane"
    trim: float = 4.0
    ties: Ties = "half"
    tie_nu: float | None = None
    kl_radius: float = 1.62
    kl_step: float = 0.03
    scale: float = 1.0
    warmup: int = 0
    momentum: float = 0.0
    momentum_terms: int = 16
    adam: Adam | None = None
    steering: tuple[float, float] | None = None
    coef_cap: float = 10.0
    prior_mean: tuple[float, ...] | None = None
    prior_precision: tuple[tuple[float, ...], ...] | None = None
    weighting: str = "equal"
    kl_budget: tuple[tuple[float, float], ...] | None = None
    centre_step: float | None = None
    score_share: float | None = None
    prior_widths: tuple[float, ...] | None = None
    prior_variances: str | None = None
    start: tuple[float, ...] | None = None
    guarded: bool | None = None
    sided: bool | None = None
    unproven_kl: float | None = None
    forgetting: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def space(self) -> Space:
        """The coordinates and the law of their directions."""
        return Space(self.root_seed, self.layout, self.law)

    @property
    def dim(self) -> int:
        """The number of trainable coordinates d."""
        return layout_dim(self.layout)

    @property
    def small(self) -> bool:
        """Updates may be recorded as one vector."""
        return len(self.layout) == 1 and self.dim <= SMALL_DIM

    @property
    def given_alpha(self) -> float | None:
        """The base step size as set; None where it is left to `szpo.optim.step_size`."""
        return self.alpha.start if isinstance(self.alpha, Schedule) else self.alpha

    @property
    def distance(self) -> int:
        """How many μ the two policies of a comparison stand apart: 2 antithetic, 1 forward."""
        return 2 if self.pairing == "antithetic" else 1

    @property
    def carries(self) -> bool:
        """Momentum or Adam is carried as one vector, and a step of a counting rule is one."""
        return self.adam is not None or (self.momentum > 0 and self.small)


def _positive(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SettingsError(f"`{name}` is {value}; it must be a positive number")


def _check(s: Settings) -> None:
    _ = s.space.dim  # checks seed, layout and law
    if s.pairing not in ("antithetic", "forward"):
        raise SettingsError(f"`pairing` {s.pairing!r}; choose antithetic or forward")
    if s.smoothing not in SMOOTHINGS:
        raise SettingsError(f"`smoothing` {s.smoothing!r}; choose {', '.join(SMOOTHINGS)}")
    if s.ties not in get_args(Ties):
        raise SettingsError(f"`ties` {s.ties!r}; choose {' or '.join(get_args(Ties))}")
    links.link(s.link)
    for name in ("K", "N", "M", "D"):
        if not isinstance(getattr(s, name), int) or getattr(s, name) < 1:
            raise SettingsError(f"`{name}` is {getattr(s, name)}; give an integer from 1 up")
    for name in ("mu", "alpha"):
        if not isinstance(value := getattr(s, name), Schedule):
            _positive(name, value)
    if isinstance(s.mu, Schedule) and s.mu.kind == "linear" and s.mu.floor == 0:
        raise SettingsError("`mu` must not fall to 0; give its schedule a floor above 0")
    for name in ("trim", "kl_radius", "kl_step", "scale", "coef_cap"):
        _positive(name, getattr(s, name))
    if s.tie_nu is not None and not (s.tie_nu >= 0 and math.isfinite(s.tie_nu)):
        raise SettingsError(f"`tie_nu` is {s.tie_nu}; it must not be negative")
    if not 0 <= s.momentum < 1 or s.momentum_terms < 0 or s.warmup < 0:
        raise SettingsError("`momentum` must be in [0, 1), terms and `warmup` not negative")
    if s.steering is not None and not 0 < s.steering[0] <= s.kl_radius <= s.steering[1]:
        raise SettingsError(f"`steering` {s.steering} must contain `kl_radius` {s.kl_radius}")
    if s.link != "logistic" and (s.ties == "davidson" or s.smoothing in ("second", "posterior")):
        raise SettingsError("davidson, second and posterior are for the logistic link")
    if s.ties == "davidson" and s.smoothing != "haldane":
        raise SettingsError("davidson ties go with the haldane smoothing only")
    if s.adam is not None and s.momentum > 0:
        raise SettingsError("`momentum` and `adam` exclude each other")
    if s.adam is not None and not s.small:
        raise SettingsError(ADAM_NEEDS)
    if s.weighting not in WEIGHTINGS:
        raise SettingsError(
            f"`weighting` {s.weighting!r} is unknown; choose {', '.join(WEIGHTINGS)}"
        )
    if s.weighting in LEARNED and s.smoothing in ("clip", "second"):
        raise SettingsError(
            f"`smoothing` {s.smoothing} cannot take the fractions of votes that `weighting` "
            f"{s.weighting} makes; choose haldane"
        )
