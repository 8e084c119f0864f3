"""From the arguments of `szpo.Tuner` to the settings of a run, as a settings file has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import StorageError, UsageError
from szpo.evaluators.function_panel import FUNCTION
from szpo.evaluators.panel_factory import PEOPLE

ENOUGH: Final = 8
"""Prompts below which none is held out."""
BY_HAND: Final[Mapping[str, Any]] = {"poor_samples": "open", "calibration": False, "spare": 0}
"""Settings of a panel that is asked by `szpo.Tuner.ask`."""


def make_config(
    model: str,
    place: Path,
    *,
    prompts: Path | None,
    votes: int | None,
    kind: str | None,
    settings: Mapping[str, Any],
) -> Config:
    """The settings of a run whose ledger is the file ``place``.

    Args:
        model: a model's name as in a settings file.
        place: NAME.db in the folder of the run.
        prompts: a prompt file; None: the prompts that ship.
        votes: the budget; None: as set, or the default.
        kind: function or people; None: as ``settings`` say.
        settings: values by dotted name, and ``preset``.

    Raises:
        UsageError: a setting is unknown, out of range, or given twice.
    """
    given = dict(settings)
    name = given.pop("preset", None)
    tree: dict[str, Any] = {}
    if name is not None:
        _put(tree, settings_file.preset(str(name)))
    own: dict[str, Any] = {
        "model": {"name": model},
        "run": {"folder": str(place.parent), "name": place.stem},
    }
    if prompts is not None:
        own["prompts"] = {"path": str(prompts)}
    if votes is not None:
        own["run"]["votes"] = votes
    if kind is not None:
        own["panel"] = {"kind": kind}
    changes = _read_tree(given)
    for section, values in own.items():
        for key in values:
            if key in changes.get(section, {}):
                raise UsageError(
                    f"Tuner: settings[{section + '.' + key!r}] is what an argument of Tuner "
                    "says; leave it out"
                )
    _put(tree, own)
    if kind == PEOPLE:
        _put(tree, {"panel": BY_HAND, "run": {"lag": 0}})
    _put(tree, changes)
    panel = tree.setdefault("panel", {})
    if kind == FUNCTION and "size" not in panel:
        panel["size"] = tree.get("optimizer", {}).get("votes", 1)
    return settings_file.check(tree, where="Tuner")


def find_place(ledger: str | Path) -> Path:
    """The file of a ledger's name: ``.db`` is added where it is missing.

    >>> find_place("runs/mine").as_posix()
    'runs/mine.db'
    """
    path = Path(ledger)
    return path if path.suffix == ".db" else path.with_name(f"{path.name}.db")


def write_prompts(texts: Sequence[str], file: Path) -> None:
    """Write prompts as a prompt file; of fewer than eight none is held out.

    Raises:
        UsageError: there is none, or one is no text.
        StorageError: the file exists with other prompts, or cannot be written.
    """
    bad = [text for text in texts if not isinstance(text, str) or not text.strip()]
    if bad or not texts:
        found = repr(bad[0]) if bad else "an empty list"
        raise UsageError(f"Tuner: prompts must be texts that are not empty (got {found})")
    mark = {"split": "train"} if len(set(texts)) < ENOUGH else {}
    lines = "".join(json.dumps({"text": text, **mark}) + "\n" for text in texts)
    try:
        if file.exists() and file.read_text(encoding="utf-8") != lines:
            raise StorageError(f"{file} exists with other prompts; choose another ledger")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} cannot be written ({error.strerror or error})") from None


def _read_tree(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as a tree; the table may be left out where the key is unique."""
    tree: dict[str, Any] = {}
    for key, value in given.items():
        section, name = settings_file.find_key(str(key), f"settings[{key!r}]")
        tree.setdefault(section, {})[name] = value
    return tree


def _put(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
