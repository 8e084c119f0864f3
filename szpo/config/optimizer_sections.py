"""The settings of a step: what is asked, how votes are weighed, how far the step goes."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from szpo.aggregation.bradley_terry import Ties
from szpo.aggregation.links import LINKS
from szpo.aggregation.registry import LEARNED, WEIGHTINGS
from szpo.config import rule_plugins
from szpo.config.section import Count, OneOf, Positive, Section, list_names
from szpo.optim.checked_settings import POSTERIOR_DIM
from szpo.optim.posterior_directions import NOISE
from szpo.optim.rules.all_votes import PRIORS
from szpo.optim.rules.registry import RULES
from szpo.optim.rules.regression import BUDGET, RADIUS
from szpo.optim.sample_directions import NORMALISE_UP_TO
from szpo.optim.settings import SMOOTHINGS
from szpo.types import Pairing

FLOAT32_MAX = 3.4028234663852886e38
LINK_NAMES = (*LINKS, "linear")
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
LAWS = ("gaussian", "normalised", "orthonormal")


class Optimizer(Section):
    """The zeroth-order optimizer: how comparisons are made and how votes move the weights."""

    rule: Annotated[str, OneOf(("auto", *RULES), rule_plugins.GROUP)] = Field(
        "auto",
        description=f"{list_names(list(RULES))}, or one of another package; auto: regression "
        f"in a subspace of up to {POSTERIOR_DIM} coordinates, where it has all that is set; "
        "known elsewhere.",
    )
    law: Annotated[str, OneOf(("auto", *LAWS))] = Field(
        "auto",
        description="How directions are drawn: gaussian; normalised, to one length; orthonormal, "
        "to each other too; auto: orthonormal under regression, otherwise normalised up to "
        f"{NORMALISE_UP_TO} coordinates and gaussian above.",
    )
    pairing: Pairing = Field(
        "antithetic", description="Compare θ+μv with θ−μv, or with θ as published (forward)."
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
    rows: Count = Field(8, description="D: prompts shown side by side in one comparison.")
    kl_radius: Positive = Field(
        1.62,
        le=1e6,
        description="κ: KL of one side from the centre, nats; makes μ = √(2κ/d); default: "
        f"{RADIUS:g} under regression, otherwise 1.62.",
    )
    kl_step: Positive = Field(
        0.03, le=1e6, description="κ_step: KL of one expected step, nats; makes the step size."
    )
    mu: Positive | None = Field(
        None, le=1e6, description="Perturbation radius μ, instead of kl_radius."
    )
    alpha: Positive | None = Field(None, description="Step size α, instead of kl_step.")
    mu_decay: Decay = Field(
        0.0,
        description="p: μ falls with the step t = 1, 2, … as t to the power −p, to a hundredth of "
        "its start at the least; 0: constant.",
    )
    alpha_decay: Decay = Field(
        0.0, description="q: α falls with the step as t to the power −q; see mu_decay."
    )
    warmup: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Steps that only measure; default: 0, or 5 where α must be measured."
    )
    link: Annotated[str, OneOf(LINK_NAMES)] = Field(
        "logistic", description=f"{list_names(LINK_NAMES)}."
    )
    smoothing: Annotated[str, OneOf(SMOOTHINGS)] = Field(
        "haldane", description="How the rule known moves a vote share of 0 or 1 inside (0, 1)."
    )
    ties: Ties = Field(
        "half", description="A tie is half a vote each, or goes through Davidson's model."
    )
    weighting: Annotated[str, OneOf(WEIGHTINGS)] = Field(
        "equal",
        description="How much each voter counts: equal; or learned from agreement with the "
        f"rest: {list_names(list(LEARNED))}.",
    )

    kl_budget: (
        list[Annotated[list[Positive], Field(min_length=2, max_length=2)]] | Literal["off"] | None
    ) = Field(
        None,
        description="regression: how far the recommended point may be from the start, as [[votes, "
        "nats], ...], linear between and constant outside; off: without bound; default: "
        f"{[list(point) for point in BUDGET]}.",
    )
    centre_step: Positive | None = Field(
        None,
        le=1e6,
        description="regression: longest move of the centre (where policies are asked) in a "
        "step, in whitened units; default: 1.",
    )
    score_share: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="regression: weight of the shown texts' own scores in a vote's feature; "
        "default: 0.",
    )
    asking_noise: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="regression in coordinates of named features: share of chance in a direction "
        "that is asked, the rest follows what the votes so far may be about; 1: chance alone; "
        f"default: {NOISE:g}.",
    )
    prior_variances: Annotated[str, OneOf(tuple(PRIORS))] | None = Field(
        None,
        description="regression: which coordinates are expected to carry the taste: the first "
        "8, 16, 32, … or all, as votes decide (blocks); all equally (flat); "
        "leading ones more (falling); default: blocks.",
    )
    forgetting: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="regression: λ, the weight of a vote one step older, for a taste that turns; "
        "default: votes keep their weight.",
    )
    prior: str | None = Field(
        None,
        min_length=1,
        description="regression: begin with the preferences of a run's .db or of a preference "
        "file (.jsonl, .jsonl.gz, .json), or with good answers, each preferred to the base's own; "
        "they make some features likelier or, on other coordinates, weigh at most 20 votes at the "
        "start, and later as much as votes confirm them.",
    )
    guarded: bool | None = Field(
        None,
        description="regression: limit the recommended point to where the guards of fluency, "
        "length and topic are predicted to hold, from the base's own answers; "
        "default: true.",
    )

    @model_validator(mode="after")
    def _step_fits_fp32(self) -> Self:
        # 2·log(2·4096+1) bounds every Δ̂ that votes can give; the normal table ends at 4.33.
        if self.alpha is not None and self.alpha * 4.33 * 2 * math.log(8193) > FLOAT32_MAX:
            raise ValueError(f"alpha × Δ̂ × v would exceed fp32 range (alpha = {self.alpha:g})")
        return self
