"""The settings of all gradient methods, and their changes from a command line.

Here, so that a wrong one is refused before a tensor library is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from szpo.baselines import NAMES
from szpo.config.section import Section, describe
from szpo.errors import UsageError

Count: TypeAlias = Annotated[int, Field(ge=1)]
Group: TypeAlias = Annotated[int, Field(ge=2)]
"""Number of answers to one prompt that are compared with each other."""
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
"""Weight of a term of the loss."""
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Epochs: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Schedule: TypeAlias = Literal[
    "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup",
    "inverse_sqrt",
]  # fmt: skip
"""Learning-rate schedules of transformers that need no further parameters."""
DpoLoss: TypeAlias = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair",
    "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip
"""The losses of TRL's DPOTrainer."""
NOTEBOOK_QUANTIZATION = "fp4"
"""bitsandbytes' default if only ``load_in_4bit`` is set; no double quantisation."""
NOTEBOOK_DTYPE = "bf16"
"""Dtype of computations: ``bnb_4bit_compute_dtype``."""
GrpoLoss: TypeAlias = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo"]
"""The losses of TRL's GRPOTrainer that weight each token separately."""
INNER = {"iterative-dpo": "recipe", "self-rewarding": "dpo"}
"""Methods that use DPO, with the field of their recipe that holds DPO's recipe."""


class Recipe(Section):
    """The settings of a gradient method."""

    model_config = ConfigDict(strict=False)

    def __init__(self, **values: Any):
        """Raises UsageError, one line, if a value is out of range."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = describe(type(self), error.errors(include_url=False)[0])
            raise UsageError(wrong) from None


def _of_transformers(name: str) -> str:
    """An optimizer's name; only one that no recipe begins with loads the library that knows it."""
    if name not in ("adamw_torch", "paged_adamw_8bit"):
        from transformers.training_args import OptimizerNames

        if name not in (names := [each.value for each in OptimizerNames]):
            raise ValueError(f"no optimizer {name!r}; there are: {', '.join(names)}")
    return name


class Training(Recipe):
    """Optimizer steps and batches of a TRL trainer, which several recipes share."""

    learning_rate: Positive = 1e-3
    epochs: Epochs = 1.0
    steps: Count | None = None
    """Optimizer steps; None: according to epochs."""
    batch: Count = 8
    """Rows in one forward pass."""
    accumulation: Count = 1
    """Forward passes in one optimizer step."""
    schedule: Schedule = "constant"
    optimizer: Annotated[str, AfterValidator(_of_transformers)] = "adamw_torch"
    max_length: Count = 1024
    """Most tokens of prompt and answer, up to what the model reads; longer texts are cut."""


class Sft(Training):
    """Settings of one supervised training."""

    learning_rate: Positive = 1e-4
    dropout: Dropout = 0.0
    """Dropout of the adapter's inputs."""


class Dpo(Training):
    """Settings of one DPO training; fields without a description are as in TRL.

    TRL's default learning rate is 1e-6 for full weights, and it advises ten times that for LoRA. A
    LoRA of low rank trained for few steps needs more (docs/how-to/compare-with-dpo.md).
    """

    learning_rate: Positive = 1e-2

    beta: Positive = 0.1
    """As in the paper's experiments; TRL's default."""
    dropout: Dropout = 0.0
    """Dropout of the adapter's inputs; without effect while ``disable_dropout`` is on."""
    disable_dropout: bool = True
    prompt_tokens: Count | None = None
    """Longest prompt; a longer one loses its beginning. None: no limit."""
    loss: DpoLoss = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """ε of a loss such as ``robust``: the share of votes that are wrong by chance."""
    reference: Literal["start", "now"] = "start"
    """π_ref: the actor's start, or its weights when the training (or round) begins."""

    @model_validator(mode="after")
    def _exo_pair_smooths(self) -> Self:
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("label_smoothing must be above 0 for exo_pair (got 0)")
        return self


class Rounds(Recipe):
    """Settings of iterative DPO: ``rounds`` × ``questions``, with one vote on each question."""

    rounds: Count = 5
    questions: Count = 16
    """Votes of a round."""
    rows: Count | None = None
    """D: each vote is on a batch of D prompts and holds for all its rows; None: each vote is on a
    single pair."""
    memory: Literal["all", "round"] = "all"
    """Train on all pairs so far, or on those of the last round that gave any."""
    drawn: Count = 1
    """Pairs drawn for each that is asked about; asked are those of which it is least sure."""
    recipe: Dpo = Dpo()


NOTEBOOK = Dpo(
    beta=0.1,
    learning_rate=2e-5,
    steps=50,
    batch=1,
    accumulation=4,
    schedule="cosine",
    optimizer="paged_adamw_8bit",
    dropout=0.05,
    disable_dropout=True,
    max_length=256,
    prompt_tokens=128,
)


class Simpo(Training):
    """Settings of one SimPO training."""

    beta: Positive = 2.0
    """As in the paper (2.0 to 2.5)."""
    gamma: Weight = 0.5
    """γ: the margin, in units of β times log-probabilities; TRL's default."""


class RewardModel(Training):
    """Settings of a reward model's training.

    The learning rate is ten times TRL's default for full weights (1e-4), as for LoRA. Pairs with a
    text longer than ``max_length`` are left out, as in TRL.
    """

    epochs: Epochs = 3.0
    rank: Count = 8
    targets: tuple[str, ...] | str = "all-linear"
    """Target modules of its LoRA, as in PEFT."""
    center: Weight | None = None
    """Weight of (r⁺ + r⁻)², which keeps rewards around 0; TRL's center_rewards_coefficient."""


class Ppo(Recipe):
    """Settings of PPO. ε, epochs and λ are those of Schulman et al. 2017."""

    steps: Count = 40
    """How often to draw answers and learn from them."""
    prompts: Count = 32
    """Prompts in a step."""
    samples: Count = 1
    """Answers to each prompt."""
    epochs: Count = 4
    minibatches: Count = 2
    """Updates in an epoch."""
    rate: Positive = 3e-3
    """Adam's learning rate for the LoRA weights."""
    critic_rate: Positive = 1e-2
    """Adam's learning rate for the critic."""
    beta: Weight = 0.05
    """Weight β of the KL penalty, in units of the reward per nat."""
    clip: Positive = 0.2
    value_clip: Positive = math.inf
    """How far values may move within a step; default: no limit."""
    gamma: Share = 1.0
    lam: Share = 0.95
    grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    kl_limit: Positive = 3.0
    """A run has diverged and stops above this KL to the start, nats per token, mean of a step."""

    @model_validator(mode="after")
    def _minibatches_have_answers(self) -> Self:
        if self.prompts * self.samples < self.minibatches:
            raise ValueError(
                f"{self.minibatches} minibatches of {self.prompts * self.samples} answers; "
                "draw more answers or make fewer minibatches"
            )
        return self


class GroupRl(Recipe):
    """Settings that GRPO and RLOO share."""

    steps: Count = 40
    prompts: Count = 8
    """Prompts in a step."""
    samples: Group = 8
    """Answers to each prompt, which form a group."""
    passes: Count = 1
    """Forward passes in a step; more passes need less memory."""
    learning_rate: Positive = 1e-2
    """TRL's 1e-6 is for full weights. On the tiny model 20 steps of GRPO at 1e-3 end 4e-5 nats a
    token from the start of a LoRA of rank 1, at 1e-2 .02."""
    beta: Weight = 0.05
    """Weight of the KL penalty, in units of the reward per nat."""

    @model_validator(mode="after")
    def _answers_divide(self) -> Self:
        if self.prompts * self.samples % self.passes:
            raise ValueError(
                f"{self.prompts * self.samples} answers of a step do not divide into "
                f"{self.passes} passes"
            )
        return self


class Grpo(GroupRl):
    """Settings of GRPO; β and the loss are from the paper (TRL's defaults: 0, dapo).

    Groups of 8 are TRL's default; the paper draws 64.
    """

    beta: Weight = 0.04
    loss: GrpoLoss = "grpo"
    """The mean over each answer's tokens, then over answers, as in the paper."""


class Rloo(GroupRl):
    """Settings of RLOO: TRL's defaults, except for the learning rate and group size (TRL: 2).

    Groups of 4 are the larger of the paper's two sizes.
    """

    prompts: Count = 16
    samples: Group = 4


class SelfRewarding(Recipe):
    """Settings of self-rewarding, with the paper's numbers where it gives any."""

    models: Count = 3
    """Number of the last model (M3)."""
    prompts: Count = 32
    """Prompts in a round."""
    candidates: Group = 3
    judgements: Count = 3
    """Judgements of each candidate, which are averaged."""
    temperature: Positive = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    judge_tokens: Count = 160
    """Tokens for a judgement of 100 words and its score."""
    dpo: Dpo = Dpo(reference="now")
    """π_ref of a round is the model at its beginning, as in the paper."""
    fit: Sft = Sft()
    """Settings for fitting M1 to examples."""


RECIPES: Mapping[str, Recipe] = {
    "dpo": Dpo(), "simpo": Simpo(), "iterative-dpo": Rounds(), "reward-model": RewardModel(),
    "ppo": Ppo(), "grpo": Grpo(), "rloo": Rloo(), "self-rewarding": SelfRewarding(),
    "notebook-dpo": NOTEBOOK, "sft": Sft(),
}  # fmt: skip
"""The methods of `NAMES` with their default recipes."""


def make(method: str, settings: Mapping[str, Any]) -> Any:
    """Make a method's recipe with these fields changed.

    >>> make("dpo", {"beta": "0.2", "steps": "5"}).steps
    5
    """
    if method not in NAMES:
        raise UsageError(f"no method {method!r}; there are: {', '.join(NAMES)}")
    default, inner = RECIPES[method], INNER.get(method)
    given = {k: None if v in ("none", "None", "null") else v for k, v in settings.items()}
    nested: Any = None if inner is None else getattr(default, inner)
    own = _plain_fields(default)
    of_nested = {k: given.pop(k) for k in [*given] if k not in own and k in _plain_fields(nested)}
    known = [*own, *_plain_fields(nested)]
    for name in given:
        if name not in known:
            raise UsageError(f"{method} has no setting {name!r}; it has: {', '.join(known)}")
    try:
        if inner is not None:
            given[inner] = type(nested)(**{**dict(nested), **of_nested})
        return type(default)(**{**dict(default), **given})
    except UsageError as error:
        raise UsageError(f"{method}: {error}") from None


def _plain_fields(recipe: Any) -> list[str]:
    """The names of a recipe's fields, without those that hold another recipe."""
    return [name for name, value in recipe or () if not isinstance(value, Section)]
