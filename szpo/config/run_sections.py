"""Settings around the steps: the run's name and end, its panel, guards, tracker, measurements."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from szpo.config.section import Count, Positive, Section

RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$")
"""Names that Windows reserves for devices."""

RUN_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,63}$"


class Run(Section):
    """Name and folder of the run, its seed, when it ends, and its tracker."""

    name: str | None = Field(
        None,
        pattern=RUN_NAME,
        description="Name of the run and of its file; default: from model, panel and seed.",
    )
    folder: str = Field("runs", min_length=1, description="Folder that holds the runs' files.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The run's only seed, from which all randomness derives; default: 0, or if "
        "people vote a number drawn when the run begins, so that nobody can work out sides.",
    )
    votes: int | None = Field(
        240,
        ge=1,
        le=100_000_000,
        description="Stop when this many votes are counted; 40 to 80 show a clear taste.",
    )
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Stop after this many steps.")
    lag: Literal[0, 1] | None = Field(
        None,
        description="1: generate the next step's answers while people vote on this step's; 0: "
        "after their votes. Default: 1 if panel.kind is people, otherwise 0.",
    )
    tracker: str | None = Field(
        None,
        min_length=1,
        description="Where every step's figures go too (numbers and names of methods, no texts): "
        "tensorboard, wandb or mlflow (each needs the extra of its name), or a tracker of another "
        "package; writes to the folder tracking beside the run's file. Default: nowhere.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_file_everywhere(cls, name: str | None) -> str | None:
        if name is not None and RESERVED.match(name):
            raise ValueError(f'"{name}" is reserved by some file systems; choose another name')
        return name

    @property
    def root_seed(self) -> int:
        """The seed; 0 if none is set."""
        return self.seed or 0


class Panel(Section):
    """The panel: who compares the answers."""

    kind: str = Field(
        "bt70",
        min_length=1,
        description="people (on the panel's page or elsewhere); a simulated panel: bt70, "
        "half-beta, lapse10, hostile, hostile2, mtbench, labels70 or close, also changed, as in "
        "bt70+side=.3+hostile=1; judge (see [judge]); or a panel of another package.",
    )
    size: int = Field(5, ge=1, le=100_000, description="P: number of panelists (annotators).")
    reward: str = Field(
        "sentiment",
        min_length=1,
        description="The hidden reward of a simulated panel, unknown to the run: sentiment, "
        "length:40, keyword:sea+sun, regex:^Once, verify:no_comma, or a sum such as "
        "0.7*sentiment+0.3*length:40.",
    )
    beta: Positive | None = Field(
        None,
        description="Sharpness β of a simulated panel: P(vote for A) = σ(β · difference "
        "in reward); default: fitted so that two panelists agree on 70 % of "
        "comparisons.",
    )
    verdict: Literal["rows", "batch"] | None = Field(
        None,
        description="rows: a verdict on each pair of answers; batch: one verdict on two sets of "
        "optimizer.D answers, as in the published algorithms; default: rows under regression "
        "if optimizer.D is not set, otherwise batch.",
    )
    sheet: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Rows that a panelist sees at once, if verdicts are on rows; default: as many "
        "as take about a minute to read, at most 8.",
    )
    inside: bool = Field(
        True,
        description="true: a simulated panel or judge votes inside the run's process; "
        "false: the run waits for szpo simulate RUN.",
    )
    question: str = Field(
        "Which set of answers is better overall?",
        min_length=1,
        max_length=200,
        description="The question that people answer; fixed once the run has begun.",
    )
    guideline: str = Field(
        "Prefer correct, direct and helpful answers; longer is not better by itself.\n"
        "Read what differs, prompt by prompt, then judge each set as a whole: if you had to keep "
        "one set, which would it be? A single bad answer may weigh more than several that are "
        'slightly better. Choose "About the same" where you could as well toss a coin, and '
        '"Can\'t judge" where you cannot or would rather not read the texts.',
        max_length=20_000,
        description="Guidance: its first line stands beside the question, and is what a judge is "
        "told; people see the rest on request.",
    )
    sentences: str | None = Field(
        None,
        min_length=1,
        description="File with the sentences of the panelist's screen in another language: a "
        "translated copy of szpo/config/en.toml. The run records what it says.",
    )
    consent: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="Your own text, shown below szpo's points before people agree: who runs this "
        "study, whom to ask, what people are paid, what they agree to.",
    )
    poor_samples: Literal["refuse", "open"] = Field(
        "refuse",
        description="If too many of 20 sample answers are cut off, repeated, empty or off topic: "
        "refuse pauses the run until the operator lets it go on; open goes on anyway. "
        "Both are recorded.",
    )
    deadline_minutes: Positive | None = Field(
        None,
        le=525_600,
        description="Close a round this many minutes after it opened, pauses not counted; "
        "default: wait for every vote.",
    )
    calibration: bool = Field(
        True,
        description="Offer people short comparisons while they wait. These measure how reliable "
        "votes are, and never change the model.",
    )

    @property
    def brief(self) -> str:
        """The guideline's first line."""
        return self.guideline.partition("\n")[0]

    @property
    def full(self) -> str:
        """The guideline without its first line."""
        return self.guideline.partition("\n")[2]


class Guards(Section):
    """Limits: a run whose answers pass one pauses; default: no limits."""

    kl: Positive | None = Field(None, description="Highest KL to the base, nats per answer.")
    length: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None, description="Lowest and highest mean answer length, tokens, such as [5, 60]."
    )
    repetition: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Highest share of repeated word pairs within answers.",
    )
    keep: str | None = Field(
        None,
        min_length=1,
        description="File of questions with right answers (.jsonl, as for TRL's SFT): how many "
        "greedy answers have these before and after; improving stops before it loses a tenth.",
    )

    @field_validator("length")
    @classmethod
    def _length_is_a_band(cls, length: list[float] | None) -> list[float] | None:
        if length is not None and not (len(length) == 2 and length[0] < length[1]):
            raise ValueError(f"{length} must be two lengths, the lower one first, as in [5, 60]")
        return length


class Improve(Section):
    """Improving the policy on the taste that its votes show; it costs no votes."""

    nats: Positive | None = Field(
        None,
        description="When the votes are spent, improve the policy on their taste up to this KL to "
        "its start, nats per answer; default: not then, szpo improve can do it later.",
    )
    when: Literal["doubling", "end"] = Field(
        "doubling",
        description="doubling: also after the round in which the votes show a taste, and at each "
        "doubling of them, beside people while they read; end: only when the votes are spent.",
    )
    way: Literal["auto", "policy", "natural", "zeroth"] = Field(
        "auto",
        description="policy: policy gradient; natural: natural gradient; zeroth: by pairs of "
        "perturbed policies, without gradients, and szpo verify computes the weights again; auto: "
        "zeroth with workers, servers or 4-bit weights, else natural.",
    )


class Evaluation(Section):
    """Measurements on held-out prompts before, during and after the run; they cost no votes."""

    prompts: Count = Field(64, description="Most held-out prompts to measure on.")
    samples: Count = Field(8, description="Answers to each prompt, before and after the run.")
    along: int = Field(
        3,
        ge=0,
        le=1000,
        description="How often to measure during the run, with one answer to each prompt.",
    )
