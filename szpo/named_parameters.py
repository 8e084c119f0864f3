"""Named parameters of `szpo.Optimizer`: real, whole and categorical, as coordinates in bounds.

A real or whole number is one coordinate, by its logarithm where asked; a choice has one for each
option, of which the highest is taken. Every coordinate has finite bounds and points are mirrored
at them, so that rules know nothing of names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from szpo.errors import UsageError
from szpo.types import Floats

FORMS = 'give (low, high), (low, high, "log"), (low, high, int), or a list of choices'


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named parameter: a range from low to high, or a list of options."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()

    @classmethod
    def read(cls, name: object, given: Any) -> Self:
        """A parameter as the user writes it.

        Raises:
            UsageError: it has none of `FORMS`.
        """
        if not isinstance(name, str) or not name:
            raise UsageError(f"Optimizer: bounds[{name!r}]: give a text as name")
        where = f"Optimizer: bounds[{name!r}]"
        if isinstance(given, list):
            plain = all(isinstance(each, (str, int, float)) or each is None for each in given)
            if len(given) < 2 or not plain or len({*map(repr, given)}) < len(given):
                raise UsageError(
                    f"{where} is {given!r}; give two or more different choices: texts, numbers, "
                    "True, False or None"
                )
            return cls(name, options=tuple(given))
        low, high, *kinds = given if isinstance(given, tuple) and len(given) > 1 else (None, None)
        log, whole = "log" in kinds, int in kinds or "int" in kinds
        numbers = all(isinstance(n, (int, float)) and math.isfinite(n) for n in (low, high))
        if not numbers or len(kinds) != log + whole:
            raise UsageError(f"{where} is {given!r}; {FORMS}")
        if whole and (low != int(low) or high != int(high)):
            raise UsageError(f"{where} is {given!r}; the ends of whole numbers must be whole")
        if not low < high or (log and low <= 0):
            raise UsageError(f"{where} is {given!r}; low must be below high{', above 0' * log}")
        return cls(name, float(low), float(high), log, whole)

    def to_json(self) -> list[Any]:
        """The parameter as plain JSON values; `from_json` makes an equal one."""
        return [self.name, self.low, self.high, self.log, self.whole, list(self.options)]

    @classmethod
    def from_json(cls, saved: Sequence[Any]) -> Self:
        """The parameter of `to_json`."""
        name, low, high, log, whole, options = saved
        return cls(name, low, high, log, whole, tuple(options))

    @property
    def box(self) -> list[tuple[float, float]]:
        """Low and high bound of each of its coordinates."""
        if self.options:
            return [(-1.0, 1.0)] * len(self.options)
        low, high = self.low - self.whole / 2, self.high + self.whole / 2
        return [(math.log(low), math.log(high)) if self.log else (low, high)]

    def place(self, value: Any) -> list[float]:
        """Coordinates of a value, at which to begin.

        Raises:
            UsageError: it is no option, or outside the range.
        """
        if self.options:
            if value not in self.options:
                raise UsageError(
                    f"Optimizer: start[{self.name!r}] is {value!r}; choose of {self.options}"
                )
            return [0.5 if each == value else 0.0 for each in self.options]
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise UsageError(
                f"Optimizer: start[{self.name!r}] is {value!r}; give a number from {self.low:g} "
                f"to {self.high:g}"
            )
        return [math.log(value) if self.log else float(value)]

    def value(self, x: Sequence[float]) -> Any:
        """The value of its coordinates; of equal options the first."""
        if self.options:
            return self.options[int(np.argmax(x))]
        found = math.exp(x[0]) if self.log else float(x[0])
        inside = min(max(found, self.low), self.high)
        return round(inside) if self.whole else inside


def read(bounds: Mapping[Any, Any]) -> tuple[Parameter, ...]:
    """The parameters of a dictionary of bounds, in its order."""
    if not bounds:
        raise UsageError(f"Optimizer: bounds name no parameter; {FORMS} for each name")
    return tuple(Parameter.read(name, given) for name, given in bounds.items())


def box(parameters: Sequence[Parameter]) -> list[tuple[float, float]]:
    """Bounds of all coordinates, in order."""
    return [pair for each in parameters for pair in each.box]


def start(parameters: Sequence[Parameter], given: Any) -> list[float]:
    """The coordinates at which named values begin; the middle for those not named."""
    if not isinstance(given, Mapping) or (unknown := {*given} - {p.name for p in parameters}):
        wrong = (
            f"names {min(map(str, unknown))!r}" if isinstance(given, Mapping) else "has no names"
        )
        names = ", ".join(each.name for each in parameters)
        raise UsageError(f"Optimizer: start {wrong}; give a dictionary of {names}")
    return [
        x
        for each in parameters
        for x in (
            each.place(given[each.name])
            if each.name in given
            else [(low + high) / 2 for low, high in each.box]
        )
    ]


def values(parameters: Sequence[Parameter], x: Floats) -> dict[str, Any]:
    """The named values of a point x of all coordinates.

    >>> values(read({"lr": (1e-4, 1.0, "log"), "kind": ["a", "b"]}), np.array([0.0, -0.2, 0.3]))
    {'lr': 1.0, 'kind': 'b'}
    """
    rest = x.tolist()
    return {each.name: each.value([rest.pop(0) for _ in each.box]) for each in parameters}
