"""Attention over a flat list of tokens: its cache, filled once for common parts of prompts.

The model sees one sequence [1, tokens] that holds all rows one after another, without padding;
each token has its position in its row. Only attention has to know which token belongs to which
row. It is registered with transformers under its own name, so the model's code stays unchanged.

`RowCache` attends while rows are decoded, `PrefillPass` while prompts are read, alone or with
their answers (`FlatReading`). Common parts of prompts are computed once. Two prompts A and B, each
answered twice by the members m0 and m1, are eight rows:

    rows        A·m0 A·m0   A·m1 A·m1   B·m0 B·m0   B·m1 B·m1    what is generated
    units       A·m0        A·m1        B·m0        B·m1         rows of a unit share its prefill
    sequences   A                       B                        the distinct prompts

One forward pass reads the *prefix*, the tokens that A and B both start with, another the rest:

    from the first adapted layer on   prefix·m0  prefix·m1   |   A·m0  A·m1  B·m0  B·m1
    in the lower layers               prefix                 |   A           B

Members do not differ below the first adapted layer, so there each sequence is computed once. It is
expanded into its units at that layer.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from szpo import background_work
from szpo.errors import RunError
from szpo.models.batched_lora import AdaptedModel, Deltas, adapted_layers, attach_deltas
from szpo.models.lora import Site

NAME = "szpo_flat"

_attends: contextvars.ContextVar[Attends] = contextvars.ContextVar("szpo_attends")
SHORTEST_SAVING = 256
"""Tokens that a common prefix must save to get its own forward pass."""


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

    Yields a pause point (`szpo.background_work`), at which the model attends as before.
    """
    before = model.config._attn_implementation

    def pause() -> None:
        if background_work.is_over():
            model.set_attn_implementation(before)
            try:
                background_work.pause()
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

    def save(self, layer: int, k: Tensor, v: Tensor, *, expanded: bool) -> None:
        """The `Store` of the pass that computes them."""
        self.layers[layer] = (k, v)

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
        self.prefixes = prefixes
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
            query = self.prefixes.length + torch.arange(longest)[:, None]
            ahead = query - torch.arange(self.prefixes.length + longest)
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
        if self.prefixes.length:
            prefix_k, prefix_v = self.prefixes.pick(layer, self._prefix_of)
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


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """The rows in generation order, and their common parts."""

    order: list[int]
    sequences: list[tuple[int, ...]]
    """The distinct prompts."""
    units: list[tuple[int, int]]
    """The distinct pairs (sequence, member), sorted."""
    unit_of_row: list[int]
    """The unit of each row in generation order; never decreases."""
    prefix: int
    """Length of the common prefix of all prompts that gets its own pass; 0 for none."""

    def member(self, row: int) -> int:
        """The member of a row, in generation order."""
        return self.units[self.unit_of_row[row]][1]


def plan_prefill(prompts: Sequence[Sequence[int]], members: Sequence[int]) -> PrefillPlan:
    """Group rows into units and sequences.

    >>> p = plan_prefill([[5, 6], [5, 7], [5, 6]], [0, 1, 1])
    >>> p.sequences, p.units, p.order
    ([(5, 6), (5, 7)], [(0, 0), (0, 1), (1, 1)], [0, 2, 1])
    """
    sequence_of: dict[tuple[int, ...], int] = {}
    keys = [
        (sequence_of.setdefault(tuple(prompt), len(sequence_of)), member)
        for prompt, member in zip(prompts, members, strict=True)
    ]
    units = sorted(set(keys))
    index = {unit: i for i, unit in enumerate(units)}
    order = sorted(range(len(keys)), key=lambda row: index[keys[row]])
    prefix = common_prefix(list(sequence_of))
    if prefix * (len(units) - len(set(members))) < SHORTEST_SAVING:
        prefix = 0
    unit_of_row = [index[keys[row]] for row in order]
    return PrefillPlan(order, list(sequence_of), units, unit_of_row, prefix)


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the common prefix of all sequences that leaves each at least one more token.

    >>> common_prefix([(1, 2, 3), (1, 2, 4, 5)]), common_prefix([(1, 2, 3)])
    (2, 2)
    """
    limit = min(len(s) for s in sequences) - 1
    first = sequences[0]
    return next((i for i in range(limit) if any(s[i] != first[i] for s in sequences)), limit)


@dataclass
class Canary:
    """Checks that members are different policies, by their logits after the prompts."""

    _seen: dict[int, list[tuple[int, Tensor]]] = field(default_factory=dict)
    _differ: dict[tuple[int, int], bool] = field(default_factory=dict)

    def see(self, units: Sequence[tuple[int, int]], logits: Tensor) -> None:
        """Compare the members that answer the same prompt; units are (sequence, member).

        A unit that is split over two blocks of rows comes twice, and is not compared with itself.
        """
        for (sequence, member), row in zip(units, logits, strict=True):
            others = self._seen.setdefault(sequence, [])
            if any(other == member for other, _ in others):
                continue
            for other, before in others:
                pair = (other, member)
                self._differ[pair] = self._differ.get(pair, False) or not torch.equal(before, row)
            others.append((member, row))

    def differs(self, one: int, other: int) -> bool:
        """Whether two members, the smaller first, were seen to differ on a prompt."""
        return self._differ.get((one, other), False)

    def judge(self) -> None:
        """Raise RunError naming the first pair with equal logits on all their common prompts."""
        for (one, other), differ in sorted(self._differ.items()):
            if not differ:
                raise RunError(
                    f"canary: members {one} and {other} give identical logits on every prompt; "
                    "the perturbation does not reach the model: raise optimizer.kl_radius"
                )


class PrefillBatch:
    """The prompts of one generate call; prefixes are computed immediately, the rest in `fill`."""

    def __init__(
        self, adapted: AdaptedModel, deltas: Deltas | None, plan: PrefillPlan, max_tokens: int
    ):
        self._adapted, self._deltas, self._plan = adapted, deltas, plan
        self._max_tokens = max_tokens
        self._members = sorted({member for _, member in plan.units})
        self._upper = [] if deltas is None else adapted_layers(adapted.model, adapted.sites)
        self._prefixes = Prefixes(plan.prefix)
        if plan.prefix:
            pairs = [(0, member) for member in self._members]
            begin = plan.sequences[0][: plan.prefix]
            self._run([begin], pairs, self._prefixes.save, Prefixes())

    def fill(
        self, rows: range, new: int, canary: Canary | None, pause: Callable[[], None]
    ) -> tuple[RowCache, Tensor]:
        """A cache with the rows' prompts and room for ``new`` tokens, and the prompts' logits.

        ``pause`` is called before each pass of the model.
        """
        plan = self._plan
        units = [plan.unit_of_row[row] for row in rows]
        lengths = torch.tensor([len(plan.sequences[plan.units[unit][0]]) for unit in units])
        cache = RowCache(lengths.to(self._adapted.model.device), int(lengths.max()) + new)
        parts = []
        for chunk in self._chunks(range(units[0], units[-1] + 1)):
            pause()
            local = torch.tensor([unit - chunk.start for unit in units if unit in chunk])
            at = units.index(chunk.start)
            pairs = [plan.units[unit] for unit in chunk]
            own = [plan.sequences[s][plan.prefix :] for s in range(pairs[0][0], pairs[-1][0] + 1)]
            pairs = [(s - pairs[0][0], m) for s, m in pairs]
            store = self._store_into(cache, slice(at, at + len(local)), local, pairs)
            logits = self._run(own, pairs, store, self._prefixes)
            if canary is not None:
                canary.see([plan.units[unit] for unit in chunk], logits)
            parts.append(logits[local] if len(local) > len(chunk) else logits)
        return cache, torch.cat(parts) if len(parts) > 1 else parts[0]

    def _store_into(
        self, cache: RowCache, at: slice, unit_of: Tensor, pairs: list[tuple[int, int]]
    ) -> Store:
        """A `Store` to cache rows ``at``, whose units (sequence, member) are pairs[unit_of]."""
        sequence_of, prefix_of = (each[unit_of] for each in self._units(pairs))
        prefixes = self._prefixes

        def store(layer: int, k: Tensor, v: Tensor, *, expanded: bool) -> None:
            if prefixes.length:
                cache.write(layer, at, 0, *prefixes.pick(layer, prefix_of))
            pick = unit_of if expanded else sequence_of
            cache.write(layer, at, prefixes.length, k[pick], v[pick])

        return store

    def _units(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Each unit's sequence, and the cached prefix of its member, which it continues."""
        return (
            torch.tensor([sequence for sequence, _ in pairs]),
            torch.tensor([self._members.index(member) for _, member in pairs]),
        )

    def _chunks(self, units: range) -> Iterator[range]:
        """Consecutive units, split where a forward pass would exceed `max_tokens`."""
        begin, tokens = units.start, 0
        for unit in units:
            n = len(self._plan.sequences[self._plan.units[unit][0]]) - self._plan.prefix
            if tokens and tokens + n > self._max_tokens:
                yield range(begin, unit)
                begin, tokens = unit, 0
            tokens += n
        yield range(begin, units.stop)

    def _run(
        self,
        sequences: Sequence[tuple[int, ...]],
        pairs: Sequence[tuple[int, int]],
        store: Store,
        prefixes: Prefixes,
    ) -> Tensor:
        """One forward pass: logits (units, words) after each unit (sequence, member)."""
        if self._upper and len(pairs) > len(sequences):
            try:
                return self._forward(sequences, pairs, store, prefixes, shared=True)
            except (IndexError, RuntimeError):
                # Some models (GPT-2) reshape their last hidden states to the input's shape, which
                # fails after an expansion. They run without this saving.
                self._upper = []
        return self._forward(sequences, pairs, store, prefixes, shared=False)

    def _forward(
        self,
        sequences: Sequence[tuple[int, ...]],
        pairs: Sequence[tuple[int, int]],
        store: Store,
        prefixes: Prefixes,
        *,
        shared: bool,
    ) -> Tensor:
        model = self._adapted.model
        device = model.device
        units = self._units(pairs)
        member = torch.tensor([member for _, member in pairs])
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        prefill = PrefillPass(
            lengths, units, store, prefixes=prefixes, shared=shared, device=device
        )
        sizes = lengths[units[0]]
        rows = member.repeat_interleave(sizes)[None]
        with ExitStack() as stack:
            stack.enter_context(attach_deltas(model, self._adapted.sites, self._deltas, rows))
            if shared:
                stack.enter_context(expand_at(self._upper, prefill))
            last = (sizes.cumsum(0) - 1).to(device)
            logits: Tensor = run_flat(model, prefill, sequences, logits_to_keep=last).logits[0]
        return logits


def run_flat(
    model: Any, prefill: PrefillPass, sequences: Sequence[tuple[int, ...]], **more: Any
) -> Any:
    """One pass of ``model`` over the tokens of sequences, which ``prefill`` attends to.

    ``more`` goes to the model. Inside `use_flat_attention`.
    """
    first = prefill.prefixes.length
    ids = torch.tensor([token for sequence in sequences for token in sequence])
    positions = torch.cat([torch.arange(first, first + len(s)) for s in sequences])
    if prefill.expanded:
        ids, positions = ids[prefill.index], positions[prefill.index]
    with attend_with(prefill):
        return model(
            input_ids=ids[None].to(model.device), position_ids=positions[None].to(model.device),
            use_cache=False, **more,
        )  # fmt: skip


def _forget(layer: int, k: Tensor, v: Tensor, *, expanded: bool) -> None:
    """A `Store` of passes after which nothing is generated."""


class FlatReading:
    """Prompts with their answers, read one after another without padding.

    What all prompts start with is read once for each member, see `begin`. Inside
    `use_flat_attention`.
    """

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]]
    ):
        self._model, self._prompts = model, prompts
        prefix = common_prefix(prompts)
        self.prefix = prefix if prefix * (len(prompts) - 1) >= SHORTEST_SAVING else 0
        # What comes after an answer's last token is not asked.
        rows = zip(prompts, answers, strict=True)
        self._rows = [(*prompt, *answer[:-1])[self.prefix :] for prompt, answer in rows]
        self.spoken = [len(answer) for answer in answers]
        self.lengths = torch.tensor([len(row) for row in self._rows])

    def parts(self, tokens: int) -> Iterator[list[int]]:
        """Numbers of rows of similar length, of at most so many tokens together."""
        part: list[int] = []
        for row in self.lengths.argsort(stable=True).tolist():
            if part and sum(self.lengths[part].tolist()) + len(self._rows[row]) > tokens:
                yield part
                part = []
            part.append(row)
        yield part

    def places(self, part: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where the tokens of a part's answers are predicted, row by row, in its pass."""
        ends = zip(part, self.lengths[list(part)].cumsum(0).tolist(), strict=True)
        spans = [torch.arange(end - self.spoken[row], end) for row, end in ends]
        columns = torch.cat(spans).to(self._model.device)
        return torch.zeros_like(columns), columns

    def begin(self, sites: tuple[Site, ...], deltas: Deltas | None) -> Prefixes:
        """Keys and values of the common start, for each of the members."""
        prefixes = Prefixes(self.prefix)
        members = torch.arange(1 if deltas is None else deltas.members)
        if self.prefix:
            units, lengths = (torch.zeros_like(members), members), torch.tensor([self.prefix])
            prefill = PrefillPass(
                lengths, units, prefixes.save, prefixes=Prefixes(), shared=False,
                device=self._model.device,
            )  # fmt: skip
            owner = members.repeat_interleave(self.prefix)[None]
            # The head needs some input. As an index, not the number 1: a slice would keep the
            # strides of all positions, and a product with such an array copies the whole head.
            one = torch.zeros(1, dtype=torch.long, device=self._model.device)
            start = [self._prompts[0][: self.prefix]]
            with attach_deltas(self._model, sites, deltas, owner):
                run_flat(self._model, prefill, start, logits_to_keep=one)
        return prefixes

    def read(self, part: Sequence[int], begun: Prefixes, members: Tensor) -> Any:
        """One pass over a part's rows, of these members each."""
        rows = [self._rows[row] for row in part]
        units = (torch.arange(len(part)), members)
        prefill = PrefillPass(
            self.lengths[list(part)], units, _forget, prefixes=begun, shared=False,
            device=self._model.device,
        )  # fmt: skip
        return run_flat(self._model, prefill, rows)
