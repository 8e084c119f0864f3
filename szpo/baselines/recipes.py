"""Recipes: the settings of gradient methods, as sections of the same kind as a run's.

Texts are converted to the type of the field, so values may come from a command line.
`szpo.baselines.registry.recipe` checks them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

from szpo.config.section import Section

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
