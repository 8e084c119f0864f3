"""Recipes: settings of gradient methods, as frozen dataclasses with fields checked by pydantic.

    @recipe("dpo")
    class Recipe(trainer.Recipe):
        beta: Positive = 0.1

Texts are converted to the type of the field, so values may come from a command line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from szpo.errors import UsageError

Kind = TypeVar("Kind", bound=type)
Count: TypeAlias = Annotated[int, Field(ge=1)]
Group: TypeAlias = Annotated[int, Field(ge=2)]
"""Number of answers to one prompt that are compared with each other."""
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
"""Weight of a term of the loss."""
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Epochs: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass_transform(frozen_default=True)
def recipe(method: str) -> Callable[[Kind], Kind]:
    """Make a decorator that turns a class into a frozen dataclass with checked fields.

    Its instances raise a UsageError for the first invalid field.

    >>> @recipe("dpo")
    ... class Recipe:
    ...     steps: Count = 10
    >>> Recipe(steps=0)
    Traceback (most recent call last):
    szpo.errors.UsageError: dpo: steps: input should be greater than or equal to 1 (got 0)
    """

    def decorate(kind: Kind) -> Kind:
        made: Any = pydantic_dataclass(frozen=True, config={"extra": "forbid"})(kind)
        validate = made.__init__

        @functools.wraps(validate)
        def initialise(self: Any, *args: Any, **fields: Any) -> None:
            try:
                validate(self, *args, **fields)
            except ValidationError as error:
                first = error.errors()[0]
                if not first["loc"]:  # from a ``__post_init__``
                    raise UsageError(f"{method}: {first['ctx']['error']}") from None
                where, why = first["loc"][0], first["msg"].lower()
                raise UsageError(f"{method}: {where}: {why} (got {first['input']!r})") from None

        made.__init__ = initialise
        return made  # type: ignore[no-any-return]

    return decorate
