"""What is known of a model without its weights, and prompts fitted to what it reads at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.models import adapters, loading
from szpo.models.devices import Dtype
from szpo.models.loading import Described, ModelFacts, Quantization
from szpo.types import Prompt

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names under which configurations give the number of positions."""
SANE = 10**8
"""Largest credible limit; tokenizers without one of their own give 10**30."""


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer, and the length of its context."""

    name: str
    tokenizer: Any
    most: int | None
    """Tokens that it reads at most; None: it has no limit."""

    def tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, through the chat template."""
        return len(loading.encode(self.tokenizer, prompt))

    def over(self, tokens: int) -> bool:
        """Whether ``tokens`` are more than the model reads."""
        return self.most is not None and tokens > self.most


def load_reader(name: str) -> Reader:
    """Make the reader of a model by name; loads no weights, and fetches none from the hub."""
    folder = loading.locate(name, weights=False)
    tokenizer = loading.load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(loading.describe_failure(folder, error)) from None
    return Reader(name, tokenizer, most(config, tokenizer))


def reader_of(facts: ModelFacts) -> Reader:
    """The reader of a loaded model, or of one described without its weights."""
    return Reader(facts.name, facts.tokenizer, most(facts.config, facts.tokenizer))


def most(config: Any, tokenizer: Any) -> int | None:
    """The smaller of the limits of configuration and tokenizer; None where neither has one."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(inner, name, None) for name in NAMES]
    limits.append(getattr(tokenizer, "model_max_length", None))
    found = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < SANE]
    return min(found, default=None)


def require_room(reader: Reader, rows: Sequence[Sequence[int]], new: int) -> None:
    """Refuse rows of tokens that leave no room for ``new`` more."""
    longest = max(map(len, rows), default=0)
    if reader.over(longest + new):
        raise UsageError(
            f"a prompt of {longest:,} tokens and {new:,} for the answer are more than the "
            f"{reader.most:,} that model {reader.name} reads; shorten the prompt, or lower "
            "generation.max_new_tokens"
        )


def describe(
    name: str,
    *,
    dtype: Dtype,
    quantization: Quantization | None = None,
    adapter: str | Path | None = None,
    device: str = "cpu",
) -> Described:
    """Describe a model from its small files; no weights are read or downloaded."""
    folder = loading.locate(name, weights=False)
    start = None if adapter is None else adapters.read_adapter(Path(adapter))
    if start is not None:
        adapters.tell_base(start, name, folder)
    tokenizer = loading.load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        generation = (
            GenerationConfig.from_pretrained(folder)
            if (folder / "generation_config.json").is_file()
            else GenerationConfig.from_model_config(config)
        )
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(loading.describe_failure(folder, error)) from None
    rows = config.get_text_config().vocab_size
    loading.require_rows(tokenizer, rows, folder)
    return Described(
        tokenizer, config, generation, name, folder, dtype, quantization, start,
        torch.device(device),
    )  # fmt: skip


def fit_prompts(prompts: PromptSet, reader: Reader, new: int) -> PromptSet:
    """Refuse prompts that leave no room for ``new`` tokens; warn of those with control words."""
    if reader.over(new + 1):
        raise UsageError(
            f"generation.max_new_tokens {new:,} leaves no room for a prompt: model {reader.name} "
            f"reads {reader.most:,} tokens; lower it"
        )
    places = prompts.places
    every = tuple(dict.fromkeys((*places, *prompts.train, *prompts.heldout)))
    long = {p: n for p in every if reader.over((n := reader.tokens(p)) + new)}
    if long:
        prompt, tokens = next(iter(long.items()))
        more = f" ({len(long) - 1} more prompts are too long)" if len(long) > 1 else ""
        raise UsageError(
            f"{_locate(prompt, places)}: {tokens:,} tokens and {new:,} for the answer "
            f"(generation.max_new_tokens) are more than the {reader.most:,} that model "
            f"{reader.name} reads; shorten it, or lower generation.max_new_tokens{more}"
        )
    held = sum(bool(loading.held_control_words(reader.tokenizer, prompt)) for prompt in every)
    if not held or any("control words" in warning for warning in prompts.warnings):
        return prompts
    note = f"{held} prompts with control words of the model (kept as text)"
    return replace(prompts, warnings=(*prompts.warnings, note))


def _locate(prompt: Prompt, places: Mapping[Prompt, str]) -> str:
    """The file and line of a prompt, or its first words."""
    if prompt in places:
        return places[prompt]
    text = " ".join(prompt.text.split())
    return f'prompt "{text if len(text) <= 40 else text[:39] + "…"}"'
