"""Subspaces as files: one that took minutes to find is found once per model and settings.

A cached subspace depends on nothing but its key: the base model, the adapter, the coordinates'
settings, the sampling, the prompts and the seed. No set-up sees a vote or a reward.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from szpo import cache
from szpo.errors import ResourceError
from szpo.files import replace_whole
from szpo.models.lora_sites import Site
from szpo.policies.subspaces import Subspace

VERSION = 1
"""Raise it with every change of how a set-up is made: older files are then not read again."""


def write(subspace: Subspace, path: Path) -> None:
    """Write a subspace to one ``.npz`` file, whole or not at all.

    Raises:
        ResourceError: The file cannot be written.
    """
    facts = {
        "kind": subspace.kind,
        "scale": subspace.scale,
        "sites": [asdict(site) for site in subspace.sites],
        "report": dict(subspace.report),
    }
    arrays: dict[str, Any] = dict(subspace.tensors())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays, facts=np.array(json.dumps(facts)))
    except OSError as error:
        raise ResourceError(f"cannot write {path} ({error.strerror or error})") from None


def read(path: Path) -> Subspace:
    """Read the subspace that `write` wrote.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: The file is not a subspace.
    """
    parts: dict[str, dict[str, Any]] = {"fixed": {}, "start": {}, "basis": {}}
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        for name in file.files:
            part, _, tensor = name.partition("/")
            if part in parts:
                parts[part][tensor] = file[name]
    sites = tuple(Site(**site) for site in facts["sites"])
    return Subspace(
        kind=facts["kind"], sites=sites, scale=facts["scale"], report=facts["report"], **parts
    )


def load_or_make(key: Mapping[str, Any], make: Callable[[], Subspace]) -> Subspace:
    """Read the subspace of this key from the cache, or ``make`` it and write it there.

    ``report["cached"]`` says which it was. An unreadable file is made again; a cache that
    cannot be written is not an error.
    """
    text = json.dumps([VERSION, dict(key)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    path = cache.cache_dir() / "setups" / f"{name}.npz"
    try:
        found = read(path)
        return replace(found, report={**found.report, "cached": True})
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        with contextlib.suppress(OSError):
            path.unlink()
    made = make()
    with contextlib.suppress(ResourceError):
        write(made, path)
    return made
