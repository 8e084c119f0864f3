"""How the next token is drawn: sampling settings, and one uniform number per row and token.

A token is found by inverting the cumulative distribution in the order of the vocabulary, in two
levels: blocks of tokens, then the tokens of one block. One uniform per row decides, so two
policies that share it (common random numbers) differ only where their distributions do, and no
noise per vocabulary entry is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from szpo import seeds
from szpo.errors import LogitsError, UsageError
from szpo.types import Floats, Shift

BLOCK = 256
"""Tokens in a block; the coarse level sums blocks, the fine level searches one block."""
CHUNK = 16
"""Rows drawn at once: their probabilities fit in the cache, and memory is reused."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a run; the defaults draw from the model's own distribution.

    ``temperature`` 0 takes the likeliest token; ``top_p`` 1 means no cut.
    ``stop`` are texts that end an answer and are cut off, besides the model's end tokens. With
    ``whole_sentences`` an answer ends at its last full sentence.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 24
    stop: tuple[str, ...] = ()
    whole_sentences: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < float("inf")):
            raise UsageError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")

    def facts(self) -> dict[str, Any]:
        """The settings as part of a key; ``whole_sentences`` is named only where it is on.

        ``top_k`` was a setting once; what ships is named with it, in its place.
        """
        first = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        rest = {n: v for n, v in asdict(self).items() if n != "whole_sentences" or v}
        return {**first, **rest}


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is sampled, fp32 (rows, words), from logits (rows, words).

    Rows are not renormalised after top-p; `draw` scales by their sum.

    >>> probabilities(torch.tensor([[0.0, 0.0, -30.0]]), Sampling(top_p=0.9)).round(decimals=3)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    if sampling.temperature != 1.0:
        logits = logits.to(torch.float32) / sampling.temperature
    p = torch.softmax(logits, dim=-1, dtype=torch.float32)
    if sampling.top_p < 1.0:
        ordered, index = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the likelier tokens
        limit = sampling.top_p * p.sum(-1, keepdim=True)
        p = torch.zeros_like(p).scatter(-1, index, ordered.where(before < limit, 0.0))
    return p


def draw(
    logits: Tensor, uniforms: Tensor, sampling: Sampling, never: Sequence[int] = ()
) -> Tensor:
    """One token a row: int64 (rows,) from logits (rows, words) and uniforms (rows,) in [0, 1).

    Those in ``never`` are not drawn.
    """
    if never:
        places = torch.tensor(never, device=logits.device)
        logits = logits.index_fill(-1, places, float("-inf"))
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    parts = [slice(begin, begin + CHUNK) for begin in range(0, len(logits), CHUNK)]
    return torch.cat([_draw(logits[rows], uniforms[rows], sampling) for rows in parts])


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which does not have float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def place_uniforms(uniforms: Floats, device: torch.device) -> Tensor:
    """Move uniform numbers to a device, in its `widest_dtype`."""
    return torch.from_numpy(uniforms).to(widest_dtype(device)).to(device)


def _draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    p = probabilities(logits, sampling)
    rows, words = p.shape
    if words % BLOCK:
        p = torch.nn.functional.pad(p, (0, BLOCK - words % BLOCK))
    p = p.view(rows, -1, BLOCK)
    wide = widest_dtype(p.device)
    coarse = p.sum(-1).to(wide).cumsum(-1)
    if not bool(torch.isfinite(coarse[:, -1]).all()):
        raise LogitsError(
            "generation: the model's logits are not finite; lower optimizer.kl_radius, or set "
            "model.dtype to fp32"
        )
    target = uniforms.to(wide) * coarse[:, -1]
    block = _invert(coarse, target)
    below = torch.where(block > 0, coarse.gather(1, (block - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    fine = p[torch.arange(rows, device=p.device), block].to(wide).cumsum(-1)
    return block * BLOCK + _invert(fine, target - below)


def _invert(cumulative: Tensor, target: Tensor) -> Tensor:
    """First column whose cumulative mass exceeds the target; never a column without mass."""
    column = (cumulative <= target[:, None]).sum(-1)
    last = (cumulative < cumulative[:, -1:]).sum(-1)  # rounding may put the target at the end
    return torch.minimum(column, last)


def row_key(seed: int, shift: Shift, *, crn: bool) -> bytes:
    """The key of a shift's rows; row i uses its stream's numbers from i · ``max_new_tokens`` on.

    With ``crn``, the plus and minus side of a direction have the same key.
    """
    return seeds.derive(seed, "sample", k=shift.k, name=None if crn else f"side {shift.sign}")
