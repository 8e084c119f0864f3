"""Settings files: read TOML, presets and ``--set``, describe errors, write a commented file.

In rising precedence: defaults, preset, file, ``--set``.
"""

from __future__ import annotations

import codecs
import json
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from szpo.config.optimizer import KEYS, TAGS, Optimizer
from szpo.config.schema import Config
from szpo.config.section import describe, suggest
from szpo.errors import UsageError

SIZE_LIMIT = 1_000_000
SECTIONS: dict[str, Mapping[str, type[BaseModel]]] = {
    name: KEYS if name == "optimizer" else dict.fromkeys(type(each).model_fields, type(each))
    for name, each in Config()
}
"""The keys of each table, each with the section that describes it."""

MATTER: Final = frozenset({
    "run.votes", "run.seed", "model.name", "features.add", "panel.kind", "prompts.path",
    "panel.reward", "panel.question", "generation.max_new_tokens", "generation.temperature",
})  # fmt: skip
"""The settings that most own runs change."""


def describe_key(section: str, name: str) -> str:
    """What a key means, as ``szpo init`` writes it above it."""
    return SECTIONS[section][name].model_fields[name].description or ""


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
            f'no preset "{name}"; there are: {", ".join(known)}{suggest(name, known)}'
        )
    return tomllib.loads(known[name])


def load(
    path: Path | None = None, *, preset_name: str | None = None, sets: Sequence[str] = ()
) -> Config:
    """Load a run's settings from a preset, a file and ``key=value`` texts; later ones win.

    Raises:
        UsageError: A file holds no settings, or a setting is unknown or out of range.

    >>> load(sets=["optimizer.N=4", "reward=length:40"]).panel.reward
    'length:40'
    """
    if path and path.suffix.lower() in (".csv", ".jsonl"):
        raise UsageError(
            f"{path.name} holds no settings; if it holds prompts, give --set prompts.path={path}"
        )
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
        way = "create one with: szpo init"
        if str(path) in presets():
            way = f"for the preset of that name: --preset {path}"
        raise UsageError(f"{path.name} not found (looked in {path.absolute().parent}); {way}")
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
    if value.strip().lower() == "none" and (section, name) != ("run", "name"):
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
    if key in SECTIONS:  # also the name of another section's key, as model is of judge.model
        first = next(iter(SECTIONS[key]))
        raise UsageError(f'{said}: "{key}" is a section; name its key, such as {key}.{first}')
    if len(owners) > 1:
        full = " or ".join(f"{owner}.{key}" for owner in owners)
        raise UsageError(f'{said}: "{key}" is ambiguous; write {full}')
    if not owners:
        every = [name for keys in SECTIONS.values() for name in keys]
        raise UsageError(f'unknown key "{key}"{suggest(key, every)} (in {said})')
    return owners[0], key


def _list_owners(key: str) -> list[str]:
    return [section for section, keys in SECTIONS.items() if key in keys]


def check(tree: Mapping[str, Any], *, where: str = "settings") -> Config:
    """Check a tree of plain values and turn it into settings."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        found_at = [each["loc"] or ("",) for each in wrong]
        # A key may have several errors; the tag of a rule's section is before its key.
        keys = {(loc[0], loc[2 if loc[0] == "optimizer" else 1 :][:1]) for loc in found_at}
        others = len(keys) - 1
        more = f" (and {others} more)" if others else ""
        raise UsageError(f"{where}: {_describe(wrong[0])}{more}") from None


def _describe(error: Any) -> str:
    """Describe one validation error in a line: key, requirement, value."""
    table, *key = error["loc"] or ("",)
    if error["type"] == "extra_forbidden" and not key:
        if owners := _list_owners(table):
            return f'"{table}" is outside its table; write it below [{"] or [".join(owners)}]'
        return f'unknown key "{table}"{suggest(table, SECTIONS) or "; leave it out"}'
    if error["type"] == "model_type":
        return f"{table} must be a table: write [{table}] and its keys below"
    model = type(getattr(Config(), table)) if table else Config
    if table == "optimizer" and key:
        model = TAGS[key.pop(0)]
    said = describe(model, {**error, "loc": tuple(key)}, f" in [{table}]")
    return f"{table}.{said}" if table and "unknown key" not in said else said


def merge(tree: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Write the values of ``change`` into the tree, key by key."""
    for section, values in change.items():
        if isinstance(values, Mapping) and isinstance(tree.get(section, {}), dict):
            tree.setdefault(section, {}).update(values)
        else:
            tree[section] = values


def to_toml(config: Config, *, every: bool, name: str = "run.toml") -> str:
    """Format the settings as TOML with each key's description above it.

    ``name``: of the file. Without ``every``, only what `MATTER`s and what is not at its default;
    both read back the same.

    >>> print(to_toml(Config(), every=False).splitlines()[0])
    # Settings of one szpo run. Start it with: szpo run run.toml
    """
    lines = [
        f"# Settings of one szpo run. Start it with: szpo run {name}",
        "# A # before a key leaves it at its default; remove the # to set it.",
    ]
    if not every:
        lines.append("# Every other setting is at its default; szpo init --all writes them too.")
    usual = Config()
    for section in SECTIONS:
        values, defaults = getattr(config, section), getattr(usual, section)
        if type(values) is not type(defaults):  # another rule's
            defaults = type(values)(rule=defaults.rule)
        model = type(values)
        kept = [
            name
            for name in SECTIONS[section]
            if every
            or f"{section}.{name}" in MATTER
            or (name in model.model_fields and getattr(values, name) != getattr(defaults, name))
        ]
        if not kept:
            continue
        doc = ((Optimizer if section == "optimizer" else model).__doc__ or "").splitlines()[0]
        lines += ["", f"# {doc}", f"[{section}]"]
        for name in kept:
            lines += [f"# {line}" for line in textwrap.wrap(describe_key(section, name), width=86)]
            value = getattr(values, name) if name in model.model_fields else None
            lines.append(f"# {name} =" if value is None else f"{name} = {_toml(value)}")
    text = "\n".join(lines) + "\n"
    if not every and check(tomllib.loads(text)) != config:  # a default depends on another setting
        return to_toml(config, every=True, name=name)
    return text


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
