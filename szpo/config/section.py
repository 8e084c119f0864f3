"""What the tables of a settings file share: strictness, bounded numbers, names of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    """A table of the settings file: unknown keys are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class OneOf:
    """In ``Annotated[str, OneOf(...)]``: one of these names, which a registry elsewhere holds.

    It is checked, refused and described in a JSON schema as a ``Literal`` of the names.
    """

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic's own schema of a ``Literal``."""
        return core_schema.literal_schema(list(self.names))


def list_names(names: Sequence[str]) -> str:
    """Join names with commas and a final "or".

    >>> list_names(["known", "sign", "bayes"])
    'known, sign or bayes'
    """
    return " or ".join([", ".join(names[:-1]), names[-1]])
