"""Recipes: the settings of a gradient method, each field with its range as part of its type.

    @recipe("dpo")
    class Recipe(trainer.Recipe):
        beta: Positive = 0.1

A recipe is a frozen pydantic dataclass. Text is read by the type of the field, so values may come
from a command line. What is out of range is refused in one line that names the method, the field
and the value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import inf
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from szpo.errors import UsageError

Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True)
def recipe(method: str) -> Callable[[Kind], Kind]:
    """A decorator that makes a class a frozen dataclass whose fields are checked.

    Making an instance raises a UsageError for the first field that does not fit.

    >>> @recipe("dpo")
    ... class Recipe:
    ...     steps: Count = 10
    >>> Recipe(steps=0)
    Traceback (most recent call last):
    szpo.errors.UsageError: dpo: steps must be at least 1 (got 0)
    """

    def decorate(kind: Kind) -> Kind:
        made: Any = pydantic_dataclass(frozen=True, config={"extra": "forbid"})(kind)
        validate = made.__init__

        @functools.wraps(validate)
        def initialise(self: Any, *args: Any, **fields: Any) -> None:
            try:
                validate(self, *args, **fields)
            except ValidationError as error:
                raise UsageError(f"{method}: {_describe(error)}") from None

        made.__init__ = initialise
        return made  # type: ignore[no-any-return]

    return decorate


def _describe(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "value_error":  # of this module, or of a ``__post_init__``
        return f"{name} {first['ctx']['error']}".lstrip()
    return f"{name}: {first['msg'].lower()}"


def demand(holds: Callable[[Any], bool], words: str) -> AfterValidator:
    """A condition on a field, and the words of its refusal; None passes."""

    def check(value: Any) -> Any:
        if value is not None and not holds(value):
            shown = repr(value) if isinstance(value, str) else str(value)
            raise ValueError(f"must be {words} (got {shown})")
        return value

    return AfterValidator(check)


def at_least(least: float) -> AfterValidator:
    """Value ≥ ``least``."""
    return demand(lambda value: value >= least, f"at least {least:g}")


def at_most(most: float) -> AfterValidator:
    """Value ≤ ``most``."""
    return demand(lambda value: value <= most, f"at most {most:g}")


def above(least: float) -> AfterValidator:
    """Value > ``least``."""
    return demand(lambda value: value > least, f"above {least:g}")


def within(least: float, end: float) -> AfterValidator:
    """``least`` ≤ value < ``end``."""
    words = f"at least {least:g} and below {end:g}"
    return demand(lambda value: least <= value < end, words)


def between(least: float, most: float) -> AfterValidator:
    """``least`` ≤ value ≤ ``most``."""
    return demand(lambda value: least <= value <= most, f"{least:g} to {most:g}")


def one_of(*choices: str) -> AfterValidator:
    """Value is one of these words."""
    return demand(lambda value: value in choices, f"one of {', '.join(choices)}")


Count = Annotated[int, at_least(1)]
Positive = Annotated[float, above(0)]
Weight = Annotated[float, at_least(0)]
"""Of a term of the loss."""
Dropout = Annotated[float, within(0, 1)]
Epochs = Annotated[float, above(0), within(0, inf)]
