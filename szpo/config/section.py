"""Shared by all sections of settings: strict validation, bounded numbers, one line a mistake."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, core_schema

from szpo import files, plugins
from szpo.errors import UsageError

Kind = TypeVar("Kind", bound=BaseModel)

PathText = Annotated[str, AfterValidator(lambda text: str(files.expand(text)))]
"""A file or folder; ~ is the home folder."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=4096)]

_ADDRESS: Final = "an address with http:// or https:// and without"
_PATTERNS: Final = {
    "name": "1 to 64 small letters, digits and hyphens, and begin with a letter or digit",
    "idem": "16 to 64 of A-Z a-z 0-9 _ . : -",
    "device": "auto, cpu, mps, xpu, cuda or cuda:N",
    "base_url": f"{_ADDRESS} user name, ? and #",
}
"""What a text must be that has a pattern, by the setting's or field's name."""


class Section(BaseModel):
    """A table of the settings file; unknown keys are refused and values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def refuse(cls, name: str, place: str) -> str:
        """Why a key cannot stand here, and what was meant."""
        return f'unknown key "{name}"{place}{suggest(name, cls.model_fields) or "; leave it out"}'


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


def checked(model: type[Kind], values: Mapping[str, Any], where: str = "") -> Kind:
    """A section with these values; ``where`` begins the line about a mistake.

    Raises:
        UsageError: a key is unknown or a value out of range; one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(where + describe(model, error.errors(include_url=False)[0])) from None


def describe(model: type[BaseModel], error: Mapping[str, Any], place: str = "") -> str:
    """Describe a validation error of a section in a line: key, requirement, value.

    ``place``: where its keys are written.
    """
    loc, got = [str(part) for part in error["loc"]], error.get("input")
    if error["type"] == "extra_forbidden" and issubclass(model, Section):
        return model.refuse(loc[-1], place)
    if error["type"] == "missing":
        return f"{loc[0]} is missing"
    if error["type"] == "value_error":
        return "".join(f"{part}: " for part in loc[:1]) + str(error["ctx"]["error"])
    return f"{loc[0]} must be {_requirement(model, loc, error)} (got {_format(got)})"


def _requirement(model: type[BaseModel], loc: Sequence[Any], error: Mapping[str, Any]) -> str:
    """Describe which values a key may have, from its declaration."""
    kind, context = error["type"], error.get("ctx", {})
    schema = model.model_json_schema()
    field = schema["properties"][str(loc[0])]
    places = [part["$ref"] for part in (field, *field.get("allOf", ())) if "$ref" in part]
    defined = [schema["$defs"][place.rpartition("/")[2]] for place in places]
    choices = [field, *field.get("anyOf", []), *defined]
    options = [json.dumps(v) for c in choices for v in c.get("enum", [])]
    word = "".join(f"{json.dumps(c['const'])} or " for c in choices if "const" in c)
    if options and loc[0] == "layers":
        return '"middle", "all" or a list such as [18, 19]'
    if options:
        return "one of " + ", ".join(options)
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(loc[0]), f"text that matches {context['pattern']}")
    if "too_" in kind and len(loc) == 1:
        noun, of = ("text", "characters") if "string" in kind else ("a list", "entries")
        most = context.get("max_length")
        return f"{noun} that is not empty" if most is None else f"{noun} of {most:,} {of} or fewer"
    for choice in choices:
        if choice.get("type") in {"integer", "number"}:
            noun = "a whole number" if choice["type"] == "integer" else "a finite number"
            return word + noun + " and".join(_bounds(choice))
        if choice.get("type") == "boolean":
            return "true or false"
        if choice.get("type") == "array":
            example = "[5, 60]" if choice["items"].get("type") == "number" else '["text"]'
            return f"{word}a list such as {example}"
    return "text"


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    words = {
        "exclusiveMinimum": ">",
        "minimum": ">=",
        "maximum": "<=",
        "exclusiveMaximum": "<",
    }
    return [f" {sign} {_number(schema[key])}" for key, sign in words.items() if key in schema]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _format(value: object) -> str:
    text = json.dumps(value) if isinstance(value, str | bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name; "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""
