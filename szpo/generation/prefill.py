"""From prompts to a filled key-value cache, computing common parts of rows once.

Two prompts A and B, each answered twice by the members m0 and m1, are eight rows:

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

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from szpo.errors import RunError
from szpo.generation.flat_attention import (
    PrefillPass,
    Prefixes,
    RowCache,
    Store,
    attend_with,
    expand_at,
)
from szpo.models.batched_lora import AdaptedModel, Deltas, adapted_layers, attach_deltas

SHORTEST_SAVING = 256
"""Tokens that a common prefix must save to get its own forward pass."""


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
            layers = self._prefixes.layers

            def save(layer: int, k: Tensor, v: Tensor, *, expanded: bool) -> None:
                layers[layer] = (k, v)

            pairs = [(0, member) for member in self._members]
            self._run([plan.sequences[0][: plan.prefix]], pairs, save, Prefixes())

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
        ids = torch.tensor([token for sequence in sequences for token in sequence])
        positions = torch.cat(
            [torch.arange(prefixes.length, prefixes.length + len(s)) for s in sequences]
        )
        if not shared:
            ids, positions = ids[prefill.index], positions[prefill.index]
        sizes = lengths[units[0]]
        rows = member.repeat_interleave(sizes)[None]
        with ExitStack() as stack:
            stack.enter_context(attend_with(prefill))
            stack.enter_context(attach_deltas(model, self._adapted.sites, self._deltas, rows))
            if shared:
                stack.enter_context(expand_at(self._upper, prefill))
            logits: Tensor = model(
                input_ids=ids[None].to(device),
                position_ids=positions[None].to(device),
                use_cache=False,
                logits_to_keep=(sizes.cumsum(0) - 1).to(device),
            ).logits[0]
        return logits
