"""Adapters: found and refused by name, and written as folders or merged models.

An entry of ``subspace.adapters`` is a PEFT LoRA folder, a hub id with its revision, or a set: a
folder with ``set.json``, which names the adapters in it, or the name of a set that ships.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from szpo import cache, files
from szpo.errors import StorageError, UsageError
from szpo.models import loading, lora, weight_files
from szpo.models.loading import Adapter, Loaded
from szpo.models.lora import Site
from szpo.models.weight_files import list_first
from szpo.types import Theta

SET: Final = "set.json"
"""File that makes a folder a set: {"adapters": [{"name", "folder"}, …], "base_sha256": …}."""
FEWEST, MOST = 2, 32
SHIPPED: Final = Path(__file__).parents[1] / "data" / "adapters"
"""Folder of the sets that ship, each in a folder of its model's name."""
UNFINISHED: Final = ".start-"
"""How a file begins that lies in a set's folder until the set is whole."""


@dataclass(frozen=True)
class Place:
    """Where one adapter lies, and what is said of it there."""

    name: str
    """The coordinate's name."""
    folder: Path
    source: str
    """The entry of the settings."""
    revision: str | None = None
    base_sha256: str | None = None
    """Digest of the weights on which a set was made."""


def shipped(name: str) -> Path | None:
    """The folder of the set that ships under this name, if there is one."""
    plain = name == Path(name).name
    return SHIPPED / name if plain and (SHIPPED / name / SET).is_file() else None


def made_here(sha256: str) -> Path:
    """The folder in the cache of this model's set, which need not be there."""
    return cache.cache_dir() / "adapters" / sha256[:16]


def any_set() -> bool:
    """Whether any model has a set, shipped or in the cache."""
    places = (SHIPPED, cache.cache_dir() / "adapters")
    return any(True for place in places for _ in place.glob(f"*/{SET}"))


def find_set(sha256: str) -> str | None:
    """The entry for the set of the model with these weights: one that ships, else the cache's.

    The shipped one comes first, so that a run is the same on each machine. A set that is still
    being made is none.
    """
    here = made_here(sha256)
    for folder in (*sorted(SHIPPED.glob("*/")), here):
        with contextlib.suppress(UsageError):
            found = read_set(folder)
            whole = not any(folder.glob(f"{UNFINISHED}*"))
            if found.get("base_sha256") == sha256 and len(found["adapters"]) >= FEWEST and whole:
                return str(folder) if folder == here else folder.name
    return None


def read_set(folder: Path) -> dict[str, Any]:
    """The document of a set's folder; empty where no set lies there."""
    listed = folder / SET
    if not listed.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(listed.read_text(encoding="utf-8"))
        for each in found["adapters"]:
            if not str.isprintable(each["name"]):
                raise ValueError(f"{each['name']!r:.60} is no name in one line")
            if not (folder / each["folder"]).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{each['folder']} lies outside of it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{listed} is no list of adapters ({error!r})") from None
    return found


def find(entries: Sequence[str]) -> tuple[Place, ...]:
    """The adapters of these entries, with sets expanded; hub ids are downloaded.

    Raises:
        UsageError: An entry is not found, the number is out of range, or a name occurs twice.
    """
    places = [place for entry in entries for place in _expand(entry)]
    if not FEWEST <= len(places) <= MOST:
        raise UsageError(
            f"subspace.adapters: {len(places)} adapter{'s' * (len(places) != 1)}; give {FEWEST} "
            f"to {MOST}"
        )
    names = [place.name for place in places]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"subspace.adapters: {weight_files.list_first(twice)} occurs twice; names are those "
            f"of a set, or the folders' last parts: rename a folder"
        )
    return tuple(places)


def _expand(entry: str) -> list[Place]:
    folder, revision = _locate(entry)
    document = read_set(folder)
    if not document:
        name = entry.partition("@")[0] if revision else str(folder.absolute())
        return [Place(Path(name).name, folder, entry, revision)]
    made = document.get("base_sha256")
    return [
        Place(str(each["name"]), folder / str(each["folder"]), entry, revision, made)
        for each in document["adapters"]
    ]


def _locate(entry: str) -> tuple[Path, str | None]:
    path = shipped(entry) or files.expand(entry)
    if path.is_dir():
        return path, None
    hub_id, _, revision = entry.partition("@")
    if not loading.is_hub_id(hub_id):
        raise UsageError(
            f"subspace.adapters: {entry!r} not found (looked in {path.absolute()}); give a PEFT "
            "folder, a set's folder, or a hub id with its revision, such as owner/name@revision"
        )
    if not revision:
        raise UsageError(
            f"subspace.adapters: {entry} needs its revision: {entry}@COMMIT; an adapter that "
            "changes would be another coordinate"
        )
    return loading.download(hub_id, revision=revision, what="adapter"), revision


def read(place: Place, base: str, folder: Path) -> tuple[Adapter, dict[str, Any]]:
    """One adapter, and its facts as they are recorded; ``base`` is the run's model in ``folder``.

    Raises:
        UsageError: It is more than a plain LoRA, or made for another model or tokenizer.
    """
    adapter = loading.read_adapter(place.folder, patterns=True)
    if away := loading.other_base(adapter, base, folder):
        raise UsageError(f"{away}; its factors mean nothing there: give adapters of one base")
    theirs = _words(place.folder)
    if theirs and (mine := _words(folder)) and mine != theirs:
        raise UsageError(
            f"adapter {place.folder} has another tokenizer than {base}; give adapters of one base"
        )
    return adapter, {
        "name": place.name,
        "source": place.source,
        "revision": place.revision,
        "sha256": adapter.sha256,
        "base": adapter.config.get("base_model_name_or_path"),
        "base_sha256": place.base_sha256,
        "license": _licence(place.folder),
    }


def identify(entries: Sequence[str]) -> list[list[str]]:
    """What tells adapters apart, as plain JSON: name, digest of tensors, settings of each."""
    found = []
    for place in find(entries):
        sha256 = weight_files.digest(weight_files.safetensors_in(place.folder, what="adapter"))
        described = place.folder / loading.ADAPTER_CONFIG
        settings = described.read_text(encoding="utf-8") if described.is_file() else ""
        found.append([place.name, sha256, settings])
    return found


def _words(folder: Path) -> Any:
    """The words of a folder's tokenizer and their numbers; None without such a file."""
    try:
        found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = sorted((each["id"], each["content"]) for each in found.get("added_tokens", ()))
        return found["model"]["vocab"], added
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _licence(folder: Path) -> str | None:
    """The licence that the folder's model card names."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    head = re.match(r"---\n(.*?\n)---", card, re.DOTALL)
    named = head and re.search(r"^license:[ \t]*(\S+)", head[1], re.MULTILINE)
    return named[1].strip("\"'") if named else None


def save_adapter(
    path: Path, factors: Theta, sites: tuple[Site, ...], *, base: str, conv1d: bool = False,
    half: bool = False,
) -> None:  # fmt: skip
    """Write a folder that ``PeftModel.from_pretrained`` loads.

    Args:
        path: The folder; created if it is missing.
        factors: A and B by ``site.a`` and ``site.b``, fp32.
        sites: What they adapt.
        base: Name of the base model, for the record.
        conv1d: The adapted layers are GPT-2's transposed ``Conv1D``.
        half: Write fp16, for factors that it holds exactly.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in lora.peft_files(
            factors, sites, base=base, conv1d=conv1d, half=half
        ).items():
            (path / name).write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def factors(adapter: Adapter, sites: Sequence[Site]) -> Theta:
    """A and B of an adapter that was read from its folder, by ``site.a`` and ``site.b``."""
    found, keys = {}, set()
    for site in sites:
        for name, letter in ((site.a, "A"), (site.b, "B")):
            key = f"base_model.model.{site.name}.lora_{letter}.weight"
            if key not in adapter.tensors:
                raise UsageError(f"the adapter has no tensor {key}; it does not fit this model")
            found[name] = adapter.tensors[key]
            keys.add(key)
    if others := [key for key in adapter.tensors if key not in keys]:
        raise UsageError(
            f"adapter {adapter.path}: {len(others)} of its tensors are of layers that this model "
            f"lacks or its adapter_config.json does not name: {list_first(others)}; give the "
            "adapter's own base, and the file that belongs to it"
        )
    return found


def merged_state(loaded: Loaded, factors: Theta, sites: tuple[Site, ...]) -> dict[str, Any]:
    """The model's tensors with W + scale · B A in place of W, computed in fp32, rounded once."""
    if loaded.quantization is not None:
        raise UsageError(
            "nothing can be merged into a 4-bit model; load the adapter beside it (no --merged)"
        )
    state = dict(loaded.model.state_dict())
    for site in sites:
        key = f"{site.name}.weight"
        weight = state[key]
        update = torch.from_numpy(delta_weight(factors, site)).to(weight.device)
        if weight.shape != update.shape or is_conv1d(loaded.model, site):
            update = update.T  # Conv1D keeps (in, out)
        state[key] = (weight.to(torch.float32) + update).to(weight.dtype)
    return state


def delta_weight(factors: Theta, site: Site) -> NDArray[np.float32]:
    """What the adapter adds to a weight, (out, in): scale · B A."""
    product = factors[site.b].astype(np.float64) @ factors[site.a].astype(np.float64)
    return np.asarray(site.scale * product, dtype=np.float32)


def is_conv1d(model: Any, site: Site) -> bool:
    """The site is one of GPT-2's layers that keep their weight transposed."""
    return type(model.get_submodule(site.name)).__name__ == "Conv1D"


def save_merged(path: Path, loaded: Loaded, factors: Theta, sites: tuple[Site, ...]) -> None:
    """Write the merged model and its tokenizer as a plain folder of safetensors."""
    state = merged_state(loaded, factors, sites)
    try:
        path.mkdir(parents=True, exist_ok=True)
        loaded.model.save_pretrained(str(path), state_dict=state)
        loaded.tokenizer.save_pretrained(str(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
