"""What the optimizer works with: settings of its rule, findings of the set-up.

Everything `szpo.optim.optimizer` does is a function of these and of the recorded votes. The
section of a rule comes from `szpo.config.optimizer`, which checks it; nothing is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from szpo.optim.guided_directions import Span
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import NO_COORDINATES, Space, layout_dim
from szpo.optim.sample_directions import Law
from szpo.types import Layout, Pairing

LawName: TypeAlias = Literal["auto", "gaussian", "normalised", "orthonormal"]
LAWS: Final[Mapping[LawName, Law]] = {
    "gaussian": Law(),
    "normalised": Law(normalise=True),
    "orthonormal": Law("orthonormal"),
}


def name_of(law: Law) -> LawName:
    """The name of a law in settings."""
    return next(name for name, each in LAWS.items() if each == law)


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """The settings of a rule; `szpo.config.optimizer` says what each means, and checks it.

    ``mu`` None: μ = scale · √(2 · kl_radius / d).
    """

    rule: str
    pairing: Pairing
    K: int
    N: int
    M: int
    D: int
    kl_radius: float
    mu: float | None
    weighting: str
    kl_step: float
    link: str
    guided: float
    kl_budget: float | Literal["off"]

    @property
    def smoothing(self) -> str:
        """How the rule known moves a vote share of 0 or 1 into (0, 1)."""
        return "trim" if self.pairing == "forward" else "haldane"


@dataclass(frozen=True, slots=True)
class Settings:
    """A rule's section, the coordinates of the run, and how sizes change along it.

    ``law`` is that of the directions. ``alpha``: the step size; None: the value whose expected
    step is as long as √(2 · kl_step) in whitened units, by the votes' law at rate ½
    (`szpo.optim.known_and_sign.default_alpha`) or measured in the first ``warmup`` steps.
    ``features``: the named features that votes are regressed on; None: z⁺ − z⁻. ``asking_noise``:
    share of the seed's own direction in the squared length of one drawn from the posterior of
    named features (`szpo.optim.informative`); None or 1: directions are the seed's.
    ``horizon``: the number of steps after which α is halved (`szpo.optim.schedule`); ∞: it stays.
    ``narrows``: μ falls with the step (the same).
    ``centre_step``: the longest step of the centre of a rule with two points, in whitened units.
    ``regressors``: the named features that are recorded of shown texts under a rule that fits no
    votes, so that its votes teach a taste; ``spans``: what has guided directions, in order.
    """

    section: RuleSettings
    root_seed: int
    layout: Layout
    scale: float = 1.0
    law: Law = LAWS["gaussian"]
    alpha: float | None = None
    warmup: int = 0
    features: NamedFeatures | None = None
    asking_noise: float | None = None
    horizon: float = math.inf
    narrows: bool = False
    centre_step: float = 1.0
    regressors: NamedFeatures | None = None
    spans: tuple[Span, ...] = ()

    def change(self, **changes: Any) -> Settings:
        """The settings with other values in the rule's section."""
        return replace(self, section=replace(self.section, **changes))

    @property
    def space(self) -> Space:
        """The coordinates and the law of their directions."""
        return Space(self.root_seed, self.layout, self.law, self.spans)

    @property
    def dim(self) -> int:
        """The number of trainable coordinates d."""
        return layout_dim(self.layout)

    @property
    def kl_budget(self) -> float | None:
        """How far the recommended point may be from the model's start, nats; None: no bound."""
        budget = self.section.kl_budget
        return None if budget == "off" else budget

    @property
    def asks_posterior(self) -> bool:
        """Directions are drawn from the posterior of the votes so far."""
        return self.asking_noise is not None and self.asking_noise < 1

    @property
    def picks_pairs(self) -> bool:
        """Rows are chosen pairs of answers, since votes are fitted on their texts."""
        named = self.features is not None and bool(self.features.names)
        return self.section.D == 1 and (named or self.idle)

    @property
    def idle(self) -> bool:
        """The run has no coordinates: votes are explained, and nothing moves."""
        return self.layout == NO_COORDINATES

    @property
    def guides(self) -> bool:
        """A part of each direction is to lie in a span of proposals (`guided_directions`)."""
        shape = [name for name, _ in self.layout] != ["z"] and not self.idle
        return self.section.guided > 0 and shape and not self.law.scaled

    @property
    def awaits_features(self) -> bool:
        """The features by which the shown texts are recorded are still to be drawn."""
        return (self.idle or self.guides) and self.described is None

    @property
    def described(self) -> NamedFeatures | None:
        """The features by which the shown texts are recorded; None where none are."""
        return self.regressors if self.features is None else self.features

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
        return 2 if self.section.pairing == "antithetic" else 1
