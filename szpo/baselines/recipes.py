"""Recipes: the settings of gradient methods, as sections of the same kind as a run's.

Texts are converted to the type of the field, so values may come from a command line.
`szpo.baselines.registry.recipe` checks them.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field, ValidationError

from szpo.config.section import Section, describe
from szpo.errors import UsageError

Count: TypeAlias = Annotated[int, Field(ge=1)]
Group: TypeAlias = Annotated[int, Field(ge=2)]
"""Number of answers to one prompt that are compared with each other."""
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
"""Weight of a term of the loss."""
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Epochs: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recipe(Section):
    """The settings of a gradient method."""

    model_config = ConfigDict(strict=False)

    def __init__(self, **values: Any):
        """Raises UsageError, one line, if a value is out of range."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = describe(type(self), error.errors(include_url=False)[0])
            raise UsageError(wrong) from None
