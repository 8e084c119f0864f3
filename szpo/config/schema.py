"""All settings of a run, with types, bounds and descriptions.

`Config` holds all tables and the rules between them. Tables other than the optimizer's are in
`szpo.config.model_sections`, `run_sections`, `engine` and `judge`. ``szpo init`` writes the
descriptions as comments. The optimizer's `Settings` are made here, and refused if its rule cannot
work with them. `szpo.config.settings_file` reads files, presets and ``--set``;
`szpo.runs.assemble` builds a run from a `Config`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, PrivateAttr, model_validator

from szpo.aggregation.links import LINKS
from szpo.aggregation.registry import LEARNED, WEIGHTINGS
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
from szpo.config.run_sections import (
    Evaluation,
    Guards,
    Improve,
    Panel,
    Run,
)
from szpo.config.section import Count, OneOf, Positive, Section, list_names
from szpo.errors import UsageError
from szpo.optim.checked_settings import REGRESSION_UP_TO_DIM, WARMUP, defaults
from szpo.optim.named_features import NamedFeatures, fitted_on
from szpo.optim.posterior_directions import NOISE
from szpo.optim.rules.registry import RULES
from szpo.optim.rules.regression import BUDGET, RADIUS
from szpo.optim.sample_directions import NORMALISE_UP_TO, Law
from szpo.optim.settings import SMOOTHINGS, Settings, SettingsError
from szpo.types import Layout, Pairing

WORDS_PER_TOKEN = 0.75
"""For English, with the tokenizers of small models."""
NAMED: Final = ("features", "adapters")
"""Kinds of coordinates that say how named features of the texts respond to them."""
SCORED: Final = ("score", *NAMED)
"""Kinds of coordinates that are made from scores of base answers."""
SHEET_WORDS: Final = 300
"""Words of answers on a sheet, about 75 seconds of reading."""
KL_SAMPLES: Final = 96
"""Answers per pass that measures KL; passes repeat until the scale is known."""
RUBRIC_VERSION = 1
"""Version of the wording of question, guideline and choices; stored with each vote."""
ONE_COORDINATE: Final[Layout] = (("z", (1,)),)
"""The smallest layout, for checks before the coordinates are known."""
Coordinates: TypeAlias = Literal["score", "features", "adapters", "random", "full", "none"]
FEATURE_SAMPLES: Final = 1024
"""Base answers of the set-up for coordinates of kind features."""
ADAPTER_SAMPLES: Final = 256
"""Base answers of the set-up for adapters as coordinates."""
CURVE_ANSWERS: Final = 8
"""Answers, each to another prompt, by which each point of an adapter's curve of KL is measured."""
ADAPTER_RADIUS: Final = 2.0
"""Nats of a side from the centre for adapters as coordinates, which carry far."""
FEWEST_SAMPLES: Final = 256
"""With fewer base answers, auto does not choose features, since they are too inexact."""
SAMPLES: Final = 384
"""Base answers of the set-up for other kinds."""
FIRST_RULE: Final = "regression"
"""The rule that auto chooses where it can work."""
OTHER_RULE: Final = "known"
"""The rule that auto chooses elsewhere."""


FLOAT32_MAX = 3.4028234663852886e38
LINK_NAMES = (*LINKS, "linear")
LAWS = ("gaussian", "normalised", "orthonormal")


class Optimizer(Section):
    """The zeroth-order optimizer: how comparisons are made and how votes move the model."""

    rule: Annotated[str, OneOf(("auto", *RULES), rule_plugins.GROUP)] = Field(
        "auto",
        description=f"How votes move the weights: {list_names(list(RULES))}, or a rule of another "
        f"package; auto: regression in a subspace of up to {REGRESSION_UP_TO_DIM} coordinates, if "
        "it uses every optimizer setting that you changed; otherwise known.",
    )
    law: Annotated[str, OneOf(("auto", *LAWS))] = Field(
        "auto",
        description="How directions are drawn: gaussian; normalised: all of one length; "
        "orthonormal: orthogonal to each other too; auto: orthonormal under regression, "
        f"otherwise normalised up to {NORMALISE_UP_TO} coordinates and gaussian above.",
    )
    pairing: Pairing = Field(
        "antithetic",
        description="antithetic: compare θ+μv with θ−μv; forward: with θ, as published.",
    )
    directions: Count = Field(
        1, description="K: directions per step; default: 8 under regression, otherwise 1."
    )
    comparisons: Count = Field(
        8,
        description="N: comparisons per direction, each on its own prompts; default: 1 under "
        "regression, otherwise 8.",
    )
    votes: Count = Field(1, description="M: panelists (votes) per comparison.")
    rows: Count = Field(
        8, description="D: prompts of a comparison if panel.verdict is batch; otherwise 1."
    )
    kl_radius: Positive = Field(
        1.62,
        le=1e6,
        description="κ: KL of each side from the centre, in nats; it sets μ = √(2κ/d); default: "
        f"{ADAPTER_RADIUS:g} for adapters, {RADIUS:g} under regression, otherwise 1.62.",
    )
    kl_step: Positive = Field(
        0.03, le=1e6, description="κ_step: KL of one expected step, nats; sets the step size."
    )
    mu: Positive | None = Field(
        None, le=1e6, description="Perturbation radius μ, instead of kl_radius."
    )
    alpha: Positive | None = Field(None, description="Step size α, instead of kl_step.")
    warmup: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="First steps, which only measure; default: 0, or 5 to measure α."
    )
    link: Annotated[str, OneOf(LINK_NAMES)] = Field(
        "logistic", description=f"{list_names(LINK_NAMES)}."
    )
    smoothing: Annotated[str, OneOf(SMOOTHINGS)] = Field(
        "haldane", description="How the rule known moves a vote share of 0 or 1 into (0, 1)."
    )
    weighting: Annotated[str, OneOf(WEIGHTINGS)] = Field(
        "equal",
        description="How much each voter counts: equal; or learned from agreement with the other "
        f"voters: {list_names(list(LEARNED))}.",
    )

    kl_budget: Positive | Literal["off"] | None = Field(
        None,
        description="regression: highest KL of the recommended point from the start, in nats; "
        f"off: no limit; default: {BUDGET:g}.",
    )
    score_share: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="regression: weight of the shown texts, not of how the two policies differ, "
        "in what a vote is fitted on: of their scores, by default 0; with adapters of their "
        "features, 1 or 0, by default both.",
    )
    prior: str | None = Field(
        None,
        min_length=1,
        description="regression: a run's .db whose votes count in full as this run's own; model, "
        "prompts and coordinates must be the same.",
    )
    guarded: bool | None = Field(
        None,
        description="regression: keep the recommended point where the guards of fluency, length "
        "and topic are predicted to hold, judging by the base's own answers; default: true.",
    )

    @model_validator(mode="after")
    def _step_fits_fp32(self) -> Self:
        # 2·log(2·4096+1) bounds every Δ̂ that votes can give; the normal table ends at 4.33.
        if self.alpha is not None and self.alpha * 4.33 * 2 * math.log(8193) > FLOAT32_MAX:
            raise ValueError(
                f"alpha {self.alpha:g} is too large: a step would exceed fp32; lower it"
            )
        return self


class Config(Section):
    """A run's settings, with one attribute per table of the file."""

    run: Run = Run()
    model: Model = Model()
    adapter: Adapter = Adapter()
    subspace: Subspace = Subspace()
    features: Features = Features()
    optimizer: Optimizer = Optimizer()
    panel: Panel = Panel()
    judge: Judge = Judge()
    prompts: Prompts = Prompts()
    generation: Generation = Generation()
    engine: Engine = Engine()
    guards: Guards = Guards()
    improve: Improve = Improve()
    evaluation: Evaluation = Evaluation()

    _rule: str = PrivateAttr(OTHER_RULE)

    @model_validator(mode="after")
    def _settle_rule(self) -> Self:
        """Choose the rule, fill in its defaults, and refuse settings that it cannot work with.

        After this, only the run's own coordinates can make the optimizer's settings invalid.
        """
        given, auto = self.optimizer, self.optimizer.rule == "auto"
        rule = FIRST_RULE if auto and self._suits_first_rule() else given.rule
        try:
            self._take_rule(OTHER_RULE if rule == "auto" else rule, given)
        except SettingsError as error:
            if not (auto and rule == FIRST_RULE):
                raise ValueError(f"optimizer: {error}") from None
            self._take_rule(OTHER_RULE, given)
        return self

    def _take_rule(self, name: str, given: Optimizer) -> None:
        """Use the rule's own defaults for directions, comparisons and radius that are not set."""
        own = rule_plugins.find(name)
        names = {"directions": "K", "comparisons": "N", "kl_radius": "kl_radius"}
        usual = {
            setting: own.defaults[key]
            for setting, key in names.items()
            if own and key in own.defaults and setting not in given.model_fields_set
        }
        if self.coordinates == "adapters" and "kl_radius" not in given.model_fields_set:
            usual["kl_radius"] = ADAPTER_RADIUS
        self._rule = name
        if self._judges_rows(given):
            usual["rows"] = 1
        object.__setattr__(self, "optimizer", given.model_copy(update=usual))
        self._make_settings(ONE_COORDINATE, 1.0)

    def _judges_rows(self, given: Optimizer) -> bool:
        """Whether each verdict is on a single row."""
        chosen, batches = self.panel.verdict, "rows" in given.model_fields_set
        if chosen is None:
            return self._rule == FIRST_RULE and not batches
        if chosen == "rows" and batches and given.rows != 1:
            raise ValueError(
                f"optimizer.rows {given.rows} belongs to batches, and panel.verdict is rows; "
                "leave one of them out"
            )
        return chosen == "rows"

    def _suits_first_rule(self) -> bool:
        """Whether the subspace is small, and no setting is one that `FIRST_RULE` ignores."""
        space = self.subspace
        small = space.kind != "full" and self.optimizer.mu is None
        few = space.dim == "auto" or space.dim <= REGRESSION_UP_TO_DIM
        return small and few and not self._list_changed(RULES[FIRST_RULE].ignores)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.coordinates == "adapters" and self.optimizer.score_share not in (None, 0, 1):
            raise ValueError(
                f"optimizer.score_share is {self.optimizer.score_share:g}; with adapters it is 0 "
                "(how policies differ alone), 1 (texts alone), or left out (both)"
            )
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
                "judge.principles, judge.temperature or judge.decide"
            )
        if self.run.votes is None and self.run.steps is None:
            raise ValueError(
                "run.votes and run.steps are both unset; set one, or the run never ends"
            )
        if self.run.votes is not None and self.run.votes < self.votes_per_step:
            raise ValueError(
                f"run.votes {self.run.votes} is less than one step, which takes "
                f"{self.votes_per_step} (optimizer.directions × comparisons × votes); raise "
                "run.votes, or lower one of these"
            )
        kind = self.coordinates
        if kind in SCORED and self.samples < 4 * self.dim:
            raise ValueError(
                f"subspace.samples {self.samples} is too few for subspace.dim {self.dim}; "
                f"give at least {4 * self.dim}"
            )
        if (kind == "adapters") != bool(self.subspace.adapters):
            raise ValueError(
                f'subspace.adapters goes with subspace.kind "adapters", here it is "{kind}"'
                if self.subspace.adapters
                else 'subspace.kind "adapters" needs subspace.adapters: LoRAs of this model'
            )
        if (self.features.add or self.features.drop) and kind not in (*NAMED, "none"):
            raise ValueError(
                'features.add and features.drop go with subspace.kind "features", here it is '
                f'"{kind}"; set it, and subspace.samples to {FEWEST_SAMPLES} or more'
            )
        if kind == "none" and not (self.picks_pairs and self.engine.is_local):
            raise ValueError(
                'subspace.kind "none" explains verdicts on rows: it goes with optimizer.rule '
                'regression, panel.verdict rows and a model in this process (engine.kind "local")'
            )
        if self.adapter.train == "AB" and kind != "full":
            raise ValueError(
                f'adapter.train "AB" goes with subspace.kind "full"; "{kind}" moves B only'
            )
        return self

    def require_used(self) -> None:
        """Refuse settings of a new run that its rule would ignore."""
        rule = RULES.get(self.optimizer.rule)
        if rule is not None and (names := self._list_changed(rule.ignores)):
            raise UsageError(
                f"settings: optimizer.{names[0]} plays no part in the rule {rule.name}; "
                "leave it out"
            )
        mine = next((n for n, v in Adapter() if v != getattr(self.adapter, n)), None)
        if self.coordinates == "adapters" and mine is not None:
            raise UsageError(
                f"settings: adapter.{mine} plays no part where subspace.adapters are the "
                "coordinates, which have their own; leave it out"
            )

    def _list_changed(self, names: Iterable[str]) -> list[str]:
        """List those of the optimizer's settings that differ from their defaults."""
        fields = Optimizer.model_fields
        return [name for name in names if getattr(self.optimizer, name) != fields[name].default]

    @property
    def rule(self) -> str:
        """The name of the rule that turns votes into steps.

        auto is `FIRST_RULE` if the subspace is small enough, optimizer.mu is not set and the rule
        uses every changed setting; else `OTHER_RULE`.
        """
        return self._rule

    def optimizer_settings(
        self, layout: Layout, scale: float, features: NamedFeatures | None = None
    ) -> Settings:
        """The optimizer's settings for a run in coordinates of this layout and scale.

        ``features``: the named features that the coordinates were made from, if any.
        """
        try:
            return self._make_settings(layout, scale, features)
        except SettingsError as error:
            raise UsageError(f"settings: optimizer: {error}") from None

    def _make_settings(
        self, layout: Layout, scale: float, features: NamedFeatures | None = None
    ) -> Settings:
        o, rule = self.optimizer, RULES.get(self.rule)
        changes: dict[str, Any] = {}
        if o.law != "auto":
            plain = o.law == "orthonormal"
            changes["law"] = Law("orthonormal") if plain else Law(normalise=o.law == "normalised")
        if o.warmup is not None:
            changes["warmup"] = o.warmup
        elif self.subspace.kind == "random" and rule and rule.can_warm_up:
            # How much votes change along random directions is not known, so α is measured.
            changes["warmup"] = 0 if o.alpha is not None else WARMUP
        if o.kl_budget is not None:
            changes["kl_budget"] = None if o.kl_budget == "off" else o.kl_budget
        for name in ("score_share", "guarded"):
            if (value := getattr(o, name)) is not None:
                changes[name] = value
        if features is not None and rule and rule.two_points:
            if features.coordinates:
                features = fitted_on(features, changes.pop("score_share", None))
            changes["features"] = features
            if o.rows > 1 or features.coordinates:  # otherwise no policy is perturbed
                changes["asking_noise"] = NOISE
        return defaults(
            self.run.root_seed, layout, rule=self.rule, pairing=o.pairing, K=o.directions,
            N=o.comparisons, M=o.votes, D=o.rows, mu=o.mu, alpha=o.alpha, link=o.link,
            smoothing=o.smoothing, weighting=o.weighting, kl_radius=o.kl_radius,
            kl_step=o.kl_step, scale=scale, **changes,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps after which the run ends: run.steps, or as many as run.votes pays for.

        A step is begun only if the votes left pay for all of it. Comparisons of identical batches
        cost no votes, so there may be a few more steps.
        """
        from_votes = None if self.run.votes is None else self.run.votes // self.votes_per_step
        both = [n for n in (self.run.steps, from_votes) if n is not None]
        return min(both)

    def is_spent(self, steps: int, votes: int) -> bool:
        """Whether the run has ended: no steps are left, or too few votes for another one."""
        by_steps = self.run.steps is not None and steps >= self.run.steps
        left = math.inf if self.run.votes is None else self.run.votes - votes
        return by_steps or left < self.votes_per_step

    def describe_end(self) -> str:
        """When the run ends, such as "240 votes"."""
        both = ((self.run.votes, "votes"), (self.run.steps, "steps"))
        return " or ".join(f"{n:,} {what}" for n, what in both if n is not None)

    @property
    def coordinates(self) -> Coordinates:
        """The kind of the subspace, with auto resolved.

        auto is adapters if some are given or `szpo.policies.subspace_cache.take_set` found a set
        for the model; features under `FIRST_RULE` if no other setting
        excludes them and the set-up has at least `FEWEST_SAMPLES` answers; else score.
        """
        chosen, o, samples = self.subspace.kind, self.optimizer, self.subspace.samples
        if chosen != "auto":
            return chosen
        if self.subspace.adapters:
            return "adapters"
        usual = self.rule == FIRST_RULE and self.adapter.train == "B" and not o.score_share
        enough = samples is None or samples >= FEWEST_SAMPLES
        return "features" if usual and enough else "score"

    @property
    def may_take_adapters(self) -> bool:
        """Whether auto is adapters if their model has a set, as no setting shapes features."""
        plain = self.subspace.dim == Subspace().dim and self.adapter == Adapter()
        return self.subspace.kind == "auto" and self.coordinates == "features" and plain

    def in_adapters(self, entries: Sequence[str]) -> Self:
        """These settings with the weights of adapters as coordinates, and their own radius."""
        tree = self.model_dump(exclude_unset=True)
        tree.setdefault("subspace", {})["adapters"] = [*entries]
        if self.optimizer.kl_radius == RADIUS:
            tree.get("optimizer", {}).pop("kl_radius", None)
        return self.model_validate(tree)

    @property
    def samples(self) -> int:
        """Base answers of the set-up: as set, or by default for the kind of coordinates."""
        usual = {"features": FEATURE_SAMPLES, "adapters": ADAPTER_SAMPLES}
        return self.subspace.samples or usual.get(self.coordinates, SAMPLES)

    @property
    def dim(self) -> int:
        """Number of coordinates d of a subspace: as set, or from the votes (see `choose_dim`).

        For adapters the number of entries; a set among them has more.
        """
        if self.coordinates == "adapters":
            return max(2, len(self.subspace.adapters))
        chosen = self.subspace.dim
        return choose_dim(self.steps * self.votes_per_step) if chosen == "auto" else chosen

    @property
    def way(self) -> str:
        """`improve.way`, with auto resolved: no gradients where the engine only generates."""
        generates = self.engine.kind != "local" or self.model.quantization is not None
        usual = "zeroth" if generates else "natural"
        return usual if self.improve.way == "auto" else self.improve.way

    @property
    def asks_rows(self) -> bool:
        """Whether each verdict is on a single row, so that a panelist sees a sheet of them."""
        return self.optimizer.rows == 1

    @property
    def picks_pairs(self) -> bool:
        """Whether rows are chosen pairs of answers; see `Settings.picks_pairs`."""
        rule = RULES.get(self.rule)
        fits_texts = self.coordinates in (*NAMED, "none")
        return rule is not None and rule.two_points and fits_texts and self.asks_rows

    @property
    def shows_own(self) -> bool:
        """Whether all rows are pairs of the policy's own answers; see `Settings.own_share`."""
        return self.picks_pairs and self.coordinates == "features"

    @property
    def sheet(self) -> int:
        """Rows that a panelist sees at once: as set, or a minute's reading; 1 for batches."""
        if not self.asks_rows:
            return 1
        return self.panel.sheet or max(1, min(8, round(SHEET_WORDS / self.words_per_vote)))

    @property
    def words_per_vote(self) -> float:
        """Most words of answers to read for a vote: all rows, both sides, full length."""
        return 2 * self.optimizer.rows * self.generation.max_new_tokens * WORDS_PER_TOKEN

    @property
    def votes_per_step(self) -> int:
        """K · N · M: directions × comparisons × votes."""
        return self.optimizer.directions * self.optimizer.comparisons * self.optimizer.votes


def choose_dim(votes: int) -> int:
    """Choose how many coordinates a number of votes can resolve: a power of two, 4 to 64.

    A vote at a win rate of 75 % carries at most .13 nat of information (ln 2 minus its entropy),
    and the posterior needs a few nats per coordinate: so one coordinate per thirty votes. Fewer
    coordinates are learned sooner, more reach further; the reward plays no part.

    >>> choose_dim(240), choose_dim(50), choose_dim(3000)
    (8, 4, 64)
    """
    return int(min(max(2 ** math.floor(math.log2(max(votes, 1) / 30)), 4), 64))
