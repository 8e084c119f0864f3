"""The tables of run.toml: all but the optimizer's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from szpo.config.section import Count, OneOf, PathText, Positive, Section
from szpo.features.reading import words
from szpo.features.user_features import is_judged, is_said
from szpo.keyed_requests import ENGINE_KEY, JUDGE_KEY, server_root
from szpo.optim.state_regression import MOST_EARLIER

RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$")
"""Names that Windows reserves for devices."""

SCORER: Final = ".safetensors"
"""How the file of a scorer ends, which `judge.model` names."""
IMPROVE_NATS: Final = 2.5
"""How far improving goes unless it is told; further reads worse."""
RUN_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,63}$"

SERVER: Final = re.compile(r"https?://[^\s@?#/]+(/[^\s@?#]*)?")


class Run(Section):
    """Name and folder of the run, its seed, when it ends, and its tracker."""

    name: str | None = Field(
        None,
        pattern=RUN_NAME,
        description="Name of the run and its file; default: from model, panel and seed.",
    )
    folder: PathText = Field("runs", min_length=1, description="Folder of the runs' files.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The only seed of the run; default: 0, or where people vote a number drawn "
        "at the start, so that nobody can work out sides.",
    )
    votes: int = Field(
        240,
        ge=1,
        le=100_000_000,
        description="Votes to ask for; 40 to 80 show a clear taste.",
    )
    tracker: str | None = Field(
        None,
        min_length=1,
        description="Where every step's figures go too (no texts): tensorboard, wandb or mlflow"
        " (each an extra), or a plug-in; files go to tracking beside the run's.",
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
        description="people; a simulated panel: bt70, half-beta, lapse10, hostile, hostile2 "
        "or mtbench, also changed, as in bt70+side=.3+hostile=1; "
        "judge (see [judge]); or a plug-in.",
    )
    size: int = Field(5, ge=1, le=100_000, description="Number of panelists.")
    reward: str = Field(
        "sentiment",
        min_length=1,
        description="What a simulated panel likes, unknown to the run: sentiment, length:40, "
        "keyword:sea+sun, regex:^Once, verify:no_comma, or a sum such as "
        "0.7*sentiment+0.3*length:40.",
    )
    beta: Positive | None = Field(
        None,
        description="Sharpness β of a simulated panel: P(vote for A) = σ(β · difference in "
        "reward); default: fitted so that two panelists agree on 70 % of "
        "pairs that differ.",
    )
    sheet: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Pairs on a sheet; default: as many as take a minute to read, at most 8.",
    )
    question: str = Field(
        "Which set of answers is better overall?",
        min_length=1,
        max_length=200,
        description="What people are asked; left so, of pairs: Which answer do you like better? "
        "Fixed once the run has begun.",
    )
    guideline: str = Field(
        "Prefer correct, direct and helpful answers; longer is not better by itself.\n"
        "Read what differs, prompt by prompt, then judge each set as a whole: if you had to keep "
        "one set, which would it be? A single bad answer may weigh more than several that are "
        'slightly better. Choose "About the same" where you could as well toss a coin, and '
        '"Can\'t judge" where you cannot or would rather not read the texts.',
        max_length=20_000,
        description="Guidance: its first line stands beside the question and goes to judges; "
        "people see the rest on request.",
    )
    consent: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="Your text below szpo's points before people agree: who runs this, whom to "
        "ask, what is paid.",
    )
    deadline_minutes: Positive | None = Field(
        None,
        le=525_600,
        description="Close a round so many minutes after it opened, pauses not counted; "
        "default: wait for every vote.",
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
        None, description="Lowest and highest mean length, tokens, such as [5, 60]."
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
        description="File of questions with right answers (.jsonl, as for TRL's SFT), counted "
        "before and after; improving stops before it loses a tenth.",
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
        description="Move the policy on the taste of the votes, up to this KL to its start, "
        "nats per answer (rule regression, named coordinates or none); default: not "
        f"in the run; {IMPROVE_NATS:g} by szpo improve.",
    )
    when: Literal["doubling", "end"] = Field(
        "doubling",
        description="doubling: after the round that shows a taste, at each doubling of the "
        "votes, and at the end; end: only when the votes are spent.",
    )


class Evaluation(Section):
    """Measurements on held-out prompts before, during and after the run; they cost no votes."""

    prompts: Count = Field(64, description="Most held-out prompts to measure on.")
    samples: Count = Field(8, description="Answers to each, before and after the run.")


class Model(Section):
    """The base model, which is never changed."""

    name: str = Field(
        "smollm2",
        min_length=1,
        description="smollm2, tiny, a local folder (safetensors only), a hub id (owner/name), "
        "or auto: the largest that docs/how-to/your-model.md says was run, is downloaded and "
        "fits into memory, else smollm2.",
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Format of the base weights: fp32, bf16, fp16, or auto (bf16; fp16 on mps "
        "and on GPUs without bf16, fp32 on CPUs where it is quicker).",
    )
    quantization: Literal["nf4", "fp4"] | None = Field(
        None, description="4-bit base weights: nf4 or fp4; default: none."
    )
    adapter: PathText | None = Field(
        None, description="Folder of a PEFT LoRA at which the run starts."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps|xpu)$",
        description="cpu, cuda, cuda:1, mps, xpu, or auto: the first GPU, else the CPU. A run "
        "stays on its device.",
    )


class Adapter(Section):
    """The LoRA adapter: low-rank weights that the votes train."""

    rank: int = Field(1, ge=1, le=1024, description="LoRA rank.")
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Modules that get an adapter; default: the MLP's output (down_proj).",
    )
    layers: list[Annotated[int, Field(ge=0)]] | Literal["middle", "all"] = Field(
        "middle",
        description='"middle" (five about two thirds of the depth), "all", or a list of numbers.',
    )


class Subspace(Section):
    """The subspace: the directions in which the votes may move the adapter."""

    kind: Annotated[
        Literal["auto", "features", "adapters", "full", "none"],
        BeforeValidator(lambda given: "none" if given is None else given),  # --set kind=none
    ] = Field(
        "auto",
        description="adapters: weights of given adapters; features: directions that change "
        "named features, after dim principal ones of the gradient of the policy's "
        "log-probability; full: every weight; none: nothing moves but by improving; "
        "auto: given adapters, else a set for the model, else features under regression "
        "(none with fewer than 256 samples and votes on pairs), full under known and sign.",
    )
    adapters: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        max_length=32,
        description="2 to 32 LoRAs of this model: PEFT folders, hub ids with their revision "
        "(owner/name@revision), or a set, by its folder or name.",
    )
    dim: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        8,
        description='Number of coordinates (not of full and adapters); "auto": as many as the '
        "votes can tell apart.",
    )
    samples: Annotated[int, Field(ge=8, le=100_000)] | None = Field(
        None,
        description="Base answers read in the set-up, without a vote; default: 1,024 for "
        "features, 256 for adapters, else 384.",
    )
    setup_seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of the set-up: with equal model, prompts and sampling, equal "
        "coordinates.",
    )


class Features(Section):
    """Your own named features, for subspace.kind features, adapters or none."""

    add: Annotated[
        list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
    ] = Field(
        default_factory=list,
        max_length=100,
        description="Features beside the dictionary's: regex:PATTERN, keyword:sea+sun, judge: "
        "WHAT IT RATES, a plug-in's name or package.module:function, each also as "
        "NAME = FORM; and say: cheerful, no lists, which raises the odds of what it"
        " names.",
    )
    drop: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="Features of the dictionary to leave out, by name, or group:NAME.",
    )
    layer: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="Layer whose hidden states votes are fitted on beside named features, where"
        " subspace.kind is none; 0: none; auto: five sixths of the depth.",
    )
    prior: Annotated[
        list[PathText], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
    ] = Field(
        default_factory=list,
        max_length=MOST_EARLIER,
        description="Earlier tastes of this model (taste.json), which the votes may resemble in "
        "hidden states.",
    )

    @field_validator("add")
    @classmethod
    def _has_words(cls, given: list[str]) -> list[str]:
        if any(is_said(each) and not words(each.partition(":")[2]) for each in given):
            raise ValueError("say: needs words, as in say: cheerful, no lists")
        return given

    @property
    def own(self) -> tuple[str, ...]:
        """The added features."""
        return tuple(each for each in self.add if not is_said(each))

    @property
    def said(self) -> tuple[str, ...]:
        """The added lines in a person's words."""
        return tuple(each.partition(":")[2] for each in self.add if is_said(each))

    @property
    def judged(self) -> tuple[str, ...]:
        """The added features that a judge rates."""
        return tuple(each for each in self.add if is_judged(each))


class Prompts(Section):
    """The prompts that the model answers."""

    path: PathText | None = Field(
        None,
        description="File of prompts, .csv, .jsonl, .json or .txt; default: szpo's own.",
    )
    system: str | None = Field(
        None, max_length=65_536, description="System prompt before every conversation."
    )


class Generation(Section):
    """How answers are sampled."""

    max_new_tokens: int = Field(24, ge=1, le=4096, description="Longest answer, tokens.")
    temperature: Positive = Field(1.0, le=100, description="Sampling temperature.")
    top_p: float = Field(
        1.0, gt=0, le=1, allow_inf_nan=False, description="Nucleus sampling; 1: off."
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], max_length=16, description="Texts that end an answer."
    )
    whole_sentences: bool = Field(
        False, description="End an answer that is too long after its last full sentence."
    )


@dataclass(frozen=True)
class EngineKind:
    """What goes with an `engine.kind`."""

    module: str = ""
    """It has `demand`, `unreachable`, `load`, `measure` and `leave`, as Ray's has them."""
    rows: int | None = None
    """Default of `Engine.chunk_rows`."""
    own: tuple[str, ...] = ()
    """Settings that not every kind has; they may change when a run is resumed."""
    holds_model: bool = False
    """Whether workers hold the model, and the run's process does not."""


ELSEWHERE = {
    "ray": EngineKind("szpo.policies.ray_engine", 32,
                      ("address", "workers"), True),
    "vllm": EngineKind("szpo.policies.vllm_engine", 128,  # servers batch requests themselves
                       ("address", "adapters")),
}  # fmt: skip
"""Engines outside the run's process; a new one needs a row here and its module."""


class Engine(Section):
    """Where answers are generated: in this process, by workers, or by servers."""

    kind: Annotated[str, OneOf(("local", *ELSEWHERE), "szpo.engines")] = Field(
        "local",
        description="local: in the run's process; ray: by Ray workers (extra ray); vllm: by "
        "vLLM servers (extra judge); or a plug-in.",
    )
    address: (
        Annotated[
            Annotated[list[str], Field(min_length=1, max_length=4096)],
            BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        ]
        | None
    ) = Field(
        None,
        description="ray: host:port of a cluster, on which whoever reaches it can run code, by "
        "default one on this machine's cores; vllm: the servers, such as "
        f'["http://localhost:8000"]; their key belongs in ${ENGINE_KEY}.',
    )
    workers: int = Field(
        1,
        ge=1,
        le=4096,
        description="Number of workers; each has a whole model and a core, or a GPU where "
        "model.device is cuda.",
    )
    adapters: PathText | None = Field(
        None,
        description="Folder for adapter files that this process writes and the vLLM servers "
        "read, under the same path; default, if all are on this machine: a "
        "temporary one.",
    )
    chunk_rows: Count | None = Field(
        None,
        description="Rows answered at once; equal seeds give equal answers only with equal "
        "chunk_rows. Default: all of a step (local), 32 (ray), 128 (vllm).",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        for kind, each in ELSEWHERE.items():
            for name in each.own:
                default = type(self).model_fields[name].default
                if name not in self.traits.own and getattr(self, name) != default:
                    raise ValueError(
                        f'{name} goes with engine.kind "{kind}"; engine.kind is "{self.kind}"'
                    )
        if self.kind == "vllm":
            if not self.address:
                raise ValueError('address is missing; kind "vllm" needs that of a server')
            if odd := [each for each in self.address if not SERVER.fullmatch(each)]:
                raise ValueError(
                    "address must be with http:// or https:// and without user name, ? and # "
                    f"(got {odd[0]!r})"
                )
            if len({*map(server_root, self.address)}) < len(self.address):
                raise ValueError("address has a server twice; name each once")
        if self.kind == "ray" and len(self.address or ()) > 1:
            raise ValueError("address: a Ray cluster has one, that of its head")
        return self

    @property
    def traits(self) -> EngineKind:
        """What goes with the kind."""
        return ELSEWHERE.get(self.kind, EngineKind())

    @property
    def cluster(self) -> str | None:
        """The address of a Ray cluster; None: one of this machine's own."""
        return self.address[0] if self.address else None

    @property
    def rows(self) -> int | None:
        """Rows in a chunk; None: all rows of a call."""
        return self.traits.rows if self.chunk_rows is None else self.chunk_rows

    @property
    def is_local(self) -> bool:
        """Whether the run's own process holds the model, without workers or servers."""
        return self.kind not in ELSEWHERE


class Judge(Section):
    """The judge: a language model or small scorer that votes if panel.kind is judge."""

    model: PathText = Field(
        "smollm2",
        min_length=1,
        description="A model, as in model.name; the file of a scorer by szpo scorer, which ends"
        f" in {SCORER}; or the model's name at base_url.",
    )
    ask: Literal["verdict", "grades", "soft"] = Field(
        "verdict",
        description="verdict: the judge writes reasons, then A, B or tie; grades: it grades "
        "each side alone, 1 to 5; soft: log-probabilities of A and B, nothing is "
        "written.",
    )
    decide: Literal["tie", "debias", "draw"] = Field(
        "tie",
        description="tie: what both orders of the sides name, else a tie; debias: the mean of "
        "their logits (soft); draw: a vote drawn with the probability (soft, "
        "scorer).",
    )
    principles: PathText | None = Field(
        None,
        description="File of principles, one a line, of which each question uses a random one; "
        "default: panel.guideline.",
    )
    references: PathText | None = Field(
        None,
        description='JSONL file of {"prompt": …, "reference": …}: good answers that the judge '
        "sees.",
    )
    max_tokens: int = Field(
        256, ge=1, le=32_768, description="Longest reply to one question, tokens."
    )
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@?#]+$",
        description="A server that speaks OpenAI's chat completions, such as "
        f"http://localhost:8000/v1; its key belongs in ${JUDGE_KEY}, which is never "
        "stored.",
    )

    @property
    def kind(self) -> Literal["local", "endpoint", "scorer"]:
        """Where the judge is: in this process, at an endpoint, or in a scorer's file."""
        if self.base_url is not None:
            return "endpoint"
        return "scorer" if self.model.endswith(SCORER) else "local"

    @property
    def same_each_time(self) -> bool:
        """Whether the judge always gives the same answer, so that a second vote adds nothing."""
        return not (self.decide == "draw" or self.principles)

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        soft = self.ask == "soft" or self.kind == "scorer"
        if self.decide == "draw" and not soft:
            raise ValueError('decide "draw" needs a probability: ask "soft", or a scorer')
        if self.decide == "debias" and self.ask != "soft":
            raise ValueError('decide "debias" needs log-probabilities: set ask to "soft"')
        if self.kind == "scorer" and (self.principles or self.references):
            raise ValueError("a scorer reads no principles and no references; leave them out")
        return self
