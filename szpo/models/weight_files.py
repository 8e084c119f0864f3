"""Weight files: which ones may be read, whether they are whole, and what they hold.

Only safetensors are read: pickle formats run code. A damaged file gives one line.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from szpo import cache
from szpo.errors import UsageError

if TYPE_CHECKING:
    import torch

WHOLE: Final = {"model": "model.safetensors", "adapter": "adapter_model.safetensors"}
"""The file of all weights, which is loaded before any index and beside any other file."""
INF: Final = float("inf")
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

AGAIN = "fetch or copy the model again, with the config.json that belongs to its files"


def safetensors_in(folder: Path, *, what: str = "model") -> tuple[Path, ...]:
    """The safetensors files of a folder that are loaded, sorted by name: not any others beside.

    Raises:
        UsageError: The folder is missing, lacks a file of its index, or holds only pickle files,
            or no weights at all.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{what} folder {folder} not found; give a folder with config.json and *.safetensors"
        )
    if (whole := folder / WHOLE[what]).is_file():
        return (whole,)
    if files := _indexed(folder / f"{WHOLE[what]}.index.json"):
        if missing := [path for path in files if not path.is_file()]:
            raise UsageError(f"{missing[0]} is missing, which the index beside it names; {AGAIN}")
        return files
    files = tuple(sorted(p for p in folder.glob("*.safetensors") if p.is_file()))
    if files:
        return files
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise UsageError(
            f"{folder}: pickle files are refused ({', '.join(pickles[:3])}), since they can run "
            "code; convert with model.save_pretrained(folder), which writes safetensors"
        )
    inside = sorted({p.parent for p in folder.glob("*/*.safetensors")})
    there = f"; {list_first(inside)} has some: give that folder" if inside else ""
    raise UsageError(
        f"{folder}: no *.safetensors file there{there or f'; give a folder with {what} weights'}"
    )


def _indexed(index: Path) -> tuple[Path, ...]:
    """The files that an index names; none without a readable one."""
    with suppress(*cache.UNREADABLE, AttributeError):
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return tuple(sorted(index.with_name(name) for name in set(named)))
    return ()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header and length its library has checked.

    Raises:
        UsageError: The file is corrupt, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # the library says of each that it is missing
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UsageError(
            f"corrupt safetensors: {path}: {error}; fetch or copy the file again"
        ) from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one safetensors file.

    Raises:
        UsageError: The file is corrupt or a value is not finite.
    """
    with opened(path) as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        _require_finite(path, name, tensor)
    return tensors


def load_model(folder: Path, **options: Any) -> Any:
    """Load a causal language model whose files hold every tensor of it.

    transformers draws a tensor that they lack at random. Tensors of the files that the model does
    not have are named in a warning. ``options`` go to ``from_pretrained``.
    """
    import transformers

    with cache.quiet(), _keep_report() as report:
        try:
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
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
    model, info = loaded
    missing, others = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        named = f"; they hold {len(others)} that it does not have: {list_first(others)}"
        raise UsageError(
            f"{folder}: its files lack {len(missing)} of the model's tensors: "
            f"{list_first(missing)}{named if others else ''}; {AGAIN}"
        )
    if unlike := sorted(info["mismatched_keys"]) + _packed_unlike(model):
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


def save_model(model: Any, folder: Path, **options: Any) -> None:
    """Write a model's folder by ``save_pretrained``, all files readable alike.

    safetensors keeps those it writes to their owner.
    """
    model.save_pretrained(str(folder), **options)
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", file)


def _packed_unlike(model: Any) -> list[Any]:
    """4-bit weights whose shapes in the files, which transformers does not compare, are others."""
    unlike = []
    for name, layer in model.named_modules():
        packed = getattr(getattr(layer, "weight", None), "quant_state", None)
        if packed is not None:
            wanted = (layer.out_features, layer.in_features)
            unlike += [(f"{name}.weight", packed.shape, wanted)] * (tuple(packed.shape) != wanted)
    return unlike


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
    matches = (re.fullmatch(r"(.*?\.)(\d+)(\..*)", name) for name in names)
    return sorted({int(m[2]) for m in matches if m and f"{m[1]}0{m[3]}" in known})


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over all tensors by name: (name, dtype, shape, bytes), whatever the sharding.

    Reads every byte and checks that all values are finite; cached while no file changes.
    """
    stats = ((path.resolve(), path.stat()) for path in files)
    return _digest(
        tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats)
    )


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    import torch

    where: dict[str, tuple[Path, Any]] = {}
    total = hashlib.sha256()
    with ExitStack() as stack:
        for path, *_ in files:
            file = stack.enter_context(opened(path))
            names = file.keys()
            for name in names:
                if name in where:
                    raise UsageError(
                        f"tensor {name} is in {where[name][0]} and in {path}; remove one file"
                    )
                where[name] = path, file
        for name in sorted(where):
            path, file = where[name]
            tensor = file.get_tensor(name).contiguous()
            _require_finite(path, name, tensor)
            total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _require_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or tensor.element_size() == 1 or tensor.numel() == 0:
        return
    # The extremes are not finite exactly when some value is not, in one pass without a copy.
    low, high = tensor.aminmax()
    if bool(low.isfinite()) and bool(high.isfinite()):
        return
    if re.search(r"mask|att\w*\.bias$", name) and bool(low == -INF) and bool(high < INF):
        return  # a buffer that hides places from attention
    bad = int((~tensor.isfinite()).sum())
    raise UsageError(
        f"{path}: tensor {name} has {bad} values that are not finite "
        f"(of {tensor.numel()}); the weights are damaged, fetch them again"
    )
