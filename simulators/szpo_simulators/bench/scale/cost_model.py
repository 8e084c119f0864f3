"""What a step costs on workers: bytes, seconds and money from its shape. No clock, no network.

`szpo bench scale` measures the constants and holds the model against what it measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TOKEN_BYTES: Final = 4
COORDINATE_BYTES: Final = 4
ROW_BYTES: Final = 18
"""Of a row: numbers of its prompt, member and key, its place in the key's stream; its share of
the lengths of the prompts."""
CHUNK_BYTES: Final = 232
"""Of a chunk: sampling settings, the members' shifts and keys, the worker's seconds."""
CHUNK_S: Final = 0.003
"""What the controller and Ray take for a chunk, one after the other."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step asks of the workers."""

    rows: int
    """Answers to be written: 2·K·N·D."""
    chunk_rows: int
    prompt_tokens: float
    """Mean length of a prompt; plus and minus of a comparison share it."""
    new_tokens: int
    """Tokens of an answer, at most."""
    dim: int
    """Coordinates d."""

    @property
    def chunks(self) -> int:
        """Chunks of a step.

        >>> StepShape(rows=128, chunk_rows=32, prompt_tokens=40, new_tokens=24, dim=8).chunks
        4
        """
        return math.ceil(self.rows / self.chunk_rows)

    @property
    def tokens(self) -> float:
        """Tokens that cross: a prompt for every two answers, and the answers."""
        return self.rows * (self.prompt_tokens / 2 + self.new_tokens)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of a run, as measured or as assumed."""

    workers: int
    tokens_per_second: float
    """New tokens of one worker."""
    chunk_s: float = CHUNK_S
    bytes_per_second: float = 100e6
    """Of the controller's network."""
    price_per_hour: float = 0.0
    """Of one worker; the caller's currency."""


def step_bytes(shape: StepShape) -> float:
    """Bytes of a step in both directions: a + b·tokens + c·d, whatever the model's size.

    a = chunks · `CHUNK_BYTES` + rows · `ROW_BYTES`, b = `TOKEN_BYTES`, c = chunks ·
    `COORDINATE_BYTES`.

    >>> step_bytes(StepShape(rows=128, chunk_rows=32, prompt_tokens=40, new_tokens=24, dim=8))
    25888.0
    """
    return (
        shape.chunks * (CHUNK_BYTES + COORDINATE_BYTES * shape.dim)
        + shape.rows * ROW_BYTES
        + TOKEN_BYTES * shape.tokens
    )


def setup_bytes(fixed: int, moving: int, dim: int) -> int:
    """Bytes that a worker gets once: LoRA factors, and a column of the basis per coordinate.

    Args:
        fixed: Weights of factors that never move (A).
        moving: Weights of those that do (B).
        dim: Coordinates d.
    """
    return 4 * (fixed + moving * (1 + dim))


def step_seconds(shape: StepShape, fleet: Fleet) -> float:
    """Seconds until the last answer of a step: whole rounds of chunks, then what is not parallel.

    Equal workers are assumed; `szpo bench scale --parts plan` simulates others.

    >>> shape = StepShape(rows=128, chunk_rows=32, prompt_tokens=40, new_tokens=24, dim=8)
    >>> round(step_seconds(shape, Fleet(workers=2, tokens_per_second=384)), 2)
    4.01
    """
    rounds = math.ceil(shape.chunks / fleet.workers)
    work = rounds * min(shape.chunk_rows, shape.rows) * shape.new_tokens / fleet.tokens_per_second
    return work + shape.chunks * fleet.chunk_s + step_bytes(shape) / fleet.bytes_per_second


def step_price(seconds: float, fleet: Fleet) -> float:
    """What the workers cost while a step is generated; votes and waiting for them come on top.

    >>> step_price(3600, Fleet(workers=2, tokens_per_second=1, price_per_hour=2.5))
    5.0
    """
    return seconds / 3600 * fleet.workers * fleet.price_per_hour
