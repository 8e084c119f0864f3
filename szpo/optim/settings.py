"""The settings of a run's optimizer, each checked for its range.

Everything `szpo.optim.optimizer` does is a function of these settings and of the recorded votes.
`szpo.optim.checked_settings` makes them and checks that they suit their rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from szpo.aggregation import links
from szpo.aggregation.registry import WEIGHTINGS
from szpo.errors import UsageError
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import NO_COORDINATES, Space, layout_dim
from szpo.optim.sample_directions import Law
from szpo.types import Layout, Pairing

SMOOTHINGS = ("haldane", "trim")


class SettingsError(UsageError):
    """Settings that are out of range or do not go together."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the optimizer's settings; `szpo.optim.checked_settings.defaults` makes them.

    ``mu`` None: μ = scale · √(2 · kl_radius / d). ``alpha`` None: the value whose expected step is
    as long as √(2 · kl_step) in whitened units (`szpo.optim.rules.along_direction.default_alpha`).
    ``coef_cap``: the longest step along a direction, in units of μ. ``mu_decay`` and
    ``alpha_decay``: the powers by which μ and α fall with the step, in units of ``decay_horizon``
    steps (`szpo.optim.step_size.share_left`). ``weighting``: how much each voter counts
    (`szpo.aggregation.weighting`).

    The settings from ``kl_budget`` on belong to ``regression``. ``kl_budget``: how far the
    recommended point may be from the model's start, nats; None: no bound. ``centre_step``: the
    longest step of the centre, in whitened units. ``score_share``: the weight of the shown texts'
    scores in a vote's regressor. ``guarded``: the recommended point stays where the guards hold,
    as predicted from the start's recorded answers. ``features``: the named features that votes are
    regressed on; None: z⁺ − z⁻. ``asking_noise``: share of the seed's own direction in the squared
    length of one drawn from the posterior of named features (`szpo.optim.posterior_directions`);
    None or 1: directions are the seed's. ``earlier_votes``: votes of another run that count as
    this run's own (`all_votes.with_earlier_votes`).
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
    mu: float | None = None
    alpha: float | None = None
    mu_decay: float = 0.0
    alpha_decay: float = 0.0
    decay_horizon: float = 1.0
    link: str = "logistic"
    smoothing: str = "haldane"
    trim: float = 4.0
    kl_radius: float = 1.62
    kl_step: float = 0.03
    scale: float = 1.0
    warmup: int = 0
    coef_cap: float = 10.0
    weighting: str = "equal"
    kl_budget: float | None = None
    centre_step: float = 1.0
    score_share: float | None = None
    guarded: bool = False
    features: NamedFeatures | None = None
    asking_noise: float | None = None
    earlier_votes: tuple[tuple[float, ...], ...] | None = None

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
    def asks_posterior(self) -> bool:
        """Directions are drawn from the posterior of the votes so far."""
        return self.asking_noise is not None and self.asking_noise < 1

    @property
    def picks_pairs(self) -> bool:
        """Rows are chosen pairs of answers, since votes are fitted on their texts."""
        named = self.features is not None and bool(self.features.names)
        return self.D == 1 and (named or self.idle)

    @property
    def idle(self) -> bool:
        """The run has no coordinates: votes are explained, and nothing moves."""
        return self.layout == NO_COORDINATES

    @property
    def own_share(self) -> float:
        """Share of the comparisons that are pairs of the policy's own answers."""
        if not self.picks_pairs:
            return 0.0
        return 0.5 if self.features is not None and self.features.coordinates else 1.0

    def perturbs(self, step: int, k: int) -> bool:
        """Whether direction k of a step compares perturbed policies: all, none, or every other."""
        return self.own_share == 0 or (self.own_share < 1 and (step + k) % 2 == 0)

    @property
    def distance(self) -> int:
        """Distance of a comparison's two policies in units of μ: antithetic 2, forward 1."""
        return 2 if self.pairing == "antithetic" else 1


def _positive(name: str, value: float | None) -> None:
    if value is None:
        return
    if not (isinstance(value, Real) and value > 0 and math.isfinite(value)):
        raise SettingsError(f"{name} is {value}; it must be a positive number")


def _check(s: Settings) -> None:
    _ = s.space.dim  # checks seed, layout and law
    if s.pairing not in ("antithetic", "forward"):
        raise SettingsError(f"pairing {s.pairing!r}; choose antithetic or forward")
    if s.smoothing not in SMOOTHINGS:
        raise SettingsError(f"smoothing {s.smoothing!r}; choose {', '.join(SMOOTHINGS)}")
    links.link(s.link)
    for name in ("K", "N", "M", "D"):
        if not isinstance(getattr(s, name), int) or getattr(s, name) < 1:
            raise SettingsError(f"{name} is {getattr(s, name)}; give an integer from 1 up")
    for name in (
        "mu", "alpha", "decay_horizon", "trim", "kl_radius", "kl_step", "scale", "coef_cap",
        "kl_budget",
    ):  # fmt: skip
        _positive(name, getattr(s, name))
    for name in ("mu_decay", "alpha_decay"):
        if not 0 <= getattr(s, name) <= 1:
            raise SettingsError(f"{name} is {getattr(s, name)}; it must be within [0, 1]")
    if s.warmup < 0:
        raise SettingsError(f"warmup is {s.warmup}; it must not be negative")
    if s.weighting not in WEIGHTINGS:
        raise SettingsError(
            f"weighting {s.weighting!r} is unknown; choose {', '.join(WEIGHTINGS)}"
        )
