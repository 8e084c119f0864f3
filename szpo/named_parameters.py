"""Named parameters of `szpo.Optimizer`: numbers in bounds, one coordinate each.

A parameter's coordinate is its value, or its logarithm where asked. Points are mirrored at the
bounds, so that rules know nothing of names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from numbers import Real
from typing import Any, Self

from szpo.errors import UsageError
from szpo.types import Floats

FORMS = 'give (low, high) or (low, high, "log")'
MOST = 1e300
"""Largest bound: a width must be a number too."""
APART = 1e6
"""How many numbers lie at least between two bounds, so that points differ."""


def is_number(given: object) -> bool:
    """Whether it is a real number of Python or NumPy, and not True or False."""
    return isinstance(given, Real) and not isinstance(given, bool)


def as_float(number: Any) -> float:
    """A real number as float; infinite where no float holds it."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named number from low to high."""

    name: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def read(cls, name: object, given: Any) -> Self:
        """A parameter as the user writes it.

        Raises:
            UsageError: it has none of `FORMS`.
        """
        if not isinstance(name, str) or not name:
            raise UsageError(f"Optimizer: bounds[{name!r}]: give a text as name")
        where = f"Optimizer: bounds[{name!r}] is {given!r}"
        low, high, *kinds = given if isinstance(given, tuple) and len(given) > 1 else (None, None)
        if not is_number(low) or not is_number(high) or kinds not in ([], ["log"]):
            raise UsageError(f"{where}; {FORMS}")
        low, high = as_float(low), as_float(high)
        if not (low >= -MOST and high <= MOST):  # also refuses nan
            raise UsageError(f"Optimizer: bounds[{name!r}] go beyond {MOST:g}; give nearer ones")
        if not low < high or (kinds and low <= 0):
            raise UsageError(f"{where}; low must be below high{', above 0' * len(kinds)}")
        if high - low < APART * math.ulp(max(abs(low), abs(high))):
            raise UsageError(f"{where}; low and high differ by rounding alone: shift them to 0")
        return cls(name, low, high, bool(kinds))

    def to_json(self) -> list[Any]:
        """The parameter as plain JSON values; `Parameter` takes them."""
        return [*astuple(self)]

    @property
    def box(self) -> tuple[float, float]:
        """Low and high bound of its coordinate."""
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def place(self, value: Any) -> float:
        """The coordinate of a value, at which to begin.

        Raises:
            UsageError: it is outside the range.
        """
        if not is_number(value) or not self.low <= as_float(value) <= self.high:
            raise UsageError(
                f"Optimizer: start[{self.name!r}] is {value!r}; give a number from {self.low:g} "
                f"to {self.high:g}"
            )
        return math.log(value) if self.log else float(value)

    def value(self, x: float) -> float:
        """The value of its coordinate."""
        return min(max(math.exp(x), self.low), self.high) if self.log else x


def read(bounds: Mapping[Any, Any]) -> tuple[Parameter, ...]:
    """The parameters of a dictionary of bounds, in its order."""
    if not bounds:
        raise UsageError(f"Optimizer: bounds name no parameter; {FORMS} for each name")
    return tuple(Parameter.read(name, given) for name, given in bounds.items())


def start(parameters: Sequence[Parameter], given: Any) -> list[float]:
    """The coordinates at which named values begin; the middle for those not named."""
    if not isinstance(given, Mapping) or (unknown := {*given} - {p.name for p in parameters}):
        wrong = (
            f"names {min(map(str, unknown))!r}" if isinstance(given, Mapping) else "has no names"
        )
        names = ", ".join(each.name for each in parameters)
        raise UsageError(f"Optimizer: start {wrong}; give a dictionary of {names}")
    return [
        each.place(given[each.name]) if each.name in given else sum(each.box) / 2
        for each in parameters
    ]


def values(parameters: Sequence[Parameter], x: Floats) -> dict[str, float]:
    """The named values of a point x (d,).

    >>> import numpy as np
    >>> values(read({"lr": (1e-4, 1.0, "log"), "width": (0, 8)}), np.array([0.0, 2.5]))
    {'lr': 1.0, 'width': 2.5}
    """
    return {each.name: each.value(c) for each, c in zip(parameters, x.tolist(), strict=True)}
