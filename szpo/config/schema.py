"""All settings of a run, with types, bounds and descriptions.

`Config` holds all tables and the rules between them. The tables are in `szpo.config.optimizer` and
`szpo.config.tables`. ``szpo init`` writes the descriptions as comments.
`szpo.config.settings_file` reads files, presets and ``--set``; `szpo.runs.assemble` builds a run
from a `Config`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from szpo.config.optimizer import (
    FIRST_RULE,
    GUIDED,
    OTHER_RULE,
    RADIUS,
    REGRESSION_UP_TO_DIM,
    OnePoint,
    Regression,
    guided_step,
    place,
    tag_of,
)
from szpo.config.section import Section
from szpo.config.tables import (
    Adapter,
    Engine,
    Evaluation,
    Features,
    Generation,
    Guards,
    Improve,
    Judge,
    Model,
    Panel,
    Prompts,
    Run,
    Subspace,
)
from szpo.errors import UsageError
from szpo.features import described_taste
from szpo.optim.informative import NOISE
from szpo.optim.named_features import NamedFeatures, names_of, with_said
from szpo.optim.regression import BUDGET
from szpo.optim.settings import Settings
from szpo.types import Layout

WORDS_PER_TOKEN = 0.75
"""For English, with the tokenizers of small models."""
NAMED: Final = ("features", "adapters")
"""Kinds of coordinates that are made from scores of base answers: they say how named features of
the texts respond to them."""
SHEET_WORDS: Final = 300
"""Words of answers on a sheet, about 75 seconds of reading."""
KL_SAMPLES: Final = 96
"""Answers per pass that measures KL; passes repeat until the scale is known."""
RUBRIC_VERSION = 2
"""Version of the wording of question, guideline and choices; stored with each vote."""
Coordinates: TypeAlias = Literal["features", "adapters", "full", "none"]
FEATURE_SAMPLES: Final = 1024
"""Base answers of the set-up for coordinates of kind features."""
ADAPTER_SAMPLES: Final = 256
"""Base answers of the set-up for adapters as coordinates."""
CURVE_ANSWERS: Final = 8
"""Answers, each to another prompt, by which each point of an adapter's curve of KL is measured."""
FEWEST_SAMPLES: Final = 256
"""With fewer base answers, auto chooses neither features nor adapters: they are too inexact."""
SAMPLES: Final = 384
"""Base answers of the set-up for other kinds."""


class Config(Section):
    """A run's settings, with one attribute per table of the file."""

    run: Run = Run()
    model: Model = Model()
    adapter: Adapter = Adapter()
    subspace: Subspace = Subspace()
    features: Features = Features()
    panel: Panel = Panel()
    optimizer: Annotated[
        Annotated[OnePoint, Tag("known")] | Annotated[Regression, Tag("regression")],
        Discriminator(
            lambda given: tag_of(given["rule"] if isinstance(given, dict) else given.rule)
        ),
    ] = Field(default_factory=dict, validate_default=True)
    judge: Judge = Judge()
    prompts: Prompts = Prompts()
    generation: Generation = Generation()
    engine: Engine = Engine()
    guards: Guards = Guards()
    improve: Improve = Improve()
    evaluation: Evaluation = Evaluation()

    @field_validator("optimizer", mode="before")
    @classmethod
    def _settle_rule(cls, given: Any, info: ValidationInfo) -> Any:
        """Choose the rule of auto, and fill in what depends on panel and coordinates."""
        if isinstance(given, Section):
            return given
        if not isinstance(given, dict):
            raise ValueError("must be a table: write [optimizer] and its keys below")
        space = info.data.get("subspace", Subspace())
        keys = {"rule": "auto", **given}
        if keys["rule"] == "auto":
            few = space.dim == "auto" or space.dim <= REGRESSION_UP_TO_DIM
            small = space.kind != "full" and few and keys.get("mu") is None
            able = all(name in Regression.model_fields or v is None for name, v in given.items())
            keys["rule"] = FIRST_RULE if small and able else OTHER_RULE
        try:
            tag_of(keys["rule"])
        except UsageError as error:
            raise ValueError(str(error)) from None
        if space.adapters:
            keys.setdefault("kl_radius", RADIUS["adapters"])
        whole = space.kind in ("auto", "full") and not space.adapters
        if tag_of(keys["rule"]) == "known" and whole and keys.get("pairing") != "forward":
            keys.setdefault("guided", GUIDED)
            if keys["guided"]:
                keys.setdefault("kl_step", guided_step(keys["rule"]))
                keys.setdefault("kl_budget", BUDGET)
        return keys

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        o, kind = self.optimizer, self.coordinates
        alike = self.panel.kind == "judge" and self.judge.same_each_time
        voters = 1 if alike else self.panel.size
        if self.panel.kind != "people" and voters < o.M:
            raise ValueError(
                f"optimizer.M {o.M} needs {o.M} panelists; "
                + (
                    "this judge answers the same whenever it is asked: set optimizer.M to 1, or "
                    "judge.principles or judge.decide"
                    if alike
                    else f"panel.size is {voters}"
                )
            )
        if self.run.votes < self.votes_per_step:
            raise ValueError(
                f"run.votes {self.run.votes} is less than one step, which takes "
                f"{self.votes_per_step} (optimizer.K × N × M); raise "
                "run.votes, or lower one of these"
            )
        goes = {
            "full": (not self.regresses, "another optimizer.rule than regression"),
            "none": (
                self.picks_pairs and self.engine.is_local,
                "optimizer.rule regression, optimizer.D 1 and a model in this process "
                '(engine.kind "local")',
            ),
            "adapters": (bool(self.subspace.adapters), "subspace.adapters: LoRAs of this model"),
        }.get(kind, (not self.subspace.adapters, "no subspace.adapters"))
        if not goes[0]:
            raise ValueError(f'subspace.kind "{kind}" goes with {goes[1]}')
        if kind in NAMED and self.samples < 4 * self.dim:
            raise ValueError(
                f"subspace.samples {self.samples} is too few for subspace.dim {self.dim}; "
                f"give at least {4 * self.dim}"
            )
        asked = self.features
        if asked.prior and not (kind == "none" and self.regresses and asked.layer != 0):
            raise ValueError(
                "features.prior goes with hidden states: subspace.kind none and features.layer "
                "above 0"
            )
        named = kind in (*NAMED, "none") and (self.regresses or not asked.said)
        if (asked.add or asked.drop) and not named:
            raise ValueError(
                "features.add and features.drop go with subspace.kind features, adapters or none "
                f'(here it is "{kind}"; features needs {FEWEST_SAMPLES} subspace.samples), and '
                "say: with optimizer.rule regression"
            )
        return self

    def require_used(self) -> None:
        """Refuse settings of a new run that would be ignored."""
        mine = next((n for n, v in Adapter() if v != getattr(self.adapter, n)), None)
        if self.coordinates == "adapters" and mine is not None:
            raise UsageError(
                f"settings: adapter.{mine} plays no part where subspace.adapters are the "
                "coordinates, which have their own; leave it out"
            )

    @property
    def regresses(self) -> bool:
        """Whether the rule fits all votes and recommends another point than it asks around."""
        return isinstance(self.optimizer, Regression)

    def with_said(self, features: NamedFeatures) -> NamedFeatures:
        """The features, of which some are named in a person's words (`Features.said`)."""
        if not self.features.said:
            return features
        named, _ = described_taste.read(self.features.said, names_of(features))
        return with_said(features, named)

    def optimizer_settings(
        self,
        layout: Layout,
        scale: float,
        features: NamedFeatures | None = None,
        *,
        guides: bool = True,
    ) -> Settings:
        """The optimizer's settings for a run in coordinates of this layout and scale.

        ``features``: the named features that the coordinates were made from, if any. ``guides``:
        the policy has gradients that can guide its directions.
        """
        o, facts = self.optimizer, dict[str, Any](scale=scale)
        if isinstance(o, OnePoint) and not (guides and self.engine.is_local):
            usual = OnePoint.model_fields["kl_step"].default
            step = usual if o.guided and o.kl_step == guided_step(o.rule) else o.kl_step
            budget = "off" if o.guided and o.kl_budget == BUDGET else o.kl_budget
            o = o.model_copy(update={"guided": 0.0, "kl_step": step, "kl_budget": budget})
        if features is not None and self.regresses:
            facts["features"] = features = self.with_said(features)
            if o.D > 1 or features.coordinates:  # otherwise no policy is perturbed
                facts["asking_noise"] = NOISE
        return place(o, self.run.root_seed, layout, **facts)

    @property
    def steps(self) -> int:
        """As many steps as run.votes pays for.

        A step is begun only if the votes left pay for all of it. Comparisons of identical batches
        cost no votes, so there may be a few more steps.
        """
        return self.run.votes // self.votes_per_step

    @property
    def measured_along(self) -> int:
        """How often the policy is measured during the run: never while people wait."""
        return 0 if self.panel.kind == "people" or self.steps < 5 else 3

    def is_spent(self, votes: int) -> bool:
        """Whether the run has ended: too few votes are left for another step."""
        return self.run.votes - votes < self.votes_per_step

    @property
    def coordinates(self) -> Coordinates:
        """The kind of the subspace, with auto resolved.

        auto is adapters if some are given or `szpo.policies.subspace_setup.take_set` found a set
        for the model; full under rules that move the point they ask around; features under the
        others, but none where a run of votes on rows has fewer than `FEWEST_SAMPLES` answers.
        """
        chosen = self.subspace.kind
        if chosen != "auto":
            return chosen
        if self.subspace.adapters:
            return "adapters"
        if not self.regresses:
            return "full"
        explained = self.asks_rows and self.engine.is_local
        return "none" if explained and not self._samples_are_enough else "features"

    @property
    def _samples_are_enough(self) -> bool:
        samples = self.subspace.samples
        return samples is None or samples >= FEWEST_SAMPLES

    @property
    def may_take_adapters(self) -> bool:
        """Whether auto is adapters if their model has a set, as no setting shapes others."""
        space, o, usual = self.subspace, self.optimizer, Subspace()
        if space.kind != "auto" or space.adapters or (self.regresses and o.rule != FIRST_RULE):
            return False
        plain = (space.dim, self.adapter) == (usual.dim, Adapter())
        return plain and o.mu is None and self._samples_are_enough

    def in_adapters(self, entries: Sequence[str]) -> Self:
        """These settings with the weights of adapters as coordinates, and their own radius."""
        tree = self.model_dump(exclude_unset=True)
        tree.setdefault("subspace", {})["adapters"] = [*entries]
        usual = type(self.optimizer).model_fields["kl_radius"].default
        if self.optimizer.kl_radius == usual:  # as `szpo init --all` writes it
            tree.get("optimizer", {}).pop("kl_radius", None)
        if (own := tree.get("optimizer", {})).pop("guided", 0):
            step = guided_step(self.optimizer.rule)
            for name, value in (("kl_step", step), ("kl_budget", BUDGET)):
                if own.get(name) == value:
                    del own[name]
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
    def guides(self) -> bool:
        """Whether directions are guided; see `szpo.optim.guided_directions`."""
        o = self.optimizer
        whole = self.coordinates == "full" and self.engine.is_local
        return isinstance(o, OnePoint) and o.guided > 0 and whole

    @property
    def improves(self) -> bool:
        """Whether the policy is improved in the run.

        That needs fits of named features, and gradients of a model in this process.
        """
        fits = self.regresses and self.coordinates in (*NAMED, "none")
        return self.improve.nats is not None and fits and self.engine.kind == "local"

    @property
    def asks_rows(self) -> bool:
        """Whether each verdict is on a single row, so that a panelist sees a sheet of them."""
        return self.optimizer.D == 1

    @property
    def picks_pairs(self) -> bool:
        """Whether rows are chosen pairs of answers; see `Settings.picks_pairs`."""
        fits_texts = self.coordinates in (*NAMED, "none")
        return self.regresses and fits_texts and self.asks_rows

    @property
    def shows_own(self) -> bool:
        """Whether all rows are pairs of the policy's own answers; see `Settings.own_share`."""
        return self.picks_pairs and self.coordinates != "adapters"

    @property
    def sheet(self) -> int:
        """Rows that a panelist sees at once: as set, or a minute's reading; 1 for batches."""
        if not self.asks_rows:
            return 1
        return self.panel.sheet or max(1, min(8, round(SHEET_WORDS / self.words_per_vote)))

    @property
    def words_per_vote(self) -> float:
        """Most words of answers to read for a vote: all rows, both sides, full length."""
        return 2 * self.optimizer.D * self.generation.max_new_tokens * WORDS_PER_TOKEN

    @property
    def votes_per_step(self) -> int:
        """K · N · M: directions × comparisons × panelists."""
        return self.optimizer.K * self.optimizer.N * self.optimizer.M


def choose_dim(votes: int) -> int:
    """Choose how many coordinates a number of votes can resolve: a power of two, 4 to 64.

    A vote at a win rate of 75 % carries at most .13 nat of information (ln 2 minus its entropy),
    and the posterior needs a few nats per coordinate: so one coordinate per thirty votes. Fewer
    coordinates are learned sooner, more reach further; the reward plays no part.

    >>> choose_dim(240), choose_dim(50), choose_dim(3000)
    (8, 4, 64)
    """
    return int(min(max(2 ** math.floor(math.log2(max(votes, 1) / 30)), 4), 64))
