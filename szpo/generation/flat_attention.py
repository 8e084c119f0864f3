"""Attention over a flat list of tokens, with a key-value cache of our own.

The model sees one sequence [1, tokens] in which all rows lie one after another (no padding), each
token with its own position. Only attention has to know which token belongs to which row; it is
registered with transformers under a name of its own, so the model's code stays untouched.

Three things that padded generation does for every row are done once here. *Units*: rows with the
same prompt and the same member share their prefill. *Heads*: the tokens that all prompts start
with are computed once per member. *Lower layers*: below the first adapted layer members do not
differ, so a prompt goes through once for all of them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from szpo.errors import RunError

NAME = "szpo_flat"


class Attend(Protocol):
    """What the current stage does with the queries, keys and values of one layer."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Outputs (tokens, heads, size) for q of that shape, k and v (tokens, kv, size)."""


class Store(Protocol):
    """Takes the keys and values (sequences, kv, longest, size) that a prefill has computed."""

    def __call__(self, stage: Prefill, layer: int, k: Tensor, v: Tensor) -> None:
        """Called once per layer."""


_stage: contextvars.ContextVar[Attend] = contextvars.ContextVar("szpo_stage")


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: tensors (1, heads, tokens, size)."""
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise RunError(f"flat attention knows no {name}; use the engine 'generate'")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return _stage.get().attend(layer, q, k, v, scale, sliding_window)[None], None


AttentionInterface.register(NAME, flat_attention)


@contextmanager
def flat_model(model: Any) -> Iterator[None]:
    """Let ``model`` attend through `flat_attention` inside the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def staged(stage: Attend) -> Iterator[None]:
    """Make ``stage`` the one that attends inside the block."""
    token = _stage.set(stage)
    try:
        yield
    finally:
        _stage.reset(token)


class Rows:
    """Key-value cache of the rows being generated: per layer K and V (rows, kv, columns, size).

    A row's tokens lie in its columns 0 … length − 1 without gaps, so a column is a position.
    """

    def __init__(self, lengths: Tensor, columns: int):
        self.lengths = lengths
        self.columns = columns
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._index = torch.arange(len(lengths), device=lengths.device)
        self._masks: dict[int | None, Tensor] = {}

    def write(self, layer: int, rows: slice, at: int, k: Tensor, v: Tensor) -> None:
        """Put k and v (rows, kv, n, size) into columns at … at + n − 1."""
        for store, new in ((self.keys, k), (self.values, v)):
            if layer not in store:
                shape = (len(self.lengths), new.shape[1], self.columns, new.shape[3])
                store[layer] = new.new_zeros(shape)
            store[layer][rows, :, at : at + new.shape[2]] = new

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.lengths = self.lengths[rows]
        self._index = torch.arange(len(rows), device=rows.device)
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer][rows]

    def advance(self) -> None:
        """Count the token that has just been written."""
        self.lengths = self.lengths + 1
        self._masks = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where the row's newest token may look, −∞ elsewhere: (rows, 1, 1, columns)."""
        if window not in self._masks:
            column = torch.arange(self.columns, device=self.lengths.device)
            ahead = self.lengths[:, None] - column  # the newest token sits at column `lengths`
            seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
            zero = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window] = zero.masked_fill(~seen, float("-inf"))[:, None, None]
        return self._masks[window]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """One new token per row: write its key and value, look at the row's own past."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self._index, :, self.lengths] = k
        values[self._index, :, self.lengths] = v
        mask = self.mask(window, q.dtype)
        n, kv, size = k.shape
        # Query heads that share a key head are the rows of one small product: nothing is repeated.
        # All columns take part, empty ones masked: a slice would be copied before the product.
        q = (q * scale).reshape(n * kv, -1, size)
        scores = torch.bmm(q, keys.flatten(0, 1).transpose(1, 2)).view(n, kv, -1, self.columns)
        weights = torch.softmax(scores.add_(mask), dim=-1, dtype=torch.float32).to(v.dtype)
        out = torch.bmm(weights.view(n * kv, -1, self.columns), values.flatten(0, 1))
        return out.view(n, -1, size)


class Prefill:
    """One pass over the tokens of several sequences, optionally after heads already cached.

    ``lengths`` are the sequences' own tokens. Units (sequence, member) are given by
    ``sequence_of`` and ``head_of`` (which cached head the unit continues). With ``shared`` the
    flat list starts with one copy of each sequence and `expand` turns it into units at the first
    adapted layer; otherwise it holds the units from the start.
    """

    def __init__(
        self,
        lengths: Tensor,
        sequence_of: Tensor,
        head_of: Tensor,
        store: Store,
        *,
        head: int = 0,
        heads: dict[int, tuple[Tensor, Tensor]] | None = None,
        shared: bool = False,
        device: torch.device | None = None,
    ):
        self._store = store
        self._device = device or torch.device("cpu")
        self._head = head
        self._heads = heads or {}
        self._unit_lengths = lengths[sequence_of]
        self._unit_head_of = head_of
        self.expanded = not shared
        first = lengths.cumsum(0) - lengths
        spans = zip(first[sequence_of].tolist(), self._unit_lengths.tolist(), strict=True)
        self.index = torch.cat([torch.arange(begin, begin + n) for begin, n in spans])
        """Where each token of the units lies among the tokens of the sequences."""
        self.tokens = int(lengths.sum())
        if shared:
            self._lay(lengths, torch.zeros(len(lengths), dtype=torch.long))
        else:
            self._lay(self._unit_lengths, head_of)

    def _lay(self, lengths: Tensor, head_of: Tensor) -> None:
        """Where each token of the flat list sits in the padded (sequences, longest) form."""
        self._head_of = head_of
        longest = int(lengths.max())
        flat = (torch.arange(longest) < lengths[:, None]).flatten().nonzero()[:, 0]
        first = lengths.cumsum(0) - lengths
        padded = (first[:, None] + torch.arange(longest)).clamp(max=int(lengths.sum()) - 1)
        self._flat, self._padded = flat.to(self._device), padded.to(self._device)
        self._masks: dict[int | None, Tensor] = {}

    def expand(self) -> None:
        """From here on the flat list holds the units' tokens."""
        self._lay(self._unit_lengths, self._unit_head_of)
        self.expanded = True

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a token may look, −∞ elsewhere: (1, 1, longest, head + longest)."""
        if window not in self._masks:
            longest = self._padded.shape[1]
            query = self._head + torch.arange(longest)[:, None]
            ahead = query - torch.arange(self._head + longest)
            seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
            zero = torch.zeros(seen.shape, dtype=dtype)
            mask = zero.masked_fill(~seen, float("-inf"))[None, None]
            self._masks[window] = mask.to(self._device)
        return self._masks[window]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """All tokens of the sequences: each looks at its head and at its own earlier tokens."""
        q, k, v = (t[self._padded].transpose(1, 2) for t in (q, k, v))
        self._store(self, layer, k, v)
        if self._head:
            head_k, head_v = self._heads[layer]
            pick = own_head(head_k, self._head_of)
            k = torch.cat([head_k[pick], k], dim=2)
            v = torch.cat([head_v[pick], v], dim=2)
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = self.mask(window, q.dtype)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)[self._flat]


def own_head(heads: Tensor, head_of: Tensor) -> Tensor:
    """Which cached head each sequence continues; below the first adapted layer, the only one."""
    return head_of if len(heads) > 1 else torch.zeros_like(head_of)


@contextmanager
def expanding(layers: Sequence[nn.Module], stage: Prefill) -> Iterator[None]:
    """Turn sequences into units when the first of ``layers`` (the adapted ones) is reached.

    Later layers get their keyword inputs (positions, rotations) from the model's own loop, still
    in the short form, so each of them expands what has the short length.
    """
    known: dict[int, tuple[Any, Any]] = {}

    def long(value: Any) -> Any:
        if isinstance(value, Tensor):
            fits = value.dim() > 1 and value.shape[1] == stage.tokens
            if not fits or len(stage.index) == stage.tokens:
                return value
            if id(value) not in known:
                known[id(value)] = (value, value[:, stage.index])  # kept, so the id stays its own
            return known[id(value)][1]
        if isinstance(value, tuple | list):
            return type(value)(long(item) for item in value)
        if isinstance(value, dict):
            return {name: long(item) for name, item in value.items()}
        return value

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not stage.expanded:
            stage.expand()
        return long(args), long(kwargs)

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
