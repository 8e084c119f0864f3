"""Requests to and replies from a vLLM server, as plain JSON values, without the network.

szpo uses these parts of vLLM's OpenAI-compatible server: ``/v1/completions`` with a prompt of
tokens, ``return_token_ids`` and ``logprobs``; ``/v1/models``; and ``/metrics``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from szpo.models.sampling import Sampling


class MessageError(Exception):
    """A reply is incomplete, or is not the expected kind of reply."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row to answer: the model's or adapter's name on the server, prompt tokens, and seed."""

    model: str
    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The new tokens of a row, with the end token if any, and the log-probability of each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """In nats, as reported by the server, before temperature, top-p and top-k are applied."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding settings that all rows of a request share."""

    sampling: Sampling
    stop_tokens: tuple[int, ...]
    """Tokens that end an answer."""
    words: int
    """Size of the vocabulary."""


def completion_request(row: Row, decoding: Decoding) -> dict[str, Any]:
    """The body of ``/v1/completions`` for one row.

    Every number is given that the server would otherwise take from ``generation_config.json``.
    The model's end tokens are ignored; only the run's end an answer. A cache salt per model keeps
    the prefix caches of different adapters apart, on servers that support it.
    """
    sampling = decoding.sampling
    return {
        "model": row.model,
        "prompt": list(row.prompt),
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
        "seed": row.seed,
        "ignore_eos": True,
        "stop_token_ids": list(decoding.stop_tokens),
        "logprobs": 1,
        "return_token_ids": True,
        "cache_salt": row.model,
        "stream": False,
    }


def read_completion(body: Any, row: Row, decoding: Decoding) -> RowAnswer:
    """The answer in a reply of ``/v1/completions``."""
    try:
        (choice,) = body["choices"]
        tokens = tuple(choice["token_ids"])
        logprobs = tuple(choice["logprobs"]["token_logprobs"])
        end, prompt = choice["finish_reason"], choice.get("prompt_token_ids")
    except (KeyError, TypeError, ValueError):
        raise MessageError("a reply without choice, token_ids or logprobs") from None
    if body.get("model") != row.model:
        raise MessageError("a reply in another model's name")
    if prompt is not None and tuple(prompt) != row.prompt:
        raise MessageError("a reply to another prompt")
    if not all(type(t) is int and 0 <= t < decoding.words for t in tokens):
        raise MessageError("a reply with tokens outside the vocabulary")
    if len(logprobs) != len(tokens) or not all(_is_number(p) for p in logprobs):
        raise MessageError("a reply whose log-probabilities are not one per token")
    ends = [i for i, token in enumerate(tokens) if token in decoding.stop_tokens]
    if end == "stop":
        whole = ends == [len(tokens) - 1]
    else:
        full = len(tokens) == decoding.sampling.max_new_tokens
        whole = end == "length" and full and not ends
    if not whole:
        raise MessageError(f"half an answer ({len(tokens)} tokens, end {end!r})")
    return RowAnswer(tokens, tuple(float(p) for p in logprobs))


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that fits a float; infinities are checked later."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def row_seed(uniform: float) -> int:
    """A seed in [0, 2⁵³) from a row's first uniform number, so that each row has its own.

    >>> row_seed(0.5) == 2**52
    True
    """
    return int(uniform * 2.0**53)


def served_names(body: Any) -> tuple[list[str], list[str]]:
    """Names of the models and of the adapters in a reply from ``/v1/models``.

    Raises:
        MessageError: the list cannot be read.
    """
    try:
        cards = [(str(card["id"]), bool(card.get("parent"))) for card in body["data"]]
    except (KeyError, TypeError, AttributeError):
        raise MessageError("its list of models cannot be read") from None
    return [n for n, adapter in cards if not adapter], [n for n, adapter in cards if adapter]


def caches_prefixes(metrics: str) -> bool:
    """Whether the text of ``/metrics`` says that a prefix cache is on.

    >>> caches_prefixes('vllm:cache_config_info{enable_prefix_caching="True"} 1.0')
    True
    """
    lines = re.findall(r"^vllm:cache_config_info\{(.*)\}", metrics, flags=re.MULTILINE)
    return any('enable_prefix_caching="True"' in line for line in lines)
