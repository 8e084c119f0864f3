"""Settings files: read TOML, presets and ``--set``, describe errors, write a commented file.

In rising precedence: defaults, preset, file, ``--set``.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from szpo.config.schema import Config
from szpo.errors import UsageError

SIZE_LIMIT = 1_000_000
SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def presets() -> dict[str, str]:
    """Names of szpo's presets, each with its first comment line.

    >>> list(presets())
    ['bigger', 'demo', 'people', 'published', 'published-sign', 'tiny']
    """
    return {name: text.splitlines()[0].lstrip("# ") for name, text in _preset_texts().items()}


def _preset_texts() -> dict[str, str]:
    folder = resources.files("szpo") / "config" / "presets"
    files = [item.name for item in folder.iterdir() if item.name.endswith(".toml")]
    names = sorted(name.removesuffix(".toml") for name in files)
    return {name: (folder / f"{name}.toml").read_text(encoding="utf-8") for name in names}


def preset(name: str) -> dict[str, Any]:
    """The settings that a preset changes."""
    known = _preset_texts()
    if name not in known:
        raise UsageError(
            f'no preset "{name}"{_suggest(name, known)}; there are: {", ".join(known)}'
        )
    return tomllib.loads(known[name])


def load(
    path: Path | None = None, *, preset_name: str | None = None, sets: Sequence[str] = ()
) -> Config:
    """Load a run's settings from a preset, a file and ``key=value`` texts; later ones win.

    Raises:
        UsageError: A file is missing or unreadable, or a setting is unknown or out of range.

    >>> load(sets=["optimizer.comparisons=4", "reward=length:40"]).panel.reward
    'length:40'
    """
    tree: dict[str, Any] = {}
    if preset_name is not None:
        merge(tree, preset(preset_name))
    if path is not None:
        merge(tree, read(path))
    for text in sets:
        merge(tree, parse_assignment(text))
    return check(tree, where=str(path) if path else "settings")


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file as a tree of tables.

    Raises:
        UsageError: It is missing, too large, not UTF-8 or not TOML.
    """
    if not path.exists():
        raise UsageError(
            f"{path.name} not found (looked in {path.absolute().parent}); "
            "create one with: szpo init"
        )
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file; give a settings file")
    try:
        return tomllib.loads(_decode(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path.name} is not TOML: {error}") from None


def _decode(path: Path) -> str:
    """The text of a UTF-8 file of at most 1 MB."""
    size = path.stat().st_size
    if size > SIZE_LIMIT:
        raise UsageError(f"{path.name} is {size:,} bytes; at most 1,000,000 are read")
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # some editors write it
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read ({error.strerror})") from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path.name}: byte 0x{raw[error.start]:02x} at line {line} is not UTF-8"
        ) from None


def parse_assignment(text: str) -> dict[str, Any]:
    """Parse one ``key=value`` into a tree; the section may be left out if the key is unique.

    The value is read as TOML, or as plain text if it is not TOML.

    >>> parse_assignment("seed=3"), parse_assignment("panel.kind=people")
    ({'run': {'seed': 3}}, {'panel': {'kind': 'people'}})
    >>> parse_assignment("panel.repeats=.2")
    {'panel': {'repeats': 0.2}}
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(f'--set {text}: write it as section.key=value, for example "run.seed=1"')
    section, name = find_key(key, f"--set {text}")
    if value.strip().lower() == "none":
        return {section: {name: None}}
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # TOML needs a digit on both sides of a point
        parsed = value.strip()
        if re.fullmatch(r"[+-]?(\.\d+|\d+\.)", parsed):
            parsed = float(parsed)
    return {section: {name: parsed}}


def find_key(key: str, said: str) -> tuple[str, str]:
    """Find a key's section and name; the section may be left out if the key is unique."""
    section, dot, name = key.rpartition(".")
    if dot:
        return section, name
    owners = _list_owners(key)
    if len(owners) > 1:
        full = " or ".join(f"{owner}.{key}" for owner in owners)
        raise UsageError(f'{said}: "{key}" is ambiguous; write {full}')
    if not owners:
        every = {f: s for s, model in SECTIONS.items() for f in model.model_fields}
        raise UsageError(f'unknown key "{key}"{_suggest(key, every)} (in {said})')
    return owners[0], key


def _list_owners(key: str) -> list[str]:
    return [section for section, model in SECTIONS.items() if key in model.model_fields]


def check(tree: Mapping[str, Any], *, where: str = "settings") -> Config:
    """Check a tree of plain values and turn it into settings."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False)
        others = len({each["loc"][:2] for each in found}) - 1  # a key may have several errors
        more = f" (and {others} more)" if others else ""
        raise UsageError(f"{where}: {_describe(found[0])}{more}") from None


def _describe(error: Any) -> str:
    """Describe one validation error in a line: key, requirement, value."""
    loc = [part for part in error["loc"] if part not in {"constrained-str", "literal"}]
    key = ".".join(str(part) for part in loc[:2])
    got, kind, context = error.get("input"), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = SECTIONS if len(loc) == 1 else SECTIONS[str(loc[0])].model_fields
        place = f" in [{loc[0]}]" if len(loc) > 1 else ""
        if owners := [] if place else _list_owners(str(loc[0])):
            return f'"{loc[0]}" is outside its table; write it below [{"] or [".join(owners)}]'
        return f'unknown key "{loc[-1]}"{place}{_suggest(str(loc[-1]), known) or "; leave it out"}'
    if kind == "value_error":
        prefix = f"{key}: " if len(loc) > 1 else f"{key}." if key else ""
        return f"{prefix}{context['error']}"
    if kind == "model_type":
        return f"{key} must be a table: write [{key}] and its keys below"
    wants = _requirement(loc, kind, context)
    return f"{key} must be {wants} (got {_format(got)})"


_ADDRESS: Final = "an address with http:// or https:// and without"
_PATTERNS: Final = {
    "name": "1 to 64 small letters, digits and hyphens, and begin with a letter or digit",
    "device": "auto, cpu, mps, xpu, cuda or cuda:N",
    "replicas": f"{_ADDRESS} user name, ? and #",
    "base_url": f"{_ADDRESS} user name, ? and #",
    "privacy_url": f"{_ADDRESS} spaces and quotes",
}
"""What a text must be that has a pattern, by the setting's name."""


def _requirement(loc: Sequence[Any], kind: str, context: Mapping[str, Any]) -> str:
    """Describe which values a key may have, from its declaration."""
    field = SECTIONS[str(loc[0])].model_json_schema()["properties"][str(loc[1])]
    choices = [field, *field.get("anyOf", [])]
    options = [json.dumps(v) for c in choices for v in c.get("enum", [])]
    word = "".join(f"{json.dumps(c['const'])} or " for c in choices if "const" in c)
    if options and loc[1] == "layers":
        return '"middle", "all" or a list such as [18, 19]'
    if options:
        return "one of " + ", ".join(options)
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(loc[1]), f"text that matches {context['pattern']}")
    if "too_" in kind and len(loc) == 2:
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


def _suggest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def merge(tree: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Write the values of ``change`` into the tree, key by key."""
    for section, values in change.items():
        if isinstance(values, Mapping) and isinstance(tree.get(section, {}), dict):
            tree.setdefault(section, {}).update(values)
        else:
            tree[section] = values


MATTER: Final = frozenset({
    "run.votes", "run.seed", "model.name", "features.add", "panel.kind", "prompts.path",
    "panel.reward", "panel.question", "generation.max_new_tokens", "generation.temperature",
})  # fmt: skip
"""The settings that most own runs change."""


def to_toml(config: Config, *, every: bool) -> str:
    """Format the settings as TOML with each key's description above it.

    Without ``every``, only what `MATTER`s and what is not at its default; both read back the same.

    >>> print(to_toml(Config(), every=False).splitlines()[0])
    # Settings of one szpo run. Start it with: szpo run run.toml
    """
    lines = [
        "# Settings of one szpo run. Start it with: szpo run run.toml",
        "# A # before a key leaves it at its default; remove the # to set it.",
    ]
    if not every:
        lines.append("# Every other setting is at its default; szpo init --all writes them too.")
    usual = Config()
    for section, model in SECTIONS.items():
        values, defaults = getattr(config, section), getattr(usual, section)
        kept = {
            name: field
            for name, field in model.model_fields.items()
            if every
            or f"{section}.{name}" in MATTER
            or getattr(values, name) != getattr(defaults, name)
        }
        if not kept:
            continue
        doc = (model.__doc__ or "").strip().splitlines()[0]
        lines += ["", f"# {doc}", f"[{section}]"]
        for name, field in kept.items():
            comment = textwrap.wrap(field.description or "", width=86)
            lines += [f"# {line}" for line in comment]
            value = getattr(values, name)
            lines.append(f"# {name} =" if value is None else f"{name} = {_toml(value)}")
    text = "\n".join(lines) + "\n"
    if not every and check(tomllib.loads(text)) != config:  # a default depends on another setting
        return to_toml(config, every=True)
    return text


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
