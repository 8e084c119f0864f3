"""The optimizer's settings: a section for each rule, and the door for settings from Python.

Rules of other packages, registered at the entry point `szpo.rules`. The optimizer is pure and
searches no packages. Code that reads settings or a ledger calls `find_rule` first, which registers
the rule with the optimizer.

`szpo.optim` takes a section's plain values. What a run's set-up finds is added by `make_settings`,
which also settles what depends on the coordinates, and by `read_settings` from a record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from szpo import plugins
from szpo.config.section import Count, OneOf, Positive, Section, checked, list_names, suggest
from szpo.errors import UsageError
from szpo.optim import optimizer
from szpo.optim.links import LINKS
from szpo.optim.named_features import NamedFeatures
from szpo.optim.optimizer import RULES
from szpo.optim.parameters import NO_COORDINATES, layout_dim
from szpo.optim.regression import BUDGET
from szpo.optim.rule import Rule
from szpo.optim.sample_directions import NORMALISE_UP_TO, ORTHONORMAL_UP_TO
from szpo.optim.settings import LAWS, LawName, RuleSettings, Settings, name_of
from szpo.optim.weighting import WEIGHTINGS
from szpo.types import Layout, Pairing

RULE_GROUP: Final = "szpo.rules"

REGRESSION_UP_TO_DIM: Final = 64
"""Largest number of coordinates for which `regression` is the default rule."""
RADIUS: Final = {"adapters": 2.0, "regression": 4.5, "others": 1.62}
"""The default `kl_radius`, nats. `regression` compares widely, since such a vote says more;
adapters as coordinates carry far, so they need less."""
GUIDED: Final = 0.8
"""The default of `optimizer.guided` in all weights of a model."""
KL_STEP: Final = 0.03
"""The default of `optimizer.kl_step`, nats."""
GUIDED_SIGN_STEP: Final = 0.05
"""The same of `sign` along guided directions: its steps are no longer where votes agree, so what
is spent is less (experiments/LOG.md, 2026-12-01)."""
WARMUP: Final = 5
"""Default number of warm-up steps where the step size has to be measured."""
FIRST_RULE: Final = "regression"
"""The rule that auto chooses where it can work."""
OTHER_RULE: Final = "known"
"""The rule that auto chooses elsewhere."""
GONE: Final[Mapping[str, tuple[Any, ...]]] = {
    "prior": (None,), "score_share": (None, 0.0), "guarded": (True, False),
    "smoothing": ("haldane", "trim"),
}  # fmt: skip
"""Keys of runs that an earlier version began, with the values that can be read: with ``guarded``
a point that was held back is told by its step."""
FLOAT32_MAX: Final = 3.4028234663852886e38
LINK_NAMES: Final = (*LINKS, "linear")
LATER: Final = ("regressors", "spans")
"""What events of a run add to its settings."""
FACTS: Final = tuple(each.name for each in fields(Settings) if each.name not in LATER)[1:]
"""What `Settings` hold besides the section when a run begins."""


def guided_step(rule: str) -> float:
    """The default of `optimizer.kl_step` under a rule whose directions are guided, nats."""
    return GUIDED_SIGN_STEP if rule == "sign" else KL_STEP


def find_rule(name: str) -> Rule | None:
    """Find a rule by name, and load it if it is another package's; None if there is none."""
    if name in optimizer.RULES:
        return optimizer.RULES[name]
    if name not in plugins.names(RULE_GROUP):
        return None
    rule: Any = plugins.load(RULE_GROUP, name, "rule")
    if not isinstance(rule, Rule) or rule.name != name:
        raise UsageError(
            f'{RULE_GROUP}: "{name}" is no szpo.optim.rule.Rule of that name; '
            "correct the package that brings it"
        )
    optimizer.add_rule(rule)
    return rule


class Optimizer(Section):
    """The optimizer: how pairs are made and how votes move the model."""

    rule: str = Field(
        "auto",
        description=f"How votes move the weights: {list_names(list(RULES))}, or a plug-in; auto:"
        f" regression in up to {REGRESSION_UP_TO_DIM} coordinates, if it has every "
        "optimizer setting that you give; else known.",
    )
    pairing: Pairing = Field(
        "antithetic",
        description="antithetic: θ+μv against θ−μv, by the same random numbers; forward: "
        "against θ, by others, as published, and known trims shares of 0 and 1.",
    )
    K: Count = Field(1, description="Directions a step; default: 8 under regression, else 1.")
    N: Count = Field(
        8,
        description="Comparisons a direction, each on its own prompts; default: 1 under "
        "regression, else 8.",
    )
    M: Count = Field(1, description="Panelists (votes) a comparison.")
    D: Count = Field(
        8,
        description="Prompts of a comparison. 1: a vote is on a pair; more: on two "
        "batches of answers, as published; default: 1 under regression, else 8.",
    )
    kl_radius: Positive = Field(
        RADIUS["others"],
        le=1e6,
        description="κ: KL of each side from the centre, nats; μ = √(2κ/d); default: "
        f"{RADIUS['adapters']:g} for adapters, {RADIUS['regression']:g} under "
        f"regression, else {RADIUS['others']:g}.",
    )
    mu: Positive | None = Field(
        None, le=1e6, description="Perturbation radius μ, instead of kl_radius."
    )
    weighting: Annotated[str, OneOf(WEIGHTINGS)] = Field(
        "equal",
        description="How much each voter counts: equal; skill: by agreement with the others.",
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_idle(cls, given: Any) -> Any:
        """Leave out keys that the rule lacks where they are unset, or say what holds under it."""
        if not isinstance(given, dict):
            return given
        lacks = KEYS.keys() - cls.model_fields.keys()
        idle = {name for name in lacks & given.keys() if given[name] in (None, getattr(cls, name))}
        return {name: value for name, value in given.items() if name not in idle}

    @classmethod
    def refuse(cls, name: str, place: str) -> str:
        """Why a key cannot stand here, and what was meant."""
        if name in KEYS:
            rules = "rule regression" if cls is Regression else "rules known and sign"
            return f"{name} plays no part in the {rules}; leave it out"
        return f'unknown key "{name}"{place}{suggest(name, KEYS) or "; leave it out"}'


class OnePoint(Optimizer):
    """The section of `known`, `sign` and other rules that move the point they ask around."""

    rule: str = "known"
    kl_step: Positive = Field(
        KL_STEP,
        le=1e6,
        description="KL of one expected step, nats; sets the step size α; default: "
        f"{GUIDED_SIGN_STEP:g} for sign along guided directions, else {KL_STEP:g}.",
    )
    link: Annotated[str, OneOf(LINK_NAMES)] = Field(
        "logistic", description=f"{list_names(LINK_NAMES)}."
    )

    guided: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="s: share of each direction, in nats, in the span of what the votes so far "
        f"propose; 0: none, as published; default: {GUIDED:g} for antithetic pairs "
        "in all weights, else 0.",
    )

    kl_budget: Positive | Literal["off"] = Field(
        "off",
        description="Most KL of the policy from the start, nats, to which it is drawn back; off: "
        f"no limit; default: {BUDGET:g} under regression and where directions are guided, else "
        "off.",
    )


class Regression(Optimizer):
    """The section of `regression`, and of other rules that recommend another point."""

    rule: str = "regression"
    K: Count = 8
    N: Count = 1
    D: Count = 1
    kl_radius: Positive = Field(RADIUS["regression"], le=1e6)
    kl_budget: Positive | Literal["off"] = BUDGET

    guided: ClassVar[float] = 0.0
    kl_step: ClassVar[float] = 0.03
    link: ClassVar[str] = "logistic"


class Steps(Section):
    """How directions are drawn and steps are sized, where the coordinates do not settle it.

    Python alone may say so: `make_settings` and `szpo.Optimizer`.
    """

    law: LawName = "auto"
    alpha: Positive | None = None
    warmup: Annotated[int, Field(ge=0, le=1000)] | None = None
    centre_step: Positive = 1.0

    @model_validator(mode="after")
    def _step_is_measured_or_set(self) -> Self:
        # 2·log(2·4096+1) bounds every Δ̂ that votes can give; the normal table ends at 4.33.
        if self.alpha is not None and self.alpha * 4.33 * 2 * math.log(8193) > FLOAT32_MAX:
            raise ValueError(
                f"alpha {self.alpha:g} is too large: a step would exceed fp32; lower it"
            )
        if self.warmup and self.alpha is not None:
            raise ValueError("warmup only measures an unset alpha; set warmup = 0")
        return self


Of: TypeAlias = OnePoint | Regression
TAGS: Final[Mapping[str, type[Of]]] = {"regression": Regression, "known": OnePoint}
"""The sections by a rule of szpo that they belong to."""


def tag_of(rule: str) -> str:
    """The key in `TAGS` of a rule's section; rules of other packages have one of these, too.

    Raises:
        UsageError: there is no rule of that name.
    """
    known = find_rule(rule) if isinstance(rule, str) else None
    if known is None:
        names = ", ".join(f'"{name}"' for name in ("auto", *RULES))
        raise UsageError(f"rule must be one of {names} (got {json.dumps(rule)})")
    return "regression" if known.two_points else "known"


KEYS: Final = {
    name: model
    for model in (Optimizer, OnePoint, Regression)
    for name, field in model.model_fields.items()
    if field.description
}
"""Every key of ``[optimizer]``, with a section that describes it."""
STEPS: Final = tuple(Steps.model_fields)
"""Those of them that Python may set, and a settings file may not."""


def make_settings(
    root_seed: int, layout: Layout, *, rule: str | None = None, **changes: Any
) -> Settings:
    """Settings in coordinates of this layout; ``changes``: keys of the rule, or `FACTS`.

    The default rule is `regression` for one tensor of d ≤ 64, else `known` with a warm-up.

    Raises:
        UsageError: a value is unknown or out of range, or the rule cannot work with the layout.

    >>> settings = make_settings(1, (("z", (8,)),))
    >>> settings.section.rule, name_of(settings.law), settings.section.N
    ('regression', 'orthonormal', 1)
    >>> name_of(make_settings(1, (("w", (100, 100)),), rule="sign", N=4).law)
    'gaussian'
    """
    small = len(layout) == 1 and layout_dim(layout) <= REGRESSION_UP_TO_DIM
    facts = {name: changes.pop(name) for name in FACTS if name in changes}
    name = rule or (FIRST_RULE if small else OTHER_RULE)
    section = checked(TAGS[tag_of(name)], {"rule": name, **changes})
    return place(section, root_seed, layout, **facts)


def place(section: Of, root_seed: int, layout: Layout, **facts: Any) -> Settings:
    """The settings of a section in coordinates: law and warm-up are settled for them.

    Raises:
        UsageError: seed or layout are invalid, or the rule cannot work with the layout.
    """
    dim, regression = layout_dim(layout), isinstance(section, Regression)
    if regression and (len(layout) != 1 or dim > ORTHONORMAL_UP_TO):
        raise UsageError(
            f"{section.rule} needs one tensor of at most {ORTHONORMAL_UP_TO} coordinates; choose "
            "another subspace.kind than full, or another rule"
        )
    steps = checked(Steps, {name: facts.pop(name) for name in STEPS if name in facts})
    measures = RULES[section.rule].can_warm_up
    if (steps.alpha is not None and regression) or (steps.warmup and not measures):
        name = "warmup" if steps.warmup else "alpha"
        raise UsageError(f"{name} plays no part in the rule {section.rule}; leave it out")
    law, warmup = steps.law, steps.warmup
    if law == "auto":
        usual: LawName = "normalised" if dim <= NORMALISE_UP_TO else "gaussian"
        law = "orthonormal" if regression else usual
    if warmup is None:  # the published algorithm, which compares forward, has none
        wide = dim > REGRESSION_UP_TO_DIM and steps.alpha is None
        warmup = WARMUP if wide and measures and section.pairing == "antithetic" else 0
    values = RuleSettings(*(getattr(section, each.name) for each in fields(RuleSettings)))
    settings = Settings(
        values, root_seed, layout, law=LAWS[law], alpha=steps.alpha, warmup=warmup,
        centre_step=steps.centre_step, **facts,
    )  # fmt: skip
    _ = settings.space  # refuses a bad seed or layout
    return settings


def fitting(settings: Settings) -> Settings:
    """The settings by which a run's verdicts are fitted to teach a taste.

    The run's own under `regression`. Under a rule that fits no verdicts they are those of a run
    without coordinates on the features that it records; without these the run's own.
    """
    o = settings.section
    if RULES[o.rule].two_points or settings.regressors is None:
        return settings
    kept = {name: getattr(o, name) for name in ("K", "N", "M", "D", "weighting", "pairing")}
    section = checked(Regression, {**kept, "kl_budget": "off"})
    placed = place(section, settings.root_seed, NO_COORDINATES)
    return replace(placed, features=settings.regressors)


def record_settings(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON values, without seed and layout, which the run has itself."""
    usual = Settings(settings.section, 0, settings.layout)
    facts = {
        name: getattr(settings, name)
        for name in FACTS[2:]
        if getattr(settings, name) != getattr(usual, name)
    }
    facts |= {"law": name_of(settings.law), "alpha": settings.alpha, "warmup": settings.warmup}
    if (named := settings.features) is not None:
        facts["features"] = asdict(named)
        if not named.coordinates:
            for name in ("coordinates", "axes", "curves"):
                del facts["features"][name]
        for name in ("made_for", "said"):
            if not getattr(named, name):
                del facts["features"][name]
    o = settings.section
    keys = TAGS[tag_of(o.rule)].model_fields
    return {**{name: getattr(o, name) for name in keys}, **_plain(facts)}


def read_settings(body: Mapping[str, Any], root_seed: int, layout: Layout) -> Settings:
    """The settings that `record_settings` recorded.

    Raises:
        UsageError: they cannot be read, or the run's rule is unknown here.
    """
    try:
        facts = {name: body[name] for name in FACTS if name in body}
        if "features" in facts:
            facts["features"] = NamedFeatures.from_json(facts["features"])
        section = checked(TAGS[tag_of(body["rule"])], section_keys(body))
        return place(section, root_seed, layout, **facts)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"settings: cannot be read ({error})") from error


def section_keys(body: Mapping[str, Any]) -> dict[str, Any]:
    """Of recorded settings the section's keys, without those that are gone and had no effect."""
    return {
        name: value
        for name, value in body.items()
        if name not in FACTS and value not in GONE.get(name, ())
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
