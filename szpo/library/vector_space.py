"""A user's coordinates and the optimizer's own: start, scale and bounds of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from szpo.errors import UsageError
from szpo.types import Floats

Bounds: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | Floats


@dataclass(frozen=True, slots=True, eq=False)
class VectorSpace:
    """The map x = start + scale · z from the optimizer's coordinates z to a user's vector x."""

    start: Floats
    """(d,)."""
    scale: Floats
    """(d,), positive."""
    box: Floats | None = None
    """(d, 2): the low and the high bound of each coordinate; None without bounds."""

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return len(self.start)

    def to_vector(self, z: ArrayLike) -> Floats:
        """The user's vector (d,) of a point z (d,), inside the bounds.

        A coordinate that leaves its bounds is mirrored at them, so that the value stays a
        continuous function of z and an optimum on the edge is a maximum of it.
        """
        x = self.start + self.scale * np.asarray(z, dtype=np.float64)
        if self.box is None:
            return np.asarray(x)
        low, high = self.box.T
        width = high - low
        turn = np.mod(x - low, 2 * width)
        inside: Floats = np.clip(low + np.minimum(turn, 2 * width - turn), low, high)
        return inside

    def to_json(self) -> dict[str, Any]:
        """Plain values; `make_space` makes an equal space from them."""
        bounds = None if self.box is None else self.box.tolist()
        return {"start": self.start.tolist(), "scale": self.scale.tolist(), "bounds": bounds}


def make_space(
    dim: int | None,
    start: ArrayLike | None,
    scale: ArrayLike | None,
    bounds: Bounds | None,
) -> VectorSpace:
    """The space of a vector, filled with defaults.

    The start is 0, or the middle of the bounds. The scale is 1, or a quarter of their width.

    Raises:
        UsageError: sizes differ, a value is not finite, a scale is not positive, low is not below
            high, the start is outside, or nothing says how many coordinates there are.

    >>> make_space(None, None, None, [(0, 8), (-1, 1)]).to_json()["start"]
    [4.0, 0.0]
    """
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 1):
        raise UsageError(f"Optimizer: dim is {dim!r}; give a whole number from 1 up")
    first = None if start is None else _numbers("start", start)
    steps = None if scale is None else _numbers("scale", scale)
    box = None if bounds is None else _numbers("bounds", bounds)
    sizes = {
        "dim": dim,
        "start": None if first is None else first.size,
        "scale": None if steps is None or steps.ndim == 0 else steps.size,
        "bounds": None if box is None or box.ndim == 1 else len(box),
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    if not given:
        raise UsageError("Optimizer: the number of coordinates is missing; give dim=3, or a start")
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in given.items())
        raise UsageError(f"Optimizer: numbers of coordinates differ: {listed}")
    count = next(iter(given.values()))
    if box is not None:
        if box.shape not in ((2,), (count, 2)):
            raise UsageError(
                f"Optimizer: bounds have shape {box.shape}; give (low, high) for every "
                f"coordinate, or {count} such pairs"
            )
        box = np.array(np.broadcast_to(box, (count, 2)))
        low, high = box.T
        if not (low < high).all():
            i = int(np.flatnonzero(low >= high)[0])
            raise UsageError(
                f"Optimizer: bounds of coordinate {i} are {low[i]:g} to {high[i]:g}; "
                "low must be below high"
            )
    return _fill(count, first, steps, box)


def _fill(
    count: int, first: Floats | None, steps: Floats | None, box: Floats | None
) -> VectorSpace:
    if first is None:
        first = np.zeros(count) if box is None else box.mean(1)
    if first.shape != (count,):
        raise UsageError(f"Optimizer: start has shape {first.shape}; give {count} numbers")
    if box is not None and not ((first >= box[:, 0]) & (first <= box[:, 1])).all():
        i = int(np.flatnonzero((first < box[:, 0]) | (first > box[:, 1]))[0])
        raise UsageError(
            f"Optimizer: start of coordinate {i} is {first[i]:g}, outside its bounds "
            f"{box[i, 0]:g} to {box[i, 1]:g}"
        )
    if steps is None:
        steps = np.ones(1) if box is None else (box[:, 1] - box[:, 0]) / 4
    if steps.ndim > 1 or not (steps > 0).all():
        raise UsageError("Optimizer: scale must be a positive number, or one per coordinate")
    wide = np.array(np.broadcast_to(steps, (count,)), dtype=np.float64)
    return VectorSpace(first, wide, box)


def _numbers(name: str, given: Any) -> Floats:
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"Optimizer: {name} {given!r} is not made of numbers") from None
    if not np.isfinite(found).all():
        raise UsageError(f"Optimizer: {name} {given!r} is not finite")
    return found
