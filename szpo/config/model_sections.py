"""Settings of what is tuned: model, adapter, subspace, features, prompts, generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from szpo.config.section import Positive, Section
from szpo.features.own import is_judged, is_said
from szpo.features.reading import words


class Model(Section):
    """The base model, which is never changed."""

    name: str = Field(
        "smollm2",
        min_length=1,
        description="smollm2, tiny, a local folder (safetensors only), a hub id (owner/name), or "
        "auto: the largest model of docs/hardware.md that is already downloaded and fits into "
        "memory, otherwise smollm2. A run keeps the model it was created with.",
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Number format of the base weights: fp32, bf16, fp16, or auto (bf16; fp16 "
        "on mps and on GPUs without bf16, fp32 on CPUs without it); adapters are fp32.",
    )
    quantization: Literal["nf4", "fp4"] | None = Field(
        None, description="4-bit base weights: nf4 or fp4; default: not quantised."
    )
    adapter: str | None = Field(
        None, description="Folder of a PEFT LoRA adapter from which the run starts."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps|xpu)$",
        description="cpu, cuda, cuda:1, mps, xpu, or auto: the first GPU, otherwise the CPU. A "
        "run stays on the device it was created on.",
    )


class Adapter(Section):
    """The LoRA adapter: low-rank weights that the votes train."""

    rank: int = Field(1, ge=1, le=1024, description="LoRA rank r.")
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Names of the modules that get an adapter; default: the MLP's output "
        "(down_proj).",
    )
    layers: list[Annotated[int, Field(ge=0)]] | Literal["middle", "all"] = Field(
        "middle",
        description='"middle" (five layers centred at two thirds of the depth), "all", or a '
        "list of layer numbers.",
    )
    train: Literal["B", "AB"] = Field(
        "B", description="Train B over a fixed A, or both matrices (AB)."
    )


class Subspace(Section):
    """The subspace: the directions in which the votes may move the adapter."""

    kind: Annotated[
        Literal["auto", "score", "features", "adapters", "random", "full", "none"],
        BeforeValidator(lambda given: "none" if given is None else given),  # --set kind=none
    ] = Field(
        "auto",
        description="score: principal directions of the policy's own log-probability gradient; "
        "features: dim of those, then directions that change named features of the texts (both "
        "need a local model); adapters: the weights of the given adapters; random: random "
        "orthonormal ones; full: every weight; none: votes on rows are explained, and nothing "
        "moves; auto: given adapters; else score under other rules than regression, with "
        "optimizer.score_share or fewer than 256 samples; else those of a set for the model, or "
        "without one features.",
    )
    adapters: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        max_length=32,
        description="The adapters of kind adapters, 2 to 32 LoRAs of this model: PEFT folders, "
        "hub ids with their revision (owner/name@revision), or a set: its folder, or the name of "
        "one that ships.",
    )
    dim: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        8,
        description="Number of coordinates d (not used by full and adapters), or "
        '"auto": as many as the run\'s votes can tell apart.',
    )
    samples: Annotated[int, Field(ge=8, le=100_000)] | None = Field(
        None,
        description="Base answers read during set-up; they cost no votes. Default: 1,024 for "
        "features, 256 for adapters, otherwise 384. The coordinates shipped for szpo's own "
        "prompts were made from 4,096.",
    )
    redraws: int = Field(
        3,
        ge=0,
        le=64,
        description="Further score samples from each base answer, with tokens drawn again at all "
        "its positions; each takes less time than another answer.",
    )
    setup_seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of the set-up. Runs with the same setup_seed, model, prompts and "
        "sampling have the same coordinates, whatever their run.seed.",
    )


class Features(Section):
    """Your own named features, for subspace.kind features, adapters or none: docs/features.md."""

    add: Annotated[
        list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
    ] = Field(
        default_factory=list,
        max_length=100,
        description="Features to count besides the dictionary's: regex:PATTERN, keyword:sea+sun, "
        "like: FILE (nearness to your own texts, one a line), "
        "judge: WHAT IT RATES (by the judge of [judge]), a plug-in's name or "
        "package.module:function; write NAME = FORM to give it a name. Before any vote, votes "
        "are as likely to be about one of these as about any of the others, or as about what a "
        "line in your words names: say: cheerful, no lists.",
    )
    drop: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="Features of the dictionary to leave out, by name, or group:NAME.",
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

    path: str | None = Field(
        None,
        description="File of your own prompts, .csv, .jsonl, .json or .txt; default: szpo's own.",
    )
    column: str | None = Field(
        None,
        min_length=1,
        description="Column of a CSV file, or key of JSON records, that holds the prompt; "
        "default: text or prompt.",
    )
    system: str | None = Field(
        None, max_length=65_536, description="System prompt put before every conversation."
    )
    too_long: Literal["refuse", "cut"] = Field(
        "refuse",
        description="What to do with a prompt that is too long for the model, together with "
        "generation.max_new_tokens: refuse it before the run begins, or cut it (oldest turns "
        "first, then the beginning of the last turn; the end of the question stays).",
    )


class Generation(Section):
    """How answers are sampled."""

    max_new_tokens: int = Field(24, ge=1, le=4096, description="Longest answer, in tokens.")
    temperature: Positive = Field(1.0, le=100, description="Sampling temperature.")
    top_p: float = Field(
        1.0, gt=0, le=1, allow_inf_nan=False, description="Nucleus sampling (top-p); 1: off."
    )
    top_k: int = Field(0, ge=0, description="Sample from the k most probable tokens; 0: from all.")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [], max_length=16, description="Texts that end an answer."
    )
    whole_sentences: bool = Field(
        False, description="End an answer that is too long after its last full sentence."
    )
    common_random_numbers: bool = Field(
        True, description="Sample both batches of a comparison with the same random numbers."
    )
