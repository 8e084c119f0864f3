"""How many tokens a model reads at once, told from its configuration and tokenizer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.loading import Loaded
from szpo.types import Prompt

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")
"""What configurations call the number of positions that a model knows."""
SANE = 10**8
"""Tokenizers without a limit of their own say 10**30."""


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer and the most tokens it reads; None: it has no limit."""

    name: str
    tokenizer: Any
    most: int | None

    def tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt, through the chat template."""
        return len(loading.encode(self.tokenizer, prompt))

    def over(self, tokens: int) -> bool:
        """So many tokens are more than the model reads."""
        return self.most is not None and tokens > self.most


def reader(name: str) -> Reader:
    """The reader of a model by name; loads no weights, and fetches none from the hub.

    Raises:
        UsageError: No such model, or its configuration or tokenizer cannot be loaded.
    """
    folder = loading.locate(name, weights=False)
    tokenizer = loading.tokenizer_of(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(loading.unreadable(folder, error)) from None
    return Reader(name, tokenizer, most(config, tokenizer))


def of(loaded: Loaded) -> Reader:
    """The reader of a model that is loaded."""
    config = getattr(loaded.model, "config", None)
    return Reader(loaded.name, loaded.tokenizer, most(config, loaded.tokenizer))


def most(config: Any, tokenizer: Any) -> int | None:
    """The smaller of what the configuration and the tokenizer say; None where neither does."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    said = [getattr(inner, name, None) for name in NAMES]
    said.append(getattr(tokenizer, "model_max_length", None))
    known = [int(n) for n in said if isinstance(n, int | float) and 0 < n < SANE]
    return min(known, default=None)


def demand_room(asked: Reader, rows: Sequence[Sequence[int]], new: int) -> None:
    """Refuse rows of tokens that leave no room for ``new`` more.

    Raises:
        UsageError: One does; names the longest.
    """
    longest = max(map(len, rows), default=0)
    if asked.over(longest + new):
        raise UsageError(
            f"a prompt of {longest:,} tokens and {new:,} for the answer are more than the "
            f"{asked.most:,} that model {asked.name} reads; shorten the prompt, or lower "
            "generation.max_new_tokens"
        )
