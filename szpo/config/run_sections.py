"""The settings around the steps: where and how long a run lives, who votes, guards, measuring."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from szpo.config.section import Count, Positive, Section

RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$")
"""Names that some file systems give to devices."""

RUN_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,63}$"


class Run(Section):
    """Name and folder of the run, its seed, and when it ends."""

    name: str | None = Field(
        None,
        pattern=RUN_NAME,
        description="Name of the run and of its file; default: made from model, panel and seed.",
    )
    folder: str = Field("runs", min_length=1, description="Folder that holds the runs' files.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The only seed: everything random is derived from it; default: 0, or where "
        "people vote a number drawn when the run begins, so that nobody can work out sides.",
    )
    votes: int | None = Field(
        240, ge=1, le=100_000_000, description="Stop when this many votes are counted."
    )
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Stop after this many steps.")
    lag: Literal[0, 1] | None = Field(
        None,
        description="1 generates the next step's answers while people vote on this one's; "
        "default: 0 for panels inside the process, 1 for people.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_file_everywhere(cls, name: str | None) -> str | None:
        if name is not None and RESERVED.match(name):
            raise ValueError(f'"{name}" is reserved by some file systems; choose another name')
        return name

    @property
    def root_seed(self) -> int:
        """The seed; 0 where none is set."""
        return self.seed or 0


class Panel(Section):
    """The panel: who compares the answers."""

    kind: str = Field(
        "bt70",
        min_length=1,
        description="people (through the panel's page or another process), a simulated panel "
        "(bt70, half-beta, lapse10, hostile, hostile2, mtbench, labels70, close, or changed, as "
        "in bt70+side=.3+hostile=1), judge (a language model, see [judge]), or one of your own.",
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
    inside: bool = Field(
        True,
        description="true: a simulated panel or judge votes inside the run's process; "
        "false: the run waits for szpo simulate RUN.",
    )
    lease_minutes: Positive = Field(
        10.0, le=10_080, description="Minutes for which a comparison is reserved for one person."
    )
    question: str = Field(
        "Which set of answers is better overall?",
        min_length=1,
        max_length=200,
        description="The question that people answer; fixed once the run has begun.",
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
    view: Literal["formatted", "plain"] = Field(
        "formatted",
        description="How texts with Markdown are first shown to people: formatted, or plain as "
        "the model wrote them; each person can switch.",
    )
    operator_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Who runs this study, as people read it before they begin; this and what "
        "follows to consent is shown only if set.",
    )
    contact: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Whom people can ask: an address, a number.",
    )
    pay: str | None = Field(
        None, min_length=1, max_length=300, description="What people get for it, in your words."
    )
    ends: str | None = Field(
        None, description="The last day, such as 2026-12-31; it is only shown and stops nothing."
    )
    privacy_url: str | None = Field(
        None,
        max_length=500,
        pattern=r"^https?://[^\s\"'<>\\]+$",
        description="Address of your privacy notice, with https:// or http://.",
    )
    consent: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="Your own consent text, shown below szpo's points before people agree.",
    )
    poor_samples: Literal["refuse", "open"] = Field(
        "refuse",
        description="Where too many of 20 sample answers are cut off, repeated, empty or off "
        "topic: refuse leaves the first round closed until the operator says otherwise, open "
        "begins all the same. Both are recorded.",
    )
    spare: int = Field(
        1,
        ge=0,
        le=100,
        description="Additional seats that may be served in parallel, so that a person who "
        "left delays nobody; only the votes needed are counted.",
    )
    second_share: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the comparisons shown to a second person who would otherwise "
        "wait, to measure how far people agree; these answers change no update.",
    )
    deadline_minutes: Positive | None = Field(
        None,
        le=525_600,
        description="Close a round this long after it opened, pauses not counted; default: "
        "wait for every vote.",
    )
    quorum: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of a round's votes that its deadline needs to close it; default: "
        "it closes with the votes it has.",
    )
    pay_per_hour: Positive | None = Field(
        None,
        description="Pay for an hour of reading; with this or pay_per_vote, szpo estimates the "
        "money in advance, shows it, and can limit it during the run.",
    )
    pay_per_vote: Positive | None = Field(None, description="Pay for a counted vote.")
    currency: str = Field("EUR", pattern=r"^\S{1,8}$", description="Currency of both.")
    calibration: bool = Field(
        True,
        description="Offer people short comparisons while they wait; they teach the run "
        "nothing and measure how reliable votes are.",
    )
    tell_rounds: bool = Field(
        True,
        description="While people wait they read what the last round's votes did: how many there "
        "were, how often two agreed, whether the model moved further than before; never what was "
        "preferred.",
    )
    tell_taught: bool = Field(
        False,
        description="Once the run is complete, people may ask on their last screen what the votes "
        "taught; that they read it is recorded.",
    )

    @field_validator("ends", mode="before")
    @classmethod
    def _ends_on_a_day(cls, given: Any) -> Any:
        if type(given) is date:  # TOML has days of its own
            return given.isoformat()
        if isinstance(given, str):
            try:
                return date.fromisoformat(given).isoformat()
            except ValueError:
                raise ValueError(f'"{given}" is no day; write it as 2026-12-31') from None
        return given

    @property
    def seat_us(self) -> int:
        """For how long a comparison is reserved for one person, in microseconds."""
        return round(self.lease_minutes * 60e6)


class Guards(Section):
    """Bands; a run that leaves one pauses; default: not watched."""

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


class Hook(Section):
    """A web hook: a message when a round waits, a guard pauses, a run ends or cannot begin."""

    url: str | None = Field(
        None,
        max_length=2000,
        description="Address that gets messages by POST: http(s)://…, addresses of your own "
        "network included; default: none is sent. It is in the record and in "
        "exports; write env:NAME for an address that is itself a secret, and put "
        "it into that environment variable. $SZPO_HOOK_SECRET, where it is set, signs messages.",
    )

    @field_validator("url")
    @classmethod
    def _url_can_be_asked(cls, url: str | None) -> str | None:
        if url is not None and not ENVIRONMENT_NAME.fullmatch(url):
            check_address(url)
        return url


HOOK_SECRET: Final = "SZPO_HOOK_SECRET"
"""Environment variable with the secret that signs a web hook's messages."""
ENVIRONMENT: Final = "env:"
ENVIRONMENT_NAME: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,99}")


def check_address(url: str) -> None:
    """Refuse what is no address of the web.

    Raises:
        ValueError: it is not http(s)://host, or has a name and a password in it.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        bare = parts.username is None and parts.password is None and url.isprintable()
    except ValueError:
        good = bare = False
    if not good or not bare or " " in url:
        raise ValueError("give http://… or https://… with a host and no password, or env:NAME")


class Tracking(Section):
    """A tracker that gets the figures of every step: numbers and names of methods, no texts."""

    kind: str | None = Field(
        None,
        min_length=1,
        description="tensorboard, wandb, mlflow, or one of your own, which writes to tracking "
        "beside the run's file; left out: none. Each needs its extra of szpo, which has the "
        "tracker's name.",
    )


CODE: Final = r"^[A-Za-z0-9_-]{1,64}$"


class Prolific(Section):
    """An open link for the participants of a study on Prolific; see docs/panel.md."""

    study: str | None = Field(
        None,
        pattern=CODE,
        description="The study's id, which Prolific shows in its address (STUDY_ID); default: "
        "there is no open link.",
    )
    places: int = Field(
        50,
        ge=1,
        le=100_000,
        description="Number of participants; one who runs out of time frees a place.",
    )
    votes: Count = Field(10, description="Comparisons after which a participant has finished.")
    minutes: Positive = Field(
        60.0,
        le=10_080,
        description="Minutes for a participant from the first arrival on; take the study's "
        "longest time.",
    )
    completion_code: str | None = Field(
        None, pattern=CODE, description="Completion code for participants who have finished."
    )
    declined_code: str | None = Field(
        None,
        pattern=CODE,
        description="Code for participants who decline; default: they are asked to return "
        "their submission.",
    )

    @model_validator(mode="after")
    def _who_finishes_is_paid(self) -> Self:
        if self.study is not None and self.completion_code is None:
            raise ValueError("prolific.study needs prolific.completion_code: who finishes is paid")
        return self


class Evaluation(Section):
    """Measuring on held-out prompts, before, along the way and after; costs no votes."""

    prompts: Count = Field(64, description="Held-out prompts.")
    samples: Count = Field(8, description="Answers to each, before and after.")
    along: int = Field(
        3,
        ge=0,
        le=1000,
        description="How often to measure on the way, with one answer to each prompt.",
    )
