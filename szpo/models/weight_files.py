"""Weight files: which ones may be read, whether they are whole, and what they hold.

Only safetensors are read: pickle formats run code. A file is checked before it is handed to any
library, so that a damaged one gives a line with numbers instead of a traceback.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM

from szpo import cache
from szpo.errors import IntegrityError, UsageError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEADER_LIMIT = 100_000_000


def safetensors_in(folder: Path, *, what: str = "model") -> tuple[Path, ...]:
    """The safetensors files of a folder, sorted by name.

    Raises:
        UsageError: The folder is missing, or holds only pickle files, or no weights at all.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{what} folder {folder} not found; give a folder with config.json and *.safetensors"
        )
    files = tuple(sorted(p for p in folder.glob("*.safetensors") if p.is_file()))
    if files:
        return files
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise UsageError(
            f"{folder}: pickle files are refused ({', '.join(pickles[:3])}), since they can run "
            "code; convert with model.save_pretrained(folder), which writes safetensors"
        )
    raise UsageError(f"{folder}: no *.safetensors file there; give a folder with {what} weights")


def header(path: Path) -> dict[str, Any]:
    """The header of one safetensors file, its byte ranges checked against the file's length.

    Returns:
        Tensor name → {"dtype", "shape", "data_offsets"}, in the order of the bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise _corrupt(path, f"the file has {size} bytes, a header alone needs 8")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, HEADER_LIMIT):
            raise _corrupt(path, f"header says {length} bytes of header, file has {size - 8}")
        try:
            table = json.loads(file.read(length))
        except ValueError as error:
            raise _corrupt(path, f"its header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise _corrupt(path, "its header is not a table of tensors")
    table.pop("__metadata__", None)
    try:
        spans = sorted((*entry["data_offsets"], name) for name, entry in table.items())
    except (KeyError, TypeError, ValueError):
        raise _corrupt(path, "a tensor in its header has no byte range") from None
    end = 0
    for first, last, name in spans:
        if first != end or last < first:
            raise _corrupt(
                path, f"tensor {name} says bytes {first} to {last}, expected to start at {end}"
            )
        end = last
    if 8 + length + end != size:
        raise _corrupt(path, f"header says {8 + length + end} bytes, file has {size}")
    return {name: table[name] for _, _, name in spans}


def _corrupt(path: Path, why: str) -> UsageError:
    return UsageError(f"corrupt safetensors: {path}: {why}; fetch or copy the file again")


def read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one safetensors file, after `header` has checked it.

    Raises:
        UsageError: The file is corrupt or a value is not finite.
    """
    names = header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from None
    for name, tensor in tensors.items():
        _require_finite(path, name, tensor)
    return tensors


def load_model(folder: Path, **options: Any) -> Any:
    """Load a causal language model whose files hold every tensor of it.

    transformers draws a tensor that they lack at random. Tensors of the files that the model does
    not have are named in a warning. ``options`` go to ``from_pretrained``.
    """
    with cache.quiet(), _keep_report() as report:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=False, output_loading_info=True,
                ignore_mismatched_sizes=True, **options,
            )  # fmt: skip
        except RuntimeError as error:
            if "report" not in str(error):
                raise
            unmade = re.findall(r"^(.+?) +\| \S*CONVERSION", "\n".join(report), re.MULTILINE)
            raise UsageError(
                f"{folder}: {list_first(unmade) or 'a tensor'} cannot be put together from the "
                f"tensors of its files, which lack some or have others of another shape; {AGAIN}"
            ) from None
    model, found = loaded
    missing, others = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing:
        named = f"; they hold {len(others)} that it does not have: {list_first(others)}"
        raise UsageError(
            f"{folder}: its files lack {len(missing)} of the model's tensors: "
            f"{list_first(missing)}{named if others else ''}; {AGAIN}"
        )
    if unlike := sorted(found["mismatched_keys"]) + _packed_unlike(model):
        name, here, wanted = unlike[0]
        raise UsageError(
            f"{folder}: the shapes of {len(unlike)} tensors are not the model's: {name} is "
            f"{tuple(here)} in its files and {tuple(wanted)} in the model; {AGAIN}"
        )
    if others:
        layers = _dropped_layers(others, model.state_dict())
        named = f", layers {list_first(layers)} among them, which num_hidden_layers drops"
        logging.getLogger("szpo").warning(
            f"{folder}: {len(others)} tensors of its files have no place in the model of its "
            f"config.json{named if layers else ''}, and are left out: {list_first(others)}"
        )
    return model


AGAIN = "fetch or copy the model again, with the config.json that belongs to its files"


def _packed_unlike(model: Any) -> list[Any]:
    """4-bit weights whose shapes in the files, which transformers does not compare, are others."""
    found = []
    for name, layer in model.named_modules():
        packed = getattr(getattr(layer, "weight", None), "quant_state", None)
        if packed is not None:
            wanted = (layer.out_features, layer.in_features)
            found += [(f"{name}.weight", packed.shape, wanted)] * (tuple(packed.shape) != wanted)
    return found


@contextmanager
def _keep_report() -> Iterator[list[str]]:
    """Collect the library's reports of loads, which `szpo.cache.quiet` hides."""
    kept: list[str] = []
    log, handler = logging.getLogger("transformers.modeling_utils"), logging.Handler()
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield kept
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def list_first(names: Sequence[object], most: int = 3) -> str:
    """The first of these names, and how many more there are.

    >>> list_first("abcde")
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _dropped_layers(names: Sequence[str], model: Iterable[str]) -> list[int]:
    """The numbers of layers in these names that would be the model's, were it deeper."""
    known = set(model)
    found = (re.fullmatch(r"(.*?\.)(\d+)(\..*)", name) for name in names)
    return sorted({int(m[2]) for m in found if m and f"{m[1]}0{m[3]}" in known})


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over all tensors by name: (name, dtype, shape, bytes), whatever the sharding.

    Reads every byte and checks that all values are finite; cached while no file changes.
    """
    stats = ((path.resolve(), path.stat()) for path in files)
    return _digest(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    where: dict[str, Path] = {}
    for path, _, _ in files:
        for name in header(path):
            if name in where:
                raise UsageError(
                    f"tensor {name} is in {where[name]} and in {path}; remove one file"
                )
            where[name] = path
    total = hashlib.sha256()
    for path, names in _runs(sorted(where.items())):
        try:
            with safe_open(path, framework="pt") as file:
                for name in names:
                    tensor = file.get_tensor(name).contiguous()
                    _require_finite(path, name, tensor)
                    total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
                    total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        except SafetensorError as error:
            raise _corrupt(path, str(error)) from None
    return total.hexdigest()


def _runs(items: Iterable[tuple[str, Path]]) -> list[tuple[Path, list[str]]]:
    """Consecutive names of one file together, so that each file is opened few times."""
    runs: list[tuple[Path, list[str]]] = []
    for name, path in items:
        if not runs or runs[-1][0] != path:
            runs.append((path, []))
        runs[-1][1].append(name)
    return runs


def _require_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or tensor.element_size() == 1 or tensor.numel() == 0:
        return
    # The extremes are not finite exactly when some value is not, in one pass without a copy.
    low, high = torch.aminmax(tensor)
    if bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise UsageError(
        f"{path}: tensor {name} has {bad} values that are not finite "
        f"(of {tensor.numel()}); the weights are damaged, fetch them again"
    )


def require_same(expected: str, found: str, *, what: str) -> None:
    """Refuse a digest that is not the expected one, such as that of a run's base model."""
    if expected != found:
        raise IntegrityError(
            f"{what} differs: the run was made with {expected[:16]}…, found {found[:16]}…; "
            "use the same weights, or start a new run"
        )
