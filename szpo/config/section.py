"""Shared by all settings tables: strict validation, bounded numbers, names of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, core_schema

from szpo import plugins

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    """A table of the settings file; unknown keys are refused and values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class OneOf:
    """For ``Annotated[str, OneOf(...)]``: restricts a setting to the names of a registry.

    Checks, errors and JSON schema are those of a ``Literal`` of the names. Names that other
    packages register at the entry point ``group`` are accepted too.
    """

    names: tuple[str, ...]
    group: str | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic's own schema of a ``Literal``."""
        own = core_schema.literal_schema(list(self.names))
        if self.group is None:
            return own
        return core_schema.no_info_wrap_validator_function(self._accept, own)

    def _accept(self, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        if value not in self.names and self.group and value in plugins.names(self.group):
            return value
        return check(value)


def list_names(names: Sequence[str]) -> str:
    """Join names with commas and a final "or".

    >>> list_names(["known", "sign", "regression"])
    'known, sign or regression'
    """
    return " or ".join([", ".join(names[:-1]), names[-1]])
