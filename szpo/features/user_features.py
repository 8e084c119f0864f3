"""A user's own features: patterns, keywords, functions, ratings; entries to leave out.

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import regex

from szpo import plugins
from szpo.errors import UsageError
from szpo.features.dictionary import (
    BY_NAME,
    ENTRIES,
    GROUPS,
    Count,
    Entry,
    Ratio,
    counts_alike,
    holding,
)
from szpo.features.reading import Reading, words
from szpo.types import Answer, Prompt

Kind: TypeAlias = Literal["keyword", "regex", "plug-in", "function", "judge"]
FORMS: Final = (
    "regex:PATTERN, keyword:sea+sun, say: WORDS, judge: WHAT IT RATES, a plug-in's name or "
    "package.module:function"
)
JUDGE: Final = "judge"
SAY: Final = "say"
GROUP: Final = "own"
QUICK: Final = frozenset({"keyword", "regex"})
"""Kinds that cost next to nothing on any text."""
READS: Final = 4_000
"""Characters of a text in which a pattern looks, from its start."""
SECONDS: Final = 1.0
"""The longest that a pattern may take on one text."""
LARGEST: Final = 2**32
"""Of a function's numbers, so that differences in units of 2⁻²⁴ fit 64 bits."""
Pair: TypeAlias = tuple[str, str]
"""A prompt and an answer, as texts."""
_NAMED: Final = re.compile(r"([^:=]*[^:=\s])\s*=\s*(.*)", re.DOTALL)
_KEYWORD: Final = "keyword:"
"""The one form that is rebuilt from a record."""
_FUNCTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Description:
    """What is recorded of an own feature; data only."""

    name: str
    """What the user wrote: its form, or ``NAME = FORM``."""
    kind: Kind
    package: str = ""
    """The distribution that brings a plug-in or function, or finds a pattern; empty: none, or not
    installed as one."""
    version: str = ""
    """Of the distribution."""
    source: str = ""
    """SHA-256 of the file that a plug-in or function comes from, or of szpo's that counts."""


class Rate(Protocol):
    """Has a judge rate answers."""

    @property
    def model(self) -> str:
        """The judge's model."""

    @property
    def sha256(self) -> str:
        """Of its weights; empty where they are not on this machine."""

    def __call__(self, what: str, pairs: Sequence[Pair]) -> Sequence[int]:
        """How far it holds of each answer."""


@dataclass(frozen=True)
class RatedEntry(Entry):
    """A feature that a judge rates: values of answers stand in a table before they are counted."""

    known: dict[Pair, int]
    rate: Rate | None = None


def build(text: str, rate: Rate | None = None) -> tuple[Entry, Description]:
    """The feature that the user wrote, and what to record of it.

    A function of a package takes the prompt's and the answer's text and gives an integer, a
    `fractions.Fraction` or a finite float, whose exact ratio counts. A plug-in is one of the
    entry-point group ``szpo.features`` (docs/reference/plugins.md). What a judge rates is
    asked by ``rate``.

    >>> entry, recorded = build("keyword:sea+sun")
    >>> entry.name, recorded.kind
    ('keyword:sea+sun', 'keyword')
    """
    form = split(text)[1]
    name, colon, argument = form.partition(":")
    try:
        if name == "keyword":
            return _entry(text, "share of the named words", keyword(argument)), _of(
                text, "keyword", keyword
            )
        if name == "regex":
            return _entry(text, "matches", matches(argument)), _of(
                text, "regex", matches, "regex", metadata.version("regex")
            )
        if name == JUDGE:
            if not argument.strip():
                raise UsageError("needs what it rates, as in judge: sounds like a friend")
            facts = () if rate is None else (rate.model, "", rate.sha256)
            return judged(text, {}, rate), Description(text, JUDGE, *facts)
        if name in plugins.names("szpo.features"):
            return _plugin(text, name, argument if colon else None)
        if _FUNCTION.fullmatch(form):
            return _function(text, name, argument)
    except UsageError as error:
        raise UsageError(f"feature {text!r}: {error}") from error
    raise UsageError(f"feature {text!r}: it is none of {FORMS}")


def split(text: str) -> tuple[str, str]:
    """How a feature is called in sentences, and its form, as ``NAME = FORM`` gives both.

    >>> split("tales = regex:^Once"), split("regex:a = b")
    (('tales', 'regex:^Once'), ('regex:a = b', 'regex:a = b'))
    """
    named = _NAMED.fullmatch(text)
    called, form = (named[1].strip(), named[2]) if named else (text, text)
    return called, form


def is_judged(name: str) -> bool:
    """A judge rates it."""
    return split(name)[1].startswith(f"{JUDGE}:")


def is_said(text: str) -> bool:
    """It is no feature, but words that name some (`szpo.features.described_taste`)."""
    return split(text)[1].startswith(f"{SAY}:")


def needs_giving(name: str) -> bool:
    """It is code, or a pattern, and must be given in each process: a record never runs code."""
    return not (is_judged(name) or split(name)[1].startswith(_KEYWORD))


def judged(name: str, known: dict[Pair, int], rate: Rate | None = None) -> RatedEntry:
    """The feature of this name; ratings that are known need no judge."""

    def count(reading: Reading) -> Ratio:
        try:
            return known[reading.asked, reading.text], 1
        except KeyError:
            raise UsageError(
                f"feature {name!r}: only a run has it rated, by features.add"
            ) from None

    return RatedEntry(**vars(_entry(name, "its rating", count)), known=known, rate=rate)


def rate_ahead(entries: Iterable[Entry], pairs: Sequence[Pair]) -> None:
    """Have judges rate what they have not rated yet, all answers at once."""
    for entry in entries:
        if isinstance(entry, RatedEntry) and entry.rate is not None:
            new = [pair for pair in dict.fromkeys(pairs) if pair not in entry.known]
            what = split(entry.name)[1].partition(":")[2].strip()
            entry.known.update(zip(new, entry.rate(what, new) if new else (), strict=True))


def choose(
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    entries: Sequence[Entry] = ENTRIES,
    rate: Rate | None = None,
) -> tuple[tuple[Entry, ...], tuple[Description, ...]]:
    """The entries that are left, the user's own behind them, and what to record of these.

    Args:
        add: own features, each as `build` reads it.
        drop: names of entries, or ``group:NAME`` for a whole group.
        entries: those to begin with.
        rate: asks the judge, where one is asked.

    >>> entries, _ = choose(drop=["group:tone", "commas"])
    >>> len(ENTRIES) - len(entries)
    4
    """
    for name in drop:
        known = [f"group:{group}" for group in GROUPS] if name.startswith("group:") else [*BY_NAME]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "; szpo taste --list has them"
            raise UsageError(f"features.drop: no feature {name!r}{hint}")
    kept = [e for e in entries if e.name not in drop and f"group:{e.group}" not in drop]
    own = [build(text, rate) for text in add]
    names = [*(each.name for each in kept), *(each.name for each, _ in own)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"features.add: {twice!r} is there twice; name it once")
    if not names:
        raise UsageError("features.drop: no feature is left; drop fewer")
    return (*kept, *(each for each, _ in own)), tuple(described for _, described in own)


def cheap(entries: Sequence[Entry], described: Sequence[Description]) -> list[int]:
    """Places of entries that cost next to nothing on any text: not of judges, nor of functions."""
    dear = {each.name for each in described if each.kind not in QUICK}
    return [i for i, each in enumerate(entries) if each.name not in dear]


def tell_left_out(prompts: Iterable[str]) -> str:
    """What votes cannot be about where the prompts are not in English; empty where they are."""
    kept = [each.name for each in holding(prompts)]
    if not (out := len(ENTRIES) - len(kept)):
        return ""
    return (
        f"the prompts do not read as English: {out} features of English words stay out; votes "
        f"can be about {', '.join(kept[:4])} and {len(kept) - 4} more (szpo taste --list), or "
        "your own (features.add)"
    )


def again(
    recorded: Sequence[Sequence[str]], given: Sequence[str] = (), rate: Rate | None = None
) -> dict[str, Entry]:
    """The recorded features that can be counted here, by name.

    Keywords from the record, which are words; what a judge rates where one is asked; what is code
    only where the user gave it anew.

    Args:
        recorded: the descriptions, as their values in order.
        given: what the user wrote in this process.
        rate: asks the run's judge.
    """
    entries: dict[str, Entry] = {}
    for fields in recorded:
        was = Description(*fields)  # type: ignore[arg-type]  # data, compared below
        rated = rate is not None and is_judged(was.name)
        needed = rated or was.name in given
        if not split(was.name)[1].startswith(_KEYWORD) and not needed:
            continue  # whatever kind a record says that it is
        entry, mine = build(was.name, rate)
        if can_recompute(was, mine) or (needed and was == mine):
            entries[was.name] = entry
        elif needed:
            raise UsageError(
                f"feature {was.name!r}: its code, version or judge is not the recorded one; go on "
                "with what the run began with"
            )
    return entries


def countable(
    names: Iterable[str],
    recorded: Sequence[Sequence[str]],
    counted_by: str,
    given: Sequence[str] = (),
    rate: Rate | None = None,
) -> dict[str, Entry]:
    """The recorded features that can be counted here, the dictionary's and own ones, in order.

    Args:
        names: the features' names.
        recorded: descriptions of the own ones among them, as `again` takes them.
        counted_by: digest of the dictionary that counted the others.
        given: what the user wrote in this process.
        rate: asks the run's judge.
    """
    users = {name for name, *_ in recorded}
    entries = again(recorded, given, rate)
    if counts_alike(counted_by):
        entries |= {name: entry for name, entry in BY_NAME.items() if name not in users}
    return {name: entries[name] for name in names if name in entries}


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


def matches(argument: str) -> Count:
    """Matches of at least one character in the first `READS`, by a pattern of the package regex.

    Raises:
        UsageError: it is no pattern, or, when counting, it takes longer than `SECONDS`.
    """
    if not argument:
        raise UsageError("needs a pattern, as in regex:^Once")
    try:
        pattern = regex.compile(argument)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UsageError(f"not a regular expression ({error})") from None

    def count(reading: Reading) -> Ratio:
        try:
            matches = pattern.finditer(reading.text[:READS], timeout=SECONDS)
            return sum(each.end() > each.start() for each in matches), 1
        except TimeoutError:
            raise UsageError(
                f"feature 'regex:{argument}': it took more than {SECONDS:g} s on "
                f"{reading.text[:60]!r}; repeat less in it"
            ) from None

    return count


def exact(value: Any) -> Ratio:
    """A number that a user's function gave, as a ratio of integers."""
    if isinstance(value, int | Fraction | float) and -LARGEST <= value <= LARGEST:
        numerator, denominator = value.as_integer_ratio()
        return int(numerator), int(denominator)
    raise UsageError(f"{value!r}; it must give a number of at most 2^32 for every answer")


def _entry(name: str, unit: str, count: Count) -> Entry:
    called = split(name)[0]
    return Entry(name, GROUP, unit, "any", f"less of {called}", f"more of {called}", count)


def _of(
    name: str, kind: Kind, made: Callable[..., Any], package: str = "", version: str = ""
) -> Description:
    try:
        file = inspect.getsourcefile(made)
        source = Path(file).read_bytes() if file else b""
    except (TypeError, OSError):
        source = b""
    if source and kind == "keyword":
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
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's: whatever its import raises
        raise UsageError(f"{module} cannot be imported: {error}") from error
    if not callable(function):
        raise UsageError(f"{name} in {module} is no function of prompt and answer")
    package = next(iter(metadata.packages_distributions().get(module.split(".")[0], [])), "")
    version = metadata.version(package) if package else ""
    return _entry(text, "its own", _checked(text, function)), _of(
        text, "function", function, package, version
    )


def _checked(name: str, score: Callable[[str, str], Any]) -> Count:
    def count(reading: Any) -> Ratio:
        try:
            return exact(score(reading.asked, reading.text))
        except Exception as error:  # the function is the user's: whatever it raises
            raise UsageError(f"feature {name!r}: {error} for {reading.text[:60]!r}") from error

    return count
