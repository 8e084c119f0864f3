"""A user's own features: patterns, keywords, functions of a package; and entries to leave out.

What a user writes becomes two things that stay apart. A `Description` is data: it is recorded, and
nothing leads from it back to a function. A callable `Entry` comes only from the text that the user
wrote in this process (`build`). So reading somebody else's ledger imports no module and compiles
no expression; whether its values can be computed again is a comparison of descriptions.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from szpo import plugins
from szpo.errors import UsageError
from szpo.features.dictionary import BY_NAME, ENTRIES, GROUPS, Count, Entry, Ratio
from szpo.features.patterns import compile_pattern
from szpo.features.reading import words
from szpo.types import Answer, Prompt

Kind: TypeAlias = Literal["keyword", "regex", "plug-in", "function"]
FORMS: Final = "regex:PATTERN, keyword:sea+sun, a plug-in's name or package.module:function"
GROUP: Final = "own"
LARGEST: Final = 2**32
"""Of a function's numbers, so that differences in units of 2⁻²⁴ fit 64 bits."""
_FUNCTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Description:
    """What is recorded of an own feature; data only."""

    name: str
    """What the user wrote."""
    kind: Kind
    package: str = ""
    """The distribution that brings a plug-in or function; empty: none, or not installed as one."""
    version: str = ""
    source: str = ""
    """SHA-256 of the file that a plug-in or function comes from, or of szpo's that counts."""


def build(text: str) -> tuple[Entry, Description]:
    """The feature that the user wrote, and what to record of it.

    A function of a package takes the prompt's and the answer's text and gives an integer, a
    `fractions.Fraction` or a finite float, whose exact ratio counts. A plug-in is one of the
    entry-point group ``szpo.features`` (docs/plugins.md).

    Raises:
        UsageError: the text is of no known form, or what it names cannot be had.

    >>> entry, recorded = build("keyword:sea+sun")
    >>> entry.name, recorded.kind
    ('keyword:sea+sun', 'keyword')
    """
    name, colon, argument = text.partition(":")
    try:
        if name == "keyword":
            return _entry(text, "share of the named words", keyword(argument)), _of(
                text, "keyword", keyword
            )
        if name == "regex":
            return _entry(text, "matches", regex(argument)), _of(text, "regex", compile_pattern)
        if name in plugins.names("szpo.features"):
            return _plugin(text, name, argument if colon else None)
        if _FUNCTION.fullmatch(text):
            return _function(text, name, argument)
    except UsageError as error:
        raise UsageError(f"feature {text!r}: {error}") from error
    raise UsageError(f"feature {text!r}: it is none of {FORMS}")


def choose(
    add: Sequence[str] = (), drop: Sequence[str] = (), entries: Sequence[Entry] = ENTRIES
) -> tuple[tuple[Entry, ...], tuple[Description, ...]]:
    """The entries that are left, the user's own behind them, and what to record of these.

    Args:
        add: own features, each as `build` reads it.
        drop: names of entries, or ``group:NAME`` for a whole group.
        entries: those to begin with.

    Raises:
        UsageError: a name is unknown or comes twice, or nothing is left.

    >>> found, _ = choose(drop=["group:tone", "commas"])
    >>> len(ENTRIES) - len(found)
    4
    """
    for name in drop:
        known = [f"group:{group}" for group in GROUPS] if name.startswith("group:") else [*BY_NAME]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "; szpo features --list has them"
            raise UsageError(f"features.drop: no feature {name!r}{hint}")
    kept = [e for e in entries if e.name not in drop and f"group:{e.group}" not in drop]
    own = [build(text) for text in add]
    names = [*(each.name for each in kept), *(each.name for each, _ in own)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"features.add: {twice!r} is there twice; name it once")
    if not names:
        raise UsageError("features.drop: no feature is left; drop fewer")
    return (*kept, *(each for each, _ in own)), tuple(described for _, described in own)


def again(recorded: Sequence[Sequence[str]], given: Sequence[str] = ()) -> dict[str, Entry]:
    """The recorded features that can be counted here, by name.

    Keywords from the record, which are words; what is code only where the user gave it anew.

    Args:
        recorded: the descriptions, as their values in order.
        given: what the user wrote in this process.

    Raises:
        UsageError: what the user gave is no feature, or another than the recorded one.
    """
    found = {}
    for fields in recorded:
        was = Description(*fields)  # type: ignore[arg-type]  # data, compared below
        if not was.name.startswith("keyword:") and was.name not in given:
            continue  # whatever kind a record says that it is
        entry, mine = build(was.name)
        if can_recompute(was, mine) or (was.name in given and was == mine):
            found[was.name] = entry
        elif was.name in given:
            raise UsageError(
                f"feature {was.name!r}: its code or version is not the recorded one; go on with "
                "what the run began with"
            )
    return found


def can_recompute(recorded: Description, mine: Description) -> bool:
    """Whether a recorded feature's values can be computed again with one that this process built.

    All of form, package, version and source must agree; what has no source never does.
    """
    return recorded == mine and bool(mine.source)


def keyword(argument: str) -> Count:
    """Share of the named words that an answer uses.

    Raises:
        UsageError: there is no word, or one is not a whole word.
    """
    wanted = [part for each in argument.split("+") if (part := each.strip())]
    read = [words(word) for word in wanted]
    if not wanted or any(len(word) != 1 for word in read):
        raise UsageError("needs whole words joined by +, as in keyword:sea+sun")
    looked = [word for (word,) in read]
    return lambda reading: (sum(word in reading.different for word in looked), len(looked))


def regex(argument: str) -> Count:
    """Matches of a pattern of `szpo.features.patterns`.

    Raises:
        UsageError: it is no such pattern.
    """
    if not argument:
        raise UsageError("needs a pattern, as in regex:^Once")
    pattern = compile_pattern(argument)
    return lambda reading: (pattern.count(reading.text), 1)


def exact(value: Any) -> Ratio:
    """A number that a user's function gave, as a ratio of integers.

    Raises:
        UsageError: it is not a number, or is beyond `LARGEST`.
    """
    if isinstance(value, int | Fraction | float) and -LARGEST <= value <= LARGEST:
        numerator, denominator = value.as_integer_ratio()
        return int(numerator), int(denominator)
    raise UsageError(f"{value!r}; it must give a number of at most 2^32 for every answer")


def _entry(name: str, unit: str, count: Count) -> Entry:
    return Entry(name, GROUP, unit, "any", f"less {name}", f"more {name}", count)


def _of(
    name: str, kind: Kind, made: Callable[..., Any], package: str = "", version: str = ""
) -> Description:
    try:
        file = inspect.getsourcefile(made)
        source = Path(file).read_bytes() if file else b""
    except (TypeError, OSError):
        source = b""
    if source and kind in ("keyword", "regex"):
        source += Path(str(inspect.getsourcefile(words))).read_bytes()
    return Description(
        name, kind, package, version, hashlib.sha256(source).hexdigest() if source else ""
    )


def _plugin(text: str, name: str, argument: str | None) -> tuple[Entry, Description]:
    maker = plugins.load("szpo.features", name, "feature")
    score = maker(argument)
    origin = plugins.origin("szpo.features", name) or {"package": "", "version": ""}
    count = _checked(text, lambda prompt, answer: score(Prompt.user(prompt), Answer(answer)))
    return _entry(text, f"of {name}", count), _of(text, "plug-in", maker, **origin)


def _function(text: str, module: str, name: str) -> tuple[Entry, Description]:
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's: whatever its import raises
        raise UsageError(f"{module} cannot be imported: {error}") from error
    if not callable(found):
        raise UsageError(f"{name} in {module} is no function of prompt and answer")
    package = next(iter(metadata.packages_distributions().get(module.split(".")[0], [])), "")
    version = metadata.version(package) if package else ""
    return _entry(text, "its own", _checked(text, found)), _of(
        text, "function", found, package, version
    )


def _checked(name: str, score: Callable[[str, str], Any]) -> Count:
    def count(reading: Any) -> Ratio:
        try:
            return exact(score(reading.asked, reading.text))
        except Exception as error:  # the function is the user's: whatever it raises
            raise UsageError(f"feature {name!r}: {error} for {reading.text[:60]!r}") from error

    return count
