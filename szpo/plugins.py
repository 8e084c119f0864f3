"""Entry points of installed packages, found and loaded by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

from szpo.errors import UsageError

EXTRAS = {
    "gradio": "ui",
    "uvicorn": "ui",
    "trl": "baselines",
    "datasets": "baselines",
    "openai": "judge",
    "fastapi": "ui",
    "gymnasium": "worlds",
    "ray": "ray",
    "httpx": "ui",
}
"""The extra that installs a module which may be missing."""


def how_to_install(extra: str) -> str:
    """How to install an extra from a clone, since no package index has szpo."""
    return f"pip install -e '.[{extra}]' in szpo's folder"


@lru_cache(maxsize=64)  # every package has a file of them
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """The entry points of a group, of the packages on ``path``, which is `sys.path`."""
    del path
    return metadata.entry_points(group=group)


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, of whatever is installed."""
    return _installed(group, tuple(sys.path))


def names(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; of equal names the first counts."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        entries.setdefault(entry.name, entry)
    return dict(sorted(entries.items()))


def origin(group: str, name: str) -> dict[str, str] | None:
    """The package and version of an entry point; None if there is no such entry point."""
    entry = names(group).get(name)
    if entry is None or entry.dist is None:
        return None
    return {"package": entry.dist.name, "version": entry.dist.version}


def load(group: str, name: str, what: str, *, builtin: Sequence[str] = ()) -> Any:
    """Load the object of an entry point; the error lists ``builtin`` names too.

    Raises:
        UsageError: There is no such entry point, or a module that it needs is not installed.
    """
    known = names(group)
    if name not in known:
        listed = ", ".join([*builtin, *known]) or "none is installed"
        raise UsageError(f'no {what} "{name}"; there are: {listed}')
    try:
        return known[name].load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        extra = EXTRAS.get(missing)
        if extra:
            raise UsageError(f"{name} needs {missing}: {how_to_install(extra)}") from None
        raise UsageError(
            f'{what} "{name}" cannot be loaded: no module {error.name} (from '
            f"{known[name].value}); reinstall the package that brings it"
        ) from error


def read_reward(text: str | None, logprob: Any = None) -> Any:
    """The reward that a text names; some rewards need ``logprob`` of the base model.

    Raises:
        UsageError: no installed package reads rewards, or the text names none.
    """
    return load("szpo.rewards", "parse", "reader of rewards")(text, logprob=logprob)
