"""Attention over a flat list of tokens, with its own key-value cache.

The model sees one sequence [1, tokens] that holds all rows one after another, without padding;
each token has its position in its row. Only attention has to know which token belongs to which
row. It is registered with transformers under its own name, so the model's code stays unchanged.

`RowCache` attends while rows are decoded, `PrefillPass` while prompts are read. Common parts of
prompts are computed once; `szpo.generation.prefill` shows units, prefixes and lower layers.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from szpo import turns
from szpo.errors import RunError

NAME = "szpo_flat"


class Attends(Protocol):
    """Computes the attention of a forward pass from the queries, keys and values of each layer."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Outputs (tokens, heads, size) for q of the same shape and k and v (tokens, kv, size)."""


class Store(Protocol):
    """Takes the keys and values (sequences, kv, longest, size) that a prefill has computed."""

    def __call__(self, layer: int, k: Tensor, v: Tensor, *, expanded: bool) -> None:
        """Called once per layer; ``expanded``: the sequences have been expanded to units."""


_attends: contextvars.ContextVar[Attends] = contextvars.ContextVar("szpo_attends")


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
    """Attention with the signature that transformers calls; tensors (1, heads, tokens, size)."""
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise RunError(f"flat attention does not support {name}; use GenerateEngine")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    kinds = getattr(getattr(module, "config", None), "layer_types", None) or {}
    if sliding_window is None and layer < len(kinds) and kinds[layer] != "full_attention":
        raise RunError(f"flat attention does not know layers of {kinds[layer]}")
    return _attends.get().attend(layer, q, k, v, scale, sliding_window)[None], None


AttentionInterface.register(NAME, flat_attention)


@contextmanager
def use_flat_attention(model: Any) -> Iterator[Callable[[], None]]:
    """Let ``model`` attend through `flat_attention` inside the block.

    Yields a pause point (`szpo.turns`), at which the model attends as before.
    """
    before = model.config._attn_implementation

    def pause() -> None:
        if turns.is_over():
            model.set_attn_implementation(before)
            try:
                turns.pause()
            finally:
                model.set_attn_implementation(NAME)

    model.set_attn_implementation(NAME)
    try:
        yield pause
    finally:
        model.set_attn_implementation(before)


@contextmanager
def attend_with(attends: Attends) -> Iterator[None]:
    """Let ``attends`` compute the attention of every layer inside the block."""
    token = _attends.set(attends)
    try:
        yield
    finally:
        _attends.reset(token)


class RowCache:
    """Key-value cache of the rows being generated: per layer K and V (rows, kv, columns, size).

    A row's tokens fill its columns 0 … length − 1 without gaps, so a column is a position.
    """

    def __init__(self, lengths: Tensor, columns: int):
        self.lengths = lengths
        self.columns = columns
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._index = torch.arange(len(lengths), device=lengths.device)
        self._masks: dict[int | None, Tensor] = {}

    def write(self, layer: int, rows: slice, at: int, k: Tensor, v: Tensor) -> None:
        """Write k and v (rows, kv, n, size) to columns at … at + n − 1."""
        for store, new in ((self.keys, k), (self.values, v)):
            if layer not in store:
                shape = (len(self.lengths), new.shape[1], self.columns, new.shape[3])
                store[layer] = new.new_zeros(shape)
            store[layer][rows, :, at : at + new.shape[2]] = new

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self.lengths = self.lengths[rows]
        self._index = torch.arange(len(rows), device=rows.device)
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer][rows]

    def advance(self) -> None:
        """Add the token that has just been written to every row's length."""
        self.lengths = self.lengths + 1
        self._masks = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where the row's newest token may attend, −∞ elsewhere: (rows, 1, 1, columns)."""
        if window not in self._masks:
            column = torch.arange(self.columns, device=self.lengths.device)
            ahead = self.lengths[:, None] - column  # the newest token is at column `lengths`
            seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
            zero = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window] = zero.masked_fill(~seen, float("-inf"))[:, None, None]
        return self._masks[window]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """One new token per row: write its key and value, attend to the row's own past."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self._index, :, self.lengths] = k
        values[self._index, :, self.lengths] = v
        mask = self.mask(window, q.dtype)
        n, kv, size = k.shape
        # Query heads that share a key head are the rows of one small product: no key is repeated.
        # All columns are used, with empty ones masked: a slice would be copied before the product.
        q = (q * scale).reshape(n * kv, -1, size)
        scores = torch.bmm(q, keys.flatten(0, 1).transpose(1, 2)).view(n, kv, -1, self.columns)
        weights = torch.softmax(scores.add_(mask), dim=-1, dtype=torch.float32).to(v.dtype)
        out = torch.bmm(weights.view(n * kv, -1, self.columns), values.flatten(0, 1))
        return out.view(n, -1, size)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Keys and values of the tokens that all prompts start with, computed once per member."""

    length: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per layer K and V (members, kv, length, size); one for all below the first adapted layer."""

    def pick(self, layer: int, prefix_of: Tensor) -> tuple[Tensor, Tensor]:
        """K and V (sequences, kv, length, size) of the prefixes with numbers ``prefix_of``."""
        k, v = self.layers[layer]
        pick = prefix_of if len(k) > 1 else torch.zeros_like(prefix_of)
        return k[pick], v[pick]


class PrefillPass:
    """One pass over the tokens of several sequences, after their cached prefixes if any.

    With ``shared`` the flat list first holds one copy of each sequence, and `expand` turns it into
    units at the first adapted layer; otherwise it holds the units from the start.
    """

    def __init__(
        self,
        lengths: Tensor,
        units: tuple[Tensor, Tensor],
        store: Store,
        *,
        prefixes: Prefixes,
        shared: bool,
        device: torch.device,
    ):
        """``lengths``: the sequences' tokens after the prefix; ``store`` takes K and V.

        ``units``: for each unit the number of its sequence, and of the cached prefix it continues.
        """
        sequence_of, self._unit_prefix_of = units
        self._store = store
        self._device = device
        self._prefixes = prefixes
        self._unit_lengths = lengths[sequence_of]
        self.expanded = not shared
        first = lengths.cumsum(0) - lengths
        spans = zip(first[sequence_of].tolist(), self._unit_lengths.tolist(), strict=True)
        self.index = torch.cat([torch.arange(begin, begin + n) for begin, n in spans])
        """The place of each of the units' tokens among the tokens of the sequences."""
        self.tokens = int(lengths.sum())
        if shared:
            self._lay_out(lengths, torch.zeros(len(lengths), dtype=torch.long))
        else:
            self._lay_out(self._unit_lengths, self._unit_prefix_of)

    def _lay_out(self, lengths: Tensor, prefix_of: Tensor) -> None:
        """Compute the places of the flat list's tokens in the padded (sequences, longest) form."""
        self._prefix_of = prefix_of
        longest = int(lengths.max())
        flat = (torch.arange(longest) < lengths[:, None]).flatten().nonzero()[:, 0]
        first = lengths.cumsum(0) - lengths
        padded = (first[:, None] + torch.arange(longest)).clamp(max=int(lengths.sum()) - 1)
        self._flat, self._padded = flat.to(self._device), padded.to(self._device)
        self._masks: dict[int | None, Tensor] = {}

    def expand(self) -> None:
        """Expand the flat list: from here on it holds the units' tokens."""
        self._lay_out(self._unit_lengths, self._unit_prefix_of)
        self.expanded = True

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a token may attend, −∞ elsewhere: (1, 1, longest, prefix + longest)."""
        if window not in self._masks:
            longest = self._padded.shape[1]
            query = self._prefixes.length + torch.arange(longest)[:, None]
            ahead = query - torch.arange(self._prefixes.length + longest)
            seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
            zero = torch.zeros(seen.shape, dtype=dtype)
            mask = zero.masked_fill(~seen, float("-inf"))[None, None]
            self._masks[window] = mask.to(self._device)
        return self._masks[window]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """All tokens of the sequences: each attends to its prefix and to earlier tokens."""
        q, k, v = (t[self._padded].transpose(1, 2) for t in (q, k, v))
        self._store(layer, k, v, expanded=self.expanded)
        if self._prefixes.length:
            prefix_k, prefix_v = self._prefixes.pick(layer, self._prefix_of)
            k = torch.cat([prefix_k, k], dim=2)
            v = torch.cat([prefix_v, v], dim=2)
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = self.mask(window, q.dtype)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)[self._flat]


@contextmanager
def expand_at(layers: Sequence[nn.Module], prefill: PrefillPass) -> Iterator[None]:
    """Turn sequences into units when the first of ``layers`` (the adapted ones) is reached.

    Later layers still get the short form of their keyword inputs (positions, rotations) from the
    model's own loop, so each of them expands every input of the short length.
    """
    # Short and long form by the id of the short form; holding it keeps its id unique.
    forms: dict[int, tuple[Any, Any]] = {}

    def expand(value: Any) -> Any:
        if isinstance(value, Tensor):
            fits = value.dim() > 1 and value.shape[1] == prefill.tokens
            if not fits or len(prefill.index) == prefill.tokens:
                return value
            if id(value) not in forms:
                forms[id(value)] = (value, value[:, prefill.index])
            return forms[id(value)][1]
        if isinstance(value, tuple | list):
            return type(value)(expand(item) for item in value)
        if isinstance(value, dict):
            return {name: expand(item) for name, item in value.items()}
        return value

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not prefill.expanded:
            prefill.expand()
        return expand(args), expand(kwargs)

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
