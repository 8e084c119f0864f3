"""Every setting of a run: typed, bounded, described once.

The tables are in `szpo.config.model_sections`, `szpo.config.optimizer_sections`,
`szpo.config.run_sections`, `szpo.config.engine` and `szpo.config.judge`; their descriptions are
also the comments of the file that ``szpo init`` writes. `Config` holds them and the rules between
them. Reading files, presets and ``--set`` is `szpo.config.settings_file`'s business; what is made
of the settings, that of `szpo.runs.assemble`, but for the optimizer's settings: what they refuse
is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from szpo.config import rule_plugins
from szpo.config.engine import Engine
from szpo.config.judge import Judge
from szpo.config.model_sections import (
    Adapter,
    Features,
    Generation,
    Model,
    Prompts,
    Subspace,
)
from szpo.config.optimizer_sections import Optimizer
from szpo.config.run_sections import (
    Evaluation,
    Guards,
    Hook,
    Panel,
    Prolific,
    Run,
    Tracking,
)
from szpo.config.section import Section
from szpo.errors import UsageError
from szpo.optim.checked_settings import POSTERIOR_DIM, WARMUP, defaults
from szpo.optim.named_features import NamedFeatures
from szpo.optim.posterior_directions import NOISE, TEMPERATURE
from szpo.optim.rules.registry import RULES, rule_of
from szpo.optim.sample_directions import Law
from szpo.optim.settings import Settings, SettingsError
from szpo.types import Layout

WORDS_PER_TOKEN = 0.75
"""Of English, with the tokenizers of small models."""
SCORED: Final = ("score", "features")
"""Kinds of coordinates that are made from scores of base answers."""
RUBRIC_VERSION = 1
"""Which wording of question, guideline and choices a vote was given under; stored with it."""
ONE_COORDINATE: Final[Layout] = (("z", (1,)),)
"""A layout that no setting is too large for."""
NAMES: Final[Mapping[str, str]] = {
    **{name: f"optimizer.{name}" for name in Optimizer.model_fields},
    "K": "optimizer.directions",
    "N": "optimizer.comparisons",
    "M": "optimizer.votes",
    "D": "optimizer.rows",
}
"""What the optimizer's settings are called in a run's settings."""
Coordinates: TypeAlias = Literal["score", "features", "random", "full"]
FEATURE_SAMPLES: Final = 512
"""Base answers of a set-up of features; with fewer they are too rough to be auto's choice."""
SAMPLES: Final = 384
"""Base answers of any other."""
FIRST_RULE: Final = "regression"
"""The rule that is auto's choice where it can work."""
OTHER_RULE: Final = "known"
"""Its choice elsewhere."""


class Config(Section):
    """A run's settings, one attribute per table of the file."""

    run: Run = Field(default_factory=lambda: Run())
    model: Model = Field(default_factory=lambda: Model())
    adapter: Adapter = Field(default_factory=lambda: Adapter())
    subspace: Subspace = Field(default_factory=lambda: Subspace())
    features: Features = Field(default_factory=lambda: Features())
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer())
    panel: Panel = Field(default_factory=lambda: Panel())
    judge: Judge = Field(default_factory=lambda: Judge())
    prompts: Prompts = Field(default_factory=lambda: Prompts())
    generation: Generation = Field(default_factory=lambda: Generation())
    engine: Engine = Field(default_factory=lambda: Engine())
    guards: Guards = Field(default_factory=lambda: Guards())
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())
    hook: Hook = Field(default_factory=lambda: Hook())
    tracking: Tracking = Field(default_factory=lambda: Tracking())
    prolific: Prolific = Field(default_factory=lambda: Prolific())

    @model_validator(mode="before")
    @classmethod
    def _as_the_rule_asks(cls, given: Any) -> Any:
        """Directions, comparisons and radius that are left out are those of the rule."""
        if not isinstance(given, Mapping):
            return given
        try:
            draft = cls.model_construct(
                run=Run.model_validate(given.get("run", {})),
                subspace=Subspace.model_validate(given.get("subspace", {})),
                optimizer=Optimizer.model_validate(given.get("optimizer", {})),
            )
        except ValidationError:
            return given  # refused below, with its place
        own = rule_plugins.find(draft.rule)
        if own is None:
            return given
        names = {"directions": "K", "comparisons": "N", "kl_radius": "kl_radius"}
        usual = {name: own.defaults[key] for name, key in names.items() if key in own.defaults}
        return {**given, "optimizer": {**usual, **dict(given.get("optimizer", {}))}}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.panel.kind != "people" and self.optimizer.votes > self.panel.size:
            raise ValueError(
                f"optimizer.votes {self.optimizer.votes} needs {self.optimizer.votes} panelists; "
                f"panel.size is {self.panel.size}"
            )
        judged = self.panel.kind == "judge" and self.judge.same_each_time
        if judged and self.optimizer.votes > 1:
            raise ValueError(
                f"optimizer.votes {self.optimizer.votes} would count one opinion several times: "
                "this judge answers the same whenever it is asked; set optimizer.votes to 1, or "
                "judge.principles, judge.temperature or judge.draw"
            )
        if self.run.votes is None and self.run.steps is None:
            raise ValueError("run.votes and run.steps are both None; give one of them to end on")
        if self.run.votes is not None and self.run.votes < self.votes_per_step:
            raise ValueError(
                f"run.votes {self.run.votes} is less than one step, which takes "
                f"{self.votes_per_step} (directions × comparisons × votes); give more, or ask less"
            )
        kind = self.coordinates
        if kind in SCORED and self.samples < 4 * self.dim:
            raise ValueError(
                f"subspace.samples {self.samples} is too few for subspace.dim {self.dim}; "
                f"give at least {4 * self.dim}"
            )
        if (self.features.add or self.features.drop) and kind != "features":
            raise ValueError(
                'features.add and features.drop go with subspace.kind "features" only; '
                f'it is "{kind}"'
            )
        if self.adapter.train == "AB" and kind != "full":
            raise ValueError(
                f'adapter.train "AB" goes with subspace.kind "full"; "{kind}" moves B only'
            )
        return self

    @model_validator(mode="after")
    def _optimizer_can_work(self) -> Self:
        """Refuse what the optimizer refuses whatever the layout of the coordinates."""
        try:
            self._make_settings(ONE_COORDINATE, 1.0, self.rule)
        except SettingsError as error:
            raise ValueError(error.rename(NAMES)) from None
        return self

    def demand_used(self) -> None:
        """Refuse settings of a new run that its rule would ignore.

        Raises:
            UsageError: one was changed that plays no part in the rule.
        """
        rule = RULES.get(self.optimizer.rule)
        if rule is not None and (names := self._list_changed(rule.ignores)):
            raise UsageError(
                f"settings: optimizer.{names[0]} plays no part in the rule {rule.name}; "
                "leave it out"
            )
        named = self.subspace.kind in ("features", "auto")
        if self.optimizer.asking_noise is not None and not named:
            raise UsageError(
                "settings: optimizer.asking_noise is for coordinates of named features; set "
                "subspace.kind to features, or leave it out"
            )

    def _list_changed(self, names: Iterable[str]) -> list[str]:
        """List the settings of the optimizer that are not as they are by default."""
        fields = Optimizer.model_fields
        return [name for name in names if getattr(self.optimizer, name) != fields[name].default]

    @cached_property
    def rule(self) -> str:
        """The rule that turns votes into steps.

        auto is `FIRST_RULE` in a subspace of few enough coordinates whose radius is not set, where
        all other settings are ones that it has; else `OTHER_RULE`.
        """
        chosen, space, own = self.optimizer.rule, self.subspace, RULES[FIRST_RULE]
        if chosen != "auto":
            return chosen
        small = space.kind != "full" and self.optimizer.mu is None
        few = space.dim == "auto" or space.dim <= POSTERIOR_DIM
        if not (small and few) or self._list_changed(own.ignores):
            return OTHER_RULE
        try:
            self._make_settings(ONE_COORDINATE, 1.0, own.name)
        except SettingsError:
            return OTHER_RULE
        return own.name

    def optimizer_settings(
        self, layout: Layout, scale: float, features: NamedFeatures | None = None
    ) -> Settings:
        """The optimizer's settings of a run in coordinates of this layout and scale.

        ``features``: what the coordinates were made of, where that is named features.

        Raises:
            UsageError: they do not fit together, or not the coordinates.
        """
        try:
            found = self._make_settings(layout, scale, self.rule)
            if features is not None and rule_of(found.rule).two_points:
                noise = self.optimizer.asking_noise or NOISE
                return replace(
                    found, features=features, asking_noise=noise, asking_temperature=TEMPERATURE
                )
            return found
        except SettingsError as error:
            raise UsageError(f"settings: {error.rename(NAMES)}") from None

    def _make_settings(self, layout: Layout, scale: float, rule: str) -> Settings:
        o = self.optimizer
        changes: dict[str, Any] = {}
        if o.law != "auto":
            plain = o.law == "orthonormal"
            changes["law"] = Law("orthonormal") if plain else Law(normalise=o.law == "normalised")
        if o.warmup is not None:
            changes["warmup"] = o.warmup
        elif self.subspace.kind == "random" and RULES[rule].measures:
            # Nothing is known of how far votes carry along random directions: α is measured.
            changes["warmup"] = 0 if o.alpha is not None else WARMUP
        if o.kl_budget is not None:
            points = () if o.kl_budget == "off" else o.kl_budget
            changes["kl_budget"] = tuple((at, nats) for at, nats in points) or None
        for name in ("centre_step", "score_share", "prior_variances", "guarded", "forgetting"):
            if (value := getattr(o, name)) is not None:
                changes[name] = value
        return defaults(
            self.run.root_seed, layout, rule=rule, pairing=o.pairing, K=o.directions,
            N=o.comparisons, M=o.votes, D=o.rows, mu=o.mu, alpha=o.alpha, mu_decay=o.mu_decay,
            alpha_decay=o.alpha_decay, link=o.link, smoothing=o.smoothing,
            ties=o.ties, weighting=o.weighting, kl_radius=o.kl_radius, kl_step=o.kl_step,
            scale=scale, **changes,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps after which the run ends: the explicit number, or what the votes pay for.

        A step that the votes left cannot pay whole is not begun; comparisons that are tied without
        asking cost nothing, so there may be a few steps more.
        """
        from_votes = None if self.run.votes is None else self.run.votes // self.votes_per_step
        both = [n for n in (self.run.steps, from_votes) if n is not None]
        return min(both)

    def is_spent(self, steps: int, votes: int) -> bool:
        """Whether the run's end is reached: no further step is due or can be paid whole."""
        by_steps = self.run.steps is not None and steps >= self.run.steps
        left = math.inf if self.run.votes is None else self.run.votes - votes
        return by_steps or left < self.votes_per_step

    def describe_end(self) -> str:
        """After what the run ends, such as "240 votes"."""
        both = ((self.run.votes, "votes"), (self.run.steps, "steps"))
        return " or ".join(f"{n:,} {what}" for n, what in both if n is not None)

    @property
    def coordinates(self) -> Coordinates:
        """The kind of the subspace.

        auto is features under `FIRST_RULE`, where it can use them and the answers of the set-up
        are not set to fewer than they need; else score.
        """
        chosen, o, samples = self.subspace.kind, self.optimizer, self.subspace.samples
        if chosen != "auto":
            return chosen
        others = o.score_share, o.prior_variances
        usual = self.rule == FIRST_RULE and self.adapter.train == "B" and not any(others)
        enough = samples is None or samples >= FEATURE_SAMPLES
        return "features" if usual and enough else "score"

    @property
    def samples(self) -> int:
        """Base answers of the set-up: as set, or by the kind of coordinates."""
        usual = FEATURE_SAMPLES if self.coordinates == "features" else SAMPLES
        return self.subspace.samples or usual

    @property
    def dim(self) -> int:
        """Number of coordinates d of a subspace: as set, or by the votes (see `choose_dim`)."""
        chosen = self.subspace.dim
        return choose_dim(self.steps * self.votes_per_step) if chosen == "auto" else chosen

    @property
    def words_per_vote(self) -> float:
        """Words of the answers that a vote reads at most: all rows, both sides, full length."""
        return 2 * self.optimizer.rows * self.generation.max_new_tokens * WORDS_PER_TOKEN

    @property
    def votes_per_step(self) -> int:
        """K · N · M."""
        return self.optimizer.directions * self.optimizer.comparisons * self.optimizer.votes


def choose_dim(votes: int) -> int:
    """Choose how many coordinates a number of votes can tell apart: a power of two, 4 to 64.

    A vote at a win rate of 75 % carries at most .13 nat (ln 2 less its entropy) on where to go,
    and the posterior of d coordinates needs a few nats each: one coordinate per thirty votes.
    Fewer coordinates are learned sooner, more reach further; the reward plays no part.

    >>> choose_dim(240), choose_dim(50), choose_dim(3000)
    (8, 4, 64)
    """
    return int(min(max(2 ** math.floor(math.log2(max(votes, 1) / 30)), 4), 64))
