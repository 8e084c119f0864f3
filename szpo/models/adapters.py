"""Adapters: found by name, read or refused (only plain LoRA is taken), and written as folders.

An entry of ``subspace.adapters`` is a PEFT LoRA folder, a hub id with its revision, or a set: a
folder with ``set.json``, which names the adapters in it, or the name of a set that ships.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo import cache, files
from szpo.errors import StorageError, UsageError
from szpo.models import identity, lora, weight_files
from szpo.models.identity import ADAPTER_CONFIG
from szpo.models.lora import Site
from szpo.models.named_models import download, is_hub_id
from szpo.models.weight_files import list_first
from szpo.types import Theta

SET: Final = "set.json"
"""File that makes a folder a set: {"adapters": [{"name", "folder"}, …], "base_sha256": …}.

Also its ``license``, and of each adapter the ``feature`` it was made for, and if for ``more``.
"""
FEWEST, MOST = 2, 32
SHIPPED: Final = Path(__file__).parents[1] / "data" / "adapters"
"""Folder of the sets that ship, each in a folder of its model's name."""
UNFINISHED: Final = ".start-"
"""How a file begins that lies in a set's folder until the set is whole."""

PLAIN_LORA_ONLY = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "arrow_config",
    "use_qalora",
    "megatron_config",
    "use_bdlora",
    "alora_invocation_tokens",
    "kasa_config",
    "monteclora_config",
)

KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` with which PEFT leaves the base's own weights as they are."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter read from disk: PEFT's settings and its tensors in fp32."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]
    sha256: str
    """Digest of the tensors alone."""
    parts: Mapping[str, str]
    """What a model's identity has of it, see `szpo.models.identity.read_adapter`."""


@dataclass(frozen=True)
class Place:
    """Where one adapter lies, and what is said of it there."""

    name: str
    folder: Path
    source: str
    """The entry of the settings."""
    revision: str | None = None
    base_sha256: str | None = None
    """Digest of the model's files on which a set was made."""
    license: str | None = None
    """The licence of a set, for adapters without a card of their own."""
    feature: str = ""
    """What a set's adapter was made for: the name of a feature, among others."""
    more: bool = True
    """False: it was made for less of that."""


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
    """The entry for the set of the model with these files: one that ships, else the cache's.

    The shipped one comes first, so that a run is the same on each machine. A set that is still
    being made is none.
    """
    here = made_here(sha256)
    for folder in (*sorted(SHIPPED.glob("*/")), here):
        with contextlib.suppress(UsageError):
            listed = read_set(folder)
            whole = not any(folder.glob(f"{UNFINISHED}*"))
            if listed.get("base_sha256") == sha256 and len(listed["adapters"]) >= FEWEST and whole:
                return str(folder) if folder == here else folder.name
    return None


def read_set(folder: Path) -> dict[str, Any]:
    """The document of a set's folder; empty where no set lies there."""
    listed = folder / SET
    if not listed.is_file():
        return {}
    try:
        document: dict[str, Any] = json.loads(listed.read_text(encoding="utf-8"))
        for each in document["adapters"]:
            if not str.isprintable(each["name"]):
                raise ValueError(f"{each['name']!r:.60} is no name in one line")
            if not (folder / each["folder"]).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{each['folder']} lies outside of it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{listed} is no list of adapters ({error!r})") from None
    return document


def settings_of_set(folder: Path, entry: str) -> list[str]:
    """What ``--set`` says of a run in a set as it was made: sampling, model and adapters.

    ``entry``: how the settings name the folder.
    """
    made = read_set(folder)
    own = [f"generation.{n}={json.dumps(x)}" for n, x in made.get("sampling", {}).items()]
    own += [f"model.name={made['base']}"] if made.get("base") else []
    return [*own, f"subspace.adapters={json.dumps([entry])}"]


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
            f"subspace.adapters: {list_first(twice)} occurs twice; names are those "
            f"of a set, or the folders' last parts: rename a folder"
        )
    return tuple(places)


def _expand(entry: str) -> list[Place]:
    folder, revision = _locate(entry)
    if listed := _read_places(folder, entry, revision):
        return listed
    with contextlib.suppress(UsageError):  # one adapter of a set is what the set says of it
        for place in () if revision else _read_places(folder.absolute().parent, entry):
            if place.folder.resolve() == folder.resolve():
                return [place]
    name = entry.partition("@")[0] if revision else str(folder.absolute())
    return [Place(Path(name).name, folder, entry, revision)]


def _read_places(folder: Path, entry: str, revision: str | None = None) -> list[Place]:
    """The adapters of a set; none where no set lies there."""
    document = read_set(folder)
    made, terms = document.get("base_sha256"), document.get("license")
    return [
        Place(
            str(each["name"]), folder / str(each["folder"]), entry, revision, made,
            terms and str(terms), str(each.get("feature", "")), each.get("more") is not False,
        )
        for each in document.get("adapters", ())
    ]  # fmt: skip


def _locate(entry: str) -> tuple[Path, str | None]:
    path = shipped(entry) or files.expand(entry)
    if path.is_dir():
        return path, None
    hub_id, _, revision = entry.partition("@")
    if not is_hub_id(hub_id):
        raise UsageError(
            f"subspace.adapters: {entry!r} not found (looked in {path.absolute()}); give a PEFT "
            "folder, a set's folder, or a hub id with its revision, such as owner/name@revision"
        )
    if not revision:
        raise UsageError(
            f"subspace.adapters: {entry} is no folder here, and a hub id needs its revision: "
            f"{entry}@COMMIT; an adapter that changes would be another coordinate"
        )
    return download(hub_id, revision=revision, what="adapter"), revision


def read(place: Place, base: str, folder: Path) -> tuple[Adapter, dict[str, Any]]:
    """One adapter, and its facts as they are recorded; ``base`` is the run's model in ``folder``.

    Raises:
        UsageError: It is more than a plain LoRA, or made for another model or tokenizer.
    """
    adapter = read_adapter(place.folder, patterns=True)
    if away := other_base(adapter, base, folder):
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
        "license": _licence(place.folder) or place.license,
        **({"feature": place.feature, "more": place.more} if place.feature else {}),
    }


def read_adapter(path: Path, *, patterns: bool = False) -> Adapter:
    """Read a PEFT LoRA adapter from its folder, checked like a model.

    With ``patterns`` its layers may have different ranks and alphas.
    """
    parts = weight_files.safetensors_in(path, what="adapter")
    described = path / ADAPTER_CONFIG
    if not described.is_file():
        raise UsageError(f"adapter {path}: no adapter_config.json there; give a PEFT LoRA folder")
    try:
        config = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{described} is not JSON ({error})") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        what = "it" if patterns else "a starting adapter"
        raise UsageError(f"adapter {path} is of type {kind}; {what} must be LORA")
    tensors = {
        name: tensor.float().numpy()
        for file in parts
        for name, tensor in weight_files.read_tensors(file).items()
    }
    _require_peft_names(path, tensors)
    others = sorted(name for name in tensors if not re.fullmatch(r".+\.lora_[AB]\.weight", name))
    fields = beyond_plain(config)
    limit, remedy = "", "leave it out, or train a plain one"
    if not patterns:
        fields += [field for field in ("rank_pattern", "alpha_pattern") if config.get(field)]
        limit = " of one rank and alpha"
        remedy = "merge it into its base (merge_and_unload of PEFT), and give that as model.name"
    if others or fields:
        beside = [f"tensors {list_first(others)}"] if others else []
        if patterns:  # which initialisation it is matters
            fields = [f"{field} {config[field]}" for field in fields]
        beside += [f"options {', '.join(fields)}"] if fields else []
        raise UsageError(
            f"adapter {path} is more than a plain LoRA{limit}: {'; '.join(beside)}; {remedy}"
        )
    config = _plain(path, config, tensors)
    _require_factors(path, config, tensors)
    return Adapter(
        path, config, dict(sorted(tensors.items())), weight_files.digest(parts),
        identity.read_adapter(path),
    )  # fmt: skip


def _require_peft_names(path: Path, tensors: Iterable[str]) -> None:
    """Refuse tensors that are named as inside a module, or by another program."""
    for name in sorted(tensors):
        if inner := re.search(r"\.lora_(?:[AB]|embedding_[AB])\.(\w+)\.weight$", name):
            raise UsageError(
                f"adapter {path}: tensor {name} has the adapter's own name ({inner[1]}) in it, as "
                "inside PEFT's model; save it by save_pretrained"
            )
        if ".lora_" in name and not name.startswith("base_model.model."):
            raise UsageError(
                f"adapter {path}: tensor {name} is not named as PEFT does (base_model.model.…); "
                "convert it, or save it by PEFT's save_pretrained"
            )


def _require_factors(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]
) -> None:
    """Refuse factors of other shapes than A (rank, in) and B (out, rank), or that do nothing."""
    rank = None if config.get("rank_pattern") else config.get("r", 8)
    firsts = [name for name in sorted(tensors) if ".lora_A." in name]
    for name in (n for n in firsts if n.replace(".lora_A.", ".lora_B.") in tensors):
        a, b = tensors[name], tensors[name.replace(".lora_A.", ".lora_B.")]
        shapes = f"adapter {path}: A of {name.split('.lora_A')[0]} is {a.shape} and B {b.shape}"
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise UsageError(
                f"{shapes}; A must be (rank, in) and B (out, rank): transpose them, or fetch the "
                "adapter again"
            )
        if rank is not None and a.shape[0] != rank:
            raise UsageError(
                f"{shapes}, but r in its {ADAPTER_CONFIG} is {rank}; fetch the adapter again, "
                "with the settings that belong to it"
            )
    if config.get("lora_alpha", 8) == 0 or not any(each.any() for each in tensors.values()):
        raise UsageError(
            f"adapter {path} does nothing: its lora_alpha, or every number in it, is zero; leave "
            "it out, or give a trained one"
        )


def _plain(
    path: Path, config: dict[str, Any], tensors: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """The settings as PEFT may read them: no expression without end, no rank that fills memory."""
    patterns = [config.get(f"{each}_pattern") or {} for each in ("rank", "alpha")]
    keys = [*itertools.chain(*patterns), *_texts(config.get("layers_pattern"))]
    keys += _texts(config.get("exclude_modules"))
    if odd := [key for key in keys if not re.fullmatch(r"\^?(?:\w|\\?\.)+\$?", str(key))]:
        raise UsageError(
            f"adapter {path} tells its layers by expressions ({odd[0]!r:.60}), which are not "
            "read; save it with the layers' names"
        )
    most = max((64, *(each.shape[0] for name, each in tensors.items() if ".lora_A." in name)))
    if (
        not all(isinstance(each, dict) for each in patterns)
        or not all(_is_number(r, most, int) for r in (config.get("r", 8), *patterns[0].values()))
        or not all(
            _is_number(alpha, 2.0**53, (int, float))
            for alpha in (config.get("lora_alpha", 8), *patterns[1].values())
        )
    ):
        raise UsageError(
            f"adapter {path}: a rank or alpha in its {ADAPTER_CONFIG} is not that of its tensors; "
            "fetch or copy the adapter again"
        )
    if isinstance(config.get("target_modules"), str):
        names = {
            re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", each) for each in tensors
        }
        return {**config, "target_modules": sorted(names)}
    return config


def _is_number(value: Any, most: float, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= most


def _texts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def tell_base(adapter: Adapter, name: str, folder: Path) -> None:
    """Warn if an adapter names another base than the model ``name`` in ``folder``."""
    if away := other_base(adapter, name, folder):
        logging.getLogger("szpo").warning(f"{away}; on other weights it is another policy")


def other_base(adapter: Adapter, name: str, folder: Path) -> str:
    """Say that an adapter names another base than the model ``name`` in ``folder``; or empty."""
    named = str(adapter.config.get("base_model_name_or_path") or "")
    revision = adapter.config.get("revision") or "main"
    known = revision == "main" or folder.name.startswith(revision)
    if not named or (known and _is_base(named, name, folder)):
        return ""
    wanted, given = (named, name) if known else (f"{named} at revision {revision}", folder)
    return f"adapter {adapter.path} is for {wanted}, and the model is {given}"


def _is_base(named: str, name: str, folder: Path) -> bool:
    """Paths of other machines are compared by their last part, which copies keep."""
    its, mine = (lora.base_name(each) for each in (named, name))
    path = files.expand(its)
    if its.casefold() == mine.casefold() or (path.is_dir() and path.samefile(folder)):
        return True
    if path.is_dir() or (is_hub_id(its) and is_hub_id(mine)):
        return False
    return path.name.casefold() in {Path(mine).name.casefold(), folder.resolve().name.casefold()}


def beyond_plain(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a LoRA that make it more than ``scale · B A x`` on linear layers."""
    beyond = [name for name in PLAIN_LORA_ONLY if settings.get(name)]
    beyond += ["bias"] if settings.get("bias") not in (None, "none") else []
    changed = settings.get("init_lora_weights") not in KEEPS_BASE
    return [*beyond, "init_lora_weights"] if changed else beyond


def identify(entries: Sequence[str]) -> list[list[Any]]:
    """What tells adapters apart, as plain JSON: the name of each, and its parts."""
    return [[place.name, identity.read_adapter(place.folder)] for place in find(entries)]


def _words(folder: Path) -> Any:
    """The words of a folder's tokenizer and their numbers; None without such a file."""
    try:
        file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = sorted((each["id"], each["content"]) for each in file.get("added_tokens", ()))
        return file["model"]["vocab"], added
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

    See `szpo.models.lora.peft_files`.
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
    tensors, keys = {}, set()
    for site in sites:
        for name, letter in ((site.a, "A"), (site.b, "B")):
            key = f"base_model.model.{site.name}.lora_{letter}.weight"
            if key not in adapter.tensors:
                raise UsageError(
                    f"adapter {adapter.path} has no tensor {key}; it does not fit this model"
                )
            tensors[name] = adapter.tensors[key]
            keys.add(key)
    if others := [key for key in adapter.tensors if key not in keys]:
        raise UsageError(
            f"adapter {adapter.path}: {len(others)} of its tensors are of layers that this model "
            f"lacks or its adapter_config.json does not name: {list_first(others)}; give the "
            "adapter's own base, and the file that belongs to it"
        )
    return tensors


def delta_weight(factors: Theta, site: Site) -> NDArray[np.float32]:
    """What the adapter adds to a weight, (out, in): scale · B A."""
    product = factors[site.b].astype(np.float64) @ factors[site.a].astype(np.float64)
    return np.asarray(site.scale * product, dtype=np.float32)


def is_conv1d(model: Any, site: Site) -> bool:
    """The site is one of GPT-2's layers that keep their weight transposed."""
    return type(model.get_submodule(site.name)).__name__ == "Conv1D"
