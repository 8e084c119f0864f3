"""Importance sampling of comparisons: draw N of C with known inclusion probabilities.

Candidate c is asked with probability q_c > 0, and its estimate enters the sum over those asked
with the weight 1/(C·q_c) instead of the mean's 1/N: for any q the expected sum is the mean over
all C (Horvitz & Thompson 1952), so selection by content biases no direction. Comparisons are taken
or left whole; no row inside one is. Under ``regression`` votes count without these weights.

Exactly N are drawn, by systematic sampling over a drawn order, so a step costs what it did. A
candidate whose rows are all identical has difference 0 whether it is asked or not, and never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.errors import IntegrityError, UsageError
from szpo.metrics import words
from szpo.optim.settings import Selection, Settings
from szpo.types import Comparison, Floats, Ints


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidates of a direction are shown, in order, and with which probabilities."""

    q: tuple[float, ...]
    """(C,); 0 for candidates whose rows are all identical."""
    index: tuple[int, ...]
    """(N,), ascending: those asked, filled up with identical ones where there are too few."""


def content(comparison: Comparison, by: str) -> float:
    """How informative a comparison may be, from its texts alone; at least 0.

    ``rows``: the share of rows that differ. ``words``: mean over rows of the share of different
    words that only one of the two answers has (Jaccard's distance). ``uniform``: 1.

    Raises:
        UsageError: no such rule.
    """
    if by == "uniform":
        return 1.0
    if by == "rows":
        return sum(not row.identical for row in comparison.rows) / len(comparison.rows)
    if by == "words":
        return sum(_apart(row.plus.text, row.minus.text) for row in comparison.rows) / len(
            comparison.rows
        )
    raise UsageError(f"selection: {by!r} is unknown; choose rows, words or uniform")


def choose(
    candidates: Sequence[Comparison], selection: Selection, count: int, key: bytes
) -> Choice:
    """Draw ``count`` of a direction's candidates by the run's selection and the key."""
    differ = np.array([not c.identical for c in candidates], dtype=np.bool_)
    score = np.array([content(c, selection.by) for c in candidates])
    q = inclusion(np.where(differ, np.maximum(score, 1e-9), 0.0), count, selection.floor)
    return Choice(tuple(q.tolist()), draw(q, count, key))


def pick(
    settings: Settings, step: int, candidates: Sequence[Comparison]
) -> tuple[tuple[Comparison, ...], dict[str, list[dict[str, list[float]]]]]:
    """The N comparisons of each direction that are shown, and what the record needs of the rest.

    ``candidates`` in the order of (k, c). Those shown are numbered n = 0 … N − 1 and take the ids
    of these places. The second part goes into the chained event of the step: per direction ``q``
    of all C and the places ``index`` of those shown. Without a selection nothing is changed.
    """
    if settings.selection is None:
        return tuple(candidates), {}
    shown: list[Comparison] = []
    notes = []
    for k in range(settings.K):
        mine = [c for c in candidates if c.k == k]
        found = choose(mine, settings.selection, settings.N, draw_key(settings, step, k))
        notes.append({"q": list(found.q), "index": list(map(float, found.index))})
        shown += [replace(mine[c], n=n, id=mine[n].id) for n, c in enumerate(found.index)]
    return tuple(shown), {"selection": notes}


def draw_key(settings: Settings, step: int, k: int) -> bytes:
    """The key of the random numbers that draw a direction's comparisons."""
    return seeds.derive(settings.root_seed, "selection", step=step, k=k)


def recorded_shares(settings: Settings, step: int, notes: object) -> Floats:
    """The weights 1/(C·q) of a step's comparisons (K, N) from what its event recorded.

    Raises:
        IntegrityError: the record is not one of this run: q do not add up to N, or others were
            drawn than q and the seed give.
    """
    selection, where = settings.selection, f"step {step}: the recorded selection"
    if selection is None:
        raise IntegrityError(f"{where} belongs to a run that selects nothing")
    if not isinstance(notes, list) or len(notes) != settings.K:
        raise IntegrityError(f"{where} is missing, or not one per direction")
    rows = []
    for k, one in enumerate(notes):
        q = np.asarray(one["q"], dtype=np.float64)
        index = tuple(int(c) for c in one["index"])
        usable = int((q > 0).sum())
        least = selection.floor * min(settings.N, usable) / selection.candidates
        total = min(settings.N, usable)
        if (
            len(q) != selection.candidates
            or not ((q >= 0) & (q <= 1)).all()
            or (usable and q[q > 0].min() < least * (1 - 1e-9))
            or abs(float(q.sum()) - total) > 1e-9 * max(total, 1)
        ):
            raise IntegrityError(f"{where} has probabilities that this run's rule cannot give")
        if index != draw(q, settings.N, draw_key(settings, step, k)):
            raise IntegrityError(f"{where} shows others than its probabilities and the seed draw")
        rows.append(shares(q, index))
    return np.stack(rows)


def draw(q: Floats, count: int, key: bytes) -> tuple[int, ...]:
    """The candidates shown: a function of their probabilities and the key alone.

    Those asked by `systematic` over a drawn order; identical ones (q = 0) fill up to ``count``.
    """
    order = seeds.permutation(key, len(q))
    u = float(seeds.uniform(key, 1, len(q))[0])
    asked = [int(i) for i in order[systematic(q[order], u)]]
    rest = [i for i in range(len(q)) if q[i] == 0]
    return tuple(sorted([*asked, *rest[: count - len(asked)]]))


def inclusion(score: Floats, count: int, floor: float) -> Floats:
    """Probabilities q (..., C) in proportion to a score (..., C) ≥ 0, Σ q = min(count, those > 0).

    A share ``floor`` of it is spread evenly over all of positive score, so q ≥ floor · N/C; what
    would be beyond 1 is 1, and the rest shares what is left.

    Raises:
        UsageError: floor is not within (0, 1], or a score is negative or not finite.

    >>> inclusion(np.array([1.0, 1.0, 2.0, 0.0]), 2, 0.5).round(3).tolist()
    [0.583, 0.583, 0.833, 0.0]
    """
    if not 0 < floor <= 1:
        raise UsageError(f"selection: floor is {floor}; it must be within (0, 1]")
    if not (np.isfinite(score).all() and (score >= 0).all()):
        raise UsageError("selection: scores must be finite and not negative")
    usable = score > 0
    some = usable.sum(-1, keepdims=True)
    total = np.maximum(score.sum(-1, keepdims=True), 1e-300)
    part = floor * usable / np.maximum(some, 1) + (1 - floor) * score / total
    q = np.zeros_like(part)
    sure = np.zeros(part.shape, dtype=np.bool_)
    for _ in range(part.shape[-1] + 1):
        room = np.minimum(count, some) - sure.sum(-1, keepdims=True)
        open_ = np.where(sure, 0.0, part)
        q = open_ * room / np.maximum(open_.sum(-1, keepdims=True), 1e-300)
        beyond = ~sure & (q >= 1 - 1e-12) & usable
        if not beyond.any():
            break
        sure |= beyond
    return np.where(sure, 1.0, np.minimum(q, 1.0))


def systematic(q: Floats, u: float) -> Ints:
    """Places taken by systematic sampling (Madow 1949) with start u in [0, 1).

    Candidate c is taken where a number u + integer falls within its stretch of the cumulated q,
    so with probability q_c; as many as Σ q, which is a whole number.
    """
    ends = np.cumsum(q)
    if len(ends):
        ends = np.where(np.arange(len(ends)) >= np.flatnonzero(q)[-1:].max(initial=-1),
                        np.rint(ends[-1]), ends)  # fmt: skip
    starts = np.concatenate([[0.0], ends[:-1]])
    taken = np.ceil(ends - u) - np.ceil(starts - u)
    return np.flatnonzero(taken > 0).astype(np.int64)


def shares(q: Floats, index: Sequence[int] | Ints) -> Floats:
    """Weights 1/(C·q) of the candidates shown, (N,); 1/C for identical ones, which add 0."""
    found = np.asarray(q, dtype=np.float64)[list(index)]
    return np.asarray(1 / (len(q) * np.where(found > 0, found, 1.0)))


def mask_shares(q: Floats, taken: NDArray[np.bool_]) -> Floats:
    """Weights 1/(C·q) (..., C) of those taken, 0 elsewhere: the same sum, over all candidates."""
    return np.where(taken, 1 / (q.shape[-1] * np.where(q > 0, q, 1.0)), 0.0)


def _apart(a: str, b: str) -> float:
    if a == b:
        return 0.0
    one, other = set(words(a)), set(words(b))
    either = one | other
    return len(one ^ other) / len(either) if one != other else 1 / (1 + len(either))
