"""Pools of pairs to ask about, streamed from CSV, JSONL or Label Studio files.

A pair is a prompt and two answers. Files are read a line at a time: memory does not grow with them
(a .json array is read at once, and capped). Numeric features may stand in the file itself: in CSV
as columns ``a.NAME`` and ``b.NAME``, in JSON as objects ``a_features`` and ``b_features``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from szpo.analysis.features import Feature
from szpo.data import preference_files, preference_formats, text_files
from szpo.errors import UsageError
from szpo.ledger.canonical import utf8
from szpo.metrics import words
from szpo.types import Answer, Floats, Prompt

CHUNK = 2048
"""Pairs in one chunk."""
MATRIX_SUFFIX = ".npy"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt; ``row`` is its index among the pairs of its file."""

    id: str
    prompt: Prompt
    a: str
    b: str
    row: int = 0
    values: tuple[dict[str, float], dict[str, float]] = ({}, {})
    """Features that the file gives, of A and of B."""

    @property
    def key(self) -> str:
        """The pair's identity, whichever answer stands first."""
        return digest(self.prompt, *sorted((self.a, self.b)))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pairs to leave out; limits count the words of either answer."""

    shortest: int = 1
    longest: int | None = None
    asked: frozenset[str] = frozenset()
    """Ids and keys of pairs that were asked about."""

    def reason(self, pair: Pair) -> str | None:
        """Why a pair is left out, None if it is not."""
        if pair.id in self.asked or pair.key in self.asked:
            return "already asked"
        if pair.a == pair.b:
            return "two equal answers"
        sizes = len(words(pair.a)), len(words(pair.b))
        if min(sizes) < self.shortest:
            return "too short"
        if self.longest is not None and max(sizes) > self.longest:
            return "too long"
        return None


Differences: TypeAlias = Callable[[list[Pair]], Floats]
"""A function from pairs to δ = φ(A) − φ(B), (pairs, features)."""


@dataclass(slots=True)
class Seen:
    """Counts of one pass over a pool: pairs, and pairs left out by reason."""

    pairs: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read(path: Path | str) -> Iterator[Pair]:
    """Yield a pool's pairs from .csv, .jsonl (also .gz) or .json; of a ranking task all pairs."""
    path = Path(path)
    row = 0
    for where, record in preference_files.read_records(path, ours=False):
        for pair in _pairs(record, where):
            yield Pair(pair.id, pair.prompt, pair.a, pair.b, row, pair.values)
            row += 1


def chunks(
    pairs: Iterable[Pair], keep: Filter, seen: Seen, size: int = CHUNK
) -> Iterator[list[Pair]]:
    """Yield the pairs that pass the filter, ``size`` at a time; counts go into ``seen``."""

    def passing() -> Iterator[Pair]:
        for pair in pairs:
            seen.pairs += 1
            if (reason := keep.reason(pair)) is None:
                yield pair
            else:
                seen.left_out[reason] += 1

    source = passing()
    while part := list(islice(source, size)):
        yield part


def differences_from_features(features: tuple[Feature, ...]) -> Differences:
    """Compute δ from named features of the texts (`szpo.analysis.features`)."""

    def of(pairs: list[Pair]) -> Floats:
        rows = [
            [
                _finite(f.score(p.prompt, Answer(p.a)), f.name, p)
                - _finite(f.score(p.prompt, Answer(p.b)), f.name, p)
                for f in features
            ]
            for p in pairs
        ]
        return np.array(rows, dtype=np.float64).reshape(len(pairs), len(features))

    return of


def differences_from_columns(names: tuple[str, ...]) -> Differences:
    """Compute δ from numbers in the pool's file itself."""

    def of(pairs: list[Pair]) -> Floats:
        rows = [[_value(p, 0, name) - _value(p, 1, name) for name in names] for p in pairs]
        return np.array(rows, dtype=np.float64).reshape(len(pairs), len(names))

    return of


def differences_from_matrix(path: Path) -> tuple[Differences, int]:
    """Read δ from a .npy of shape (pairs, d), or (pairs, 2, d) for A and B; return it with d.

    Row i belongs to pair i of the pool. The file is memory-mapped, since embeddings may be larger
    than memory.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"features {path}: {error}") from error
    if stored.ndim not in (2, 3) or (stored.ndim == 3 and stored.shape[1] != 2):
        raise UsageError(
            f"features {path}: shape {stored.shape}; (pairs, d) or (pairs, 2, d) is needed"
        )

    def of(pairs: list[Pair]) -> Floats:
        rows = [pair.row for pair in pairs]
        if rows and max(rows) >= len(stored):
            raise UsageError(
                f"features {path}: {len(stored)} rows, the pool has more pairs; give one each"
            )
        found = np.asarray(stored[rows], dtype=np.float64)
        delta = found if stored.ndim == 2 else found[:, 0] - found[:, 1]
        if not np.isfinite(delta).all():
            bad = pairs[int(np.flatnonzero(~np.isfinite(delta).all(1))[0])]
            raise UsageError(f"features {path}: row {bad.row} is not finite")
        return delta

    return of, int(stored.shape[-1])


def digest(prompt: Prompt, *texts: str) -> str:
    """The id of a pair that has none of its own: 16 hexadecimal digits of its content."""
    body = json.dumps([prompt.turns, *texts], ensure_ascii=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


# ---- one record ----


def _pairs(record: Any, where: str) -> Iterator[Pair]:
    text_files.require_object(record, where, "a pair")
    if isinstance(record.get("data"), dict):
        yield from _task(record, where)
        return
    prompt = preference_formats.read_prompt(record, where)
    a, b = _text(record, "a", where), _text(record, "b", where)
    given = record.get("id")
    pair_id = digest(prompt, a, b) if given in (None, "") else utf8(str(given))
    values = (_numbers(record, "a", where), _numbers(record, "b", where))
    yield Pair(pair_id, prompt, a, b, values=values)


def _task(record: dict[str, Any], where: str) -> Iterator[Pair]:
    data = record["data"]
    items = data.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{where}: data needs items, a list of id, title and body")
    prompt = preference_formats.read_prompt(data, where)
    for first, second in combinations(items, 2):
        a, b = _text(first, "body", where), _text(second, "body", where)
        if record.get("id") is None:
            name = digest(prompt, a, b)
        else:
            name = utf8(f"{record['id']}/{first.get('id')}/{second.get('id')}")
        yield Pair(name, prompt, a, b)


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{where}: needs {name}, the text of an answer")
    return utf8(value)


def _numbers(record: dict[str, Any], side: str, where: str) -> dict[str, float]:
    given = record.get(f"{side}_features")
    if given is None:
        given = {name[2:]: value for name, value in record.items() if name.startswith(f"{side}.")}
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {side}_features must be an object of numbers by name")
    try:
        return {str(name): float(value) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {side}_features: {error}") from error


def _value(pair: Pair, side: int, name: str) -> float:
    if name not in pair.values[side]:
        have = ", ".join(sorted(pair.values[side])) or "none"
        raise UsageError(
            f"pair {pair.id}: answer {'ab'[side]} has no number {name!r}; it has {have}"
        )
    return _finite(pair.values[side][name], name, pair)


def _finite(value: float, name: str, pair: Pair) -> float:
    if not math.isfinite(value):
        raise UsageError(f"pair {pair.id}: feature {name} is {value}; it must be finite")
    return value
