"""Every setting of a run: typed, bounded, described once.

The descriptions below are also the comments of the file that ``szpo init`` writes. Reading files,
presets and ``--set`` is `szpo.config.settings_file`'s business; what is made of the settings, that
of `szpo.runs.assemble`.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from szpo.config.judge import Judge, Positive, Section

RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$")
Count = Annotated[int, Field(ge=1, le=4096)]
WORDS_PER_TOKEN = 0.75
"""Of English, with the tokenizers of small models."""
FLOAT32_MAX = 3.4028234663852886e38
RUBRIC_VERSION = 1
"""Which wording of question, guideline and choices a vote was given under; stored with it."""


class Run(Section):
    """Where the run lives and when it ends."""

    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
        description="Name of the run and of its file; left out: made from model, panel and seed.",
    )
    folder: str = Field("runs", min_length=1, description="Folder that holds the runs' files.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="The only seed: everything random is derived from it."
    )
    votes: int | None = Field(
        240, ge=1, le=100_000_000, description="Stop when this many votes are counted."
    )
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Stop after this many steps.")
    lag: Literal[0, 1] | None = Field(
        None,
        description="1 generates the next step while people vote on this one; left out: 0 for "
        "panels inside the process, 1 for people.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_file_everywhere(cls, name: str | None) -> str | None:
        if name is not None and RESERVED.match(name):
            raise ValueError(f'"{name}" is reserved by some file systems; choose another name')
        return name


class Model(Section):
    """The base model, which is never changed."""

    name: str = Field(
        "smollm2",
        min_length=1,
        description="smollm2, tiny, a local folder (safetensors only), or a hub id (owner/name).",
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16", description="Numbers of the base weights: fp32, bf16 or fp16; adapters are fp32."
    )
    quantization: Literal["nf4", "fp4"] | None = Field(
        None, description="4-bit base weights: nf4 or fp4; left out: not quantised."
    )
    adapter: str | None = Field(
        None, description="Folder of a PEFT LoRA adapter from which the run starts."
    )
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:\d+)?|mps|xpu)$", description="cpu, cuda, cuda:1, mps or xpu."
    )


class Adapter(Section):
    """The low-rank weights that carry what the votes teach."""

    rank: int = Field(1, ge=1, le=1024, description="LoRA rank r.")
    alpha: Positive | None = Field(
        None, description="LoRA scale numerator; left out: equal to rank."
    )
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Module names that get an adapter; left out: the MLP's output (down_proj).",
    )
    layers: list[Annotated[int, Field(ge=0)]] | Literal["middle", "all"] = Field(
        "middle",
        description='"middle" (five layers centred at two thirds of the depth), "all", or a '
        "list of layer numbers.",
    )
    train: Literal["B", "AB"] = Field(
        "B", description="Train B over a fixed A, or both matrices (AB)."
    )
    init: Literal["inputs", "random"] = Field(
        "inputs",
        description="A from the leading directions of the layer's own inputs, or random.",
    )


class Subspace(Section):
    """The few directions of the adapter in which the run may move."""

    kind: Literal["score", "random", "full"] = Field(
        "score",
        description="score: principal directions of the policy's own log-probability gradient "
        "(needs a local model); random: random orthonormal ones; full: every weight.",
    )
    dim: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        8,
        description='Number of coordinates d (not used by full), or "auto": as many as the votes '
        "can tell apart.",
    )
    samples: int = Field(
        384, ge=8, le=100_000, description="Base answers read during set-up; they cost no votes."
    )
    kl_samples: int = Field(
        96,
        ge=16,
        le=100_000,
        description="Answers of one KL pass; passes repeat until the scale is known.",
    )


class Optimizer(Section):
    """How questions are made and what votes do."""

    rule: Literal["auto", "bayes", "known", "sign", "margin"] = Field(
        "auto",
        description="bayes, known (link), sign or margin; auto: bayes up to 64 coordinates, "
        "known above.",
    )
    pairing: Literal["antithetic", "forward"] = Field(
        "antithetic", description="Compare θ+μv with θ−μv, or with θ as published (forward)."
    )
    directions: Count = Field(1, description="K: directions per step.")
    comparisons: Count = Field(
        8, description="N: comparisons per direction, each its own prompts."
    )
    votes: Count = Field(1, description="M: panelists asked per comparison.")
    rows: Count = Field(8, description="D: prompts shown side by side in one comparison.")
    kl_radius: Positive = Field(
        1.62, le=1e6, description="κ: KL of one side from the centre, nats; makes μ = √(2κ/d)."
    )
    kl_step: Positive = Field(
        0.03, le=1e6, description="κ_step: KL of one expected step, nats; makes the step size."
    )
    mu: Positive | None = Field(
        None, le=1e6, description="Perturbation radius μ, instead of kl_radius."
    )
    alpha: Positive | None = Field(None, description="Step size α, instead of kl_step.")
    forget: float = Field(
        0.94, gt=0, le=1, allow_inf_nan=False, description="λ: weight of a vote one step older."
    )
    warmup: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Steps that only measure; left out: 0, or 5 where α must be measured."
    )
    link: Literal["logistic", "probit", "cauchit", "linear", "cloglog"] = Field(
        "logistic", description="logistic, probit, cauchit, linear or cloglog."
    )
    smoothing: Literal[
        "haldane", "clip", "trim", "laplace", "score", "second", "posterior", "pooled"
    ] = Field(
        "haldane", description="How a vote share is kept inside (0, 1) under the rule known."
    )
    ties: Literal["half", "davidson"] = Field(
        "half", description="A tie is half a vote each, or goes through Davidson's model."
    )
    weighting: Literal[
        "equal", "skill", "rationality", "dawid-skene", "shrunk-logits", "median"
    ] = Field(
        "equal",
        description="How much each voter counts: equal; learnt from agreement with the rest: "
        "skill, rationality, dawid-skene (votes of 2 or more); one say per voter: shrunk-logits, "
        "median (known, sign, margin).",
    )
    block: int | None = Field(
        None, ge=1, description="Perturb only this many random coordinates (ZBCPG)."
    )
    momentum: float = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="ρ: share of past steps added again."
    )
    adam: bool = Field(False, description="Adam on small vectors (up to 4,096 coordinates).")
    steer: bool = Field(
        False, description="Let agreement between votes move κ within a quarter and four times."
    )

    @model_validator(mode="after")
    def _step_fits_fp32(self) -> Self:
        # 2·log(2·4096+1) bounds every Δ̂ that votes can give; the normal table ends at 4.33.
        if self.alpha is not None and self.alpha * 4.33 * 2 * math.log(8193) > FLOAT32_MAX:
            raise ValueError(f"alpha × Δ̂ × v would exceed fp32 range (alpha = {self.alpha:g})")
        return self


class Selection(Section):
    """Which comparisons are asked, and when to stop asking; left out: all, to the end."""

    candidates: Count | None = Field(
        None,
        description="C: comparisons generated per direction, of which N are drawn and asked, each "
        "with a known probability that its weight 1/(C·q) makes up for; left out: N.",
    )
    by: Literal["rows", "words", "uniform"] = Field(
        "rows",
        description="What makes a candidate likelier: the share of rows that differ (rows), how "
        "much their words differ (words), nothing (uniform).",
    )
    floor: float = Field(
        0.2,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the probability that is spread evenly over the candidates.",
    )
    vote_price: Positive | None = Field(
        None,
        description="bayes: end a step once a further vote is expected to gain less than this, in "
        "logits of value; left out: ask for all votes.",
    )


class Panel(Section):
    """Who answers."""

    kind: str = Field(
        "bt70",
        min_length=1,
        description="people (through the panel's page or another process), a simulated panel "
        "(bt70, half-beta, lapse10, hostile, hostile2, mtbench, labels70, close, or changed, as "
        "in bt70+side=.3+hostile=1), judge (a language model, see [judge]), or one of your own.",
    )
    size: int = Field(5, ge=1, le=100_000, description="P: panelists.")
    reward: str = Field(
        "sentiment",
        min_length=1,
        description="What a simulated panel likes, unknown to the run: sentiment, length:40, "
        "keyword:sea,sun, verify:no_comma, or a sum such as 0.7*sentiment+0.3*length:40.",
    )
    beta: Positive | None = Field(
        None, description="Sharpness of a simulated panel; left out: fitted to 70 % agreement."
    )
    inside: bool = Field(
        True, description="A panel answers inside the run; false: it waits for szpo simulate RUN."
    )
    lease_minutes: Positive = Field(
        10.0, le=10_080, description="How long a question stays with one person."
    )
    poll_seconds: Positive = Field(
        2.0, le=3600, description="How often a run that waits for people looks for votes."
    )
    question: str = Field(
        "Which set of answers is better overall?",
        min_length=1,
        max_length=200,
        description="What people are asked; fixed once the run has begun.",
    )
    guideline: str = Field(
        "Prefer correct, direct and helpful answers; longer is not better by itself.",
        max_length=300,
        description="One line beside the question.",
    )
    guideline_full: str = Field(
        "Read what differs, prompt by prompt, then judge each set as a whole: if you had to keep "
        "one set, which would it be? A single bad answer may weigh more than several that are "
        'slightly better. Choose "About the same" where you could as well toss a coin, and '
        '"Can\'t judge" where you cannot or would rather not read the texts.',
        max_length=20_000,
        description="The whole guideline, shown on request.",
    )
    spare: int = Field(
        1,
        ge=0,
        le=100,
        description="Seats beyond those needed that may be served at once, so that somebody who "
        "went away holds nobody up; only the votes needed are counted.",
    )
    deadline_minutes: Positive | None = Field(
        None,
        le=525_600,
        description="Close a round this long after it opened, pauses not counted; left out: wait "
        "until every vote is in.",
    )
    quorum: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a round's votes without which its deadline does not close it; left "
        "out: it closes with what there is.",
    )
    pay_per_hour: Positive | None = Field(
        None,
        description="What an hour of reading costs; with it, or pay_per_vote, money is reckoned "
        "beforehand, shown, and can be limited while the run goes on.",
    )
    pay_per_vote: Positive | None = Field(None, description="What a counted vote costs.")
    currency: str = Field("EUR", pattern=r"^\S{1,8}$", description="Of both.")
    calibration: bool = Field(
        True,
        description="Offer people short comparisons while they wait; they teach the run nothing "
        "and tell how reliable votes are.",
    )


class Prompts(Section):
    """What the policy is asked."""

    path: str | None = Field(
        None, description="CSV, JSONL or chat lists of your own; left out: the prompts that ship."
    )
    system: str | None = Field(
        None, max_length=65_536, description="System prompt put before every conversation."
    )
    heldout: float = Field(
        0.25,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Share of your own prompts kept for measuring, where the file does not say.",
    )
    too_long: Literal["refuse", "cut"] = Field(
        "refuse",
        description="A prompt that with generation.max_new_tokens is longer than the model reads: "
        "refuse it before anything begins, or cut it (oldest turns first, then the beginning of "
        "the last one; the end of the question stays).",
    )


class Generation(Section):
    """How answers are sampled."""

    max_new_tokens: int = Field(24, ge=1, le=4096, description="Longest answer, in tokens.")
    temperature: Positive = Field(1.0, le=100, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False, description="Nucleus; 1: off.")
    top_k: int = Field(0, ge=0, description="Only the k likeliest tokens; 0: all.")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], max_length=16, description="Texts that end an answer."
    )
    common_random_numbers: bool = Field(
        True, description="Both sides draw from the same uniform numbers."
    )


class Guards(Section):
    """Bands that pause a run when it leaves them; left out: not watched."""

    kl: Positive | None = Field(None, description="Highest KL to the base, nats per completion.")
    min_length: Positive | None = Field(None, description="Lowest mean answer length, tokens.")
    max_length: Positive | None = Field(None, description="Highest mean answer length, tokens.")
    repetition: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Highest share of repeated word pairs within answers.",
    )

    @model_validator(mode="after")
    def _band_is_open(self) -> Self:
        if self.min_length and self.max_length and self.min_length >= self.max_length:
            raise ValueError(
                f"min_length {self.min_length:g} must be below max_length {self.max_length:g}"
            )
        return self


class Evaluation(Section):
    """Measuring on held-out prompts, before and after; costs no votes."""

    prompts: Count = Field(64, description="Held-out prompts.")
    samples: Count = Field(8, description="Answers to each.")


class Config(Section):
    """A run's settings, one attribute per table of the file."""

    run: Run = Field(default_factory=lambda: Run())
    model: Model = Field(default_factory=lambda: Model())
    adapter: Adapter = Field(default_factory=lambda: Adapter())
    subspace: Subspace = Field(default_factory=lambda: Subspace())
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer())
    selection: Selection = Field(default_factory=lambda: Selection())
    panel: Panel = Field(default_factory=lambda: Panel())
    judge: Judge = Field(default_factory=lambda: Judge())
    prompts: Prompts = Field(default_factory=lambda: Prompts())
    generation: Generation = Field(default_factory=lambda: Generation())
    guards: Guards = Field(default_factory=lambda: Guards())
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())

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
        space = self.subspace
        if space.kind == "score" and space.samples < 4 * self.dim:
            raise ValueError(
                f"subspace.samples {space.samples} is too few for subspace.dim {self.dim}; "
                f"give at least {4 * self.dim}"
            )
        if self.adapter.train == "AB" and space.kind != "full":
            raise ValueError(
                f'adapter.train "AB" goes with subspace.kind "full"; "{space.kind}" moves B only'
            )
        chosen = self.optimizer.weighting
        if self.optimizer.rule == "bayes" and chosen in ("shrunk-logits", "median"):
            raise ValueError(
                f'optimizer.weighting "{chosen}" gives one estimate per direction and bayes takes '
                'votes; choose "skill" or "rationality", or rule known, sign or margin'
            )
        if chosen == "dawid-skene" and self.optimizer.votes < 2:
            raise ValueError(
                'optimizer.weighting "dawid-skene" learns from comparisons that several voters '
                'answered; set optimizer.votes to 2 or more, or choose "skill" or "rationality"'
            )
        if self.optimizer.momentum and self.optimizer.adam:
            raise ValueError("optimizer.momentum and optimizer.adam exclude each other")
        return self

    @property
    def steps(self) -> int:
        """Steps after which the run ends: the explicit number, or what the votes pay for.

        A step that the votes left cannot pay whole is not begun; comparisons that are tied without
        asking cost nothing, so there may be a few steps more.
        """
        from_votes = None if self.run.votes is None else self.run.votes // self.votes_per_step
        both = [n for n in (self.run.steps, from_votes) if n is not None]
        return min(both)

    @property
    def dim(self) -> int:
        """D of a subspace: the number of the settings, or the rule's (see `choose_dim`)."""
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
    """How many coordinates some ``votes`` can tell apart: a power of two, 4 to 64.

    A vote at a win rate of 75 % carries at most .13 nat (ln 2 less its entropy) on where to go,
    and the posterior of d coordinates needs a few nats each: one coordinate per thirty votes.
    Fewer coordinates are learned sooner, more reach further; a reward is not asked.

    >>> choose_dim(240), choose_dim(50), choose_dim(3000)
    (8, 4, 64)
    """
    return int(min(max(2 ** math.floor(math.log2(max(votes, 1) / 30)), 4), 64))
