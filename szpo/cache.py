"""The cache folder of converted and trained models: files are written atomically and read back.

Some files that are needed often ship with the package; ``index.json`` beside them has the SHA-256
of each file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from szpo import files
from szpo.errors import ResourceError, StorageError

T = TypeVar("T")
UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)
"""Errors that reading a damaged file raises."""


def cache_dir() -> Path:
    """The folder of converted and trained models.

    $SZPO_CACHE, else szpo in $XDG_CACHE_HOME where that is absolute, else ~/.cache/szpo.
    """
    if chosen := os.environ.get("SZPO_CACHE"):
        return files.expand(chosen)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))  # XDG: ignore relative paths
    if not shared.is_absolute() and not (shared := files.expand("~/.cache")).is_absolute():
        raise ResourceError(
            "this user has no home folder, where models are kept; set SZPO_CACHE to a folder that "
            "can be written"
        )
    return shared / "szpo"


def read_shipped(path: Path, read: Callable[[Path], T], what: str) -> T | None:
    """Read a file that ships with the package; None if there is none.

    A file with a wrong digest is not read, and a warning says that ``what`` made anew; ``what``
    ends with its verb.
    """
    if not path.is_file():
        return None
    with contextlib.suppress(*UNREADABLE):
        index = json.loads(path.with_name("index.json").read_text(encoding="utf-8"))
        if index[path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest():
            return read(path)
    logging.getLogger("szpo").warning(
        f"{path} is not the file that ships with szpo; {what} made anew "
        "(install szpo again to have it back)"
    )
    return None


def read_stored(path: Path, read: Callable[[Path], T]) -> T | None:
    """Read a file of the cache; None if there is none. An unreadable file is deleted."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def read_either(shipped: Path, stored: Path, read: Callable[[Path], T], what: str) -> T | None:
    """Read the shipped file, else the cached one; see `read_shipped` and `read_stored`."""
    value = read_shipped(shipped, read, what)
    return read_stored(stored, read) if value is None else value


def require_plain(path: Path) -> None:
    """Refuse a ``.npz`` file of arrays that need more memory than the file is long.

    Raises:
        ValueError: an array is packed, or its header names more values than there are.
    """
    with zipfile.ZipFile(path) as whole:
        for part in whole.infolist():
            with whole.open(part) as file:
                major, _ = np.lib.format.read_magic(file)
                header = {1: np.lib.format.read_array_header_1_0}.get(
                    major, np.lib.format.read_array_header_2_0
                )
                shape, _, kind = header(file)
            if part.compress_type != zipfile.ZIP_STORED or (
                math.prod(shape) * kind.itemsize > part.file_size
            ):
                raise ValueError(f"{path.name}: {part.filename} is larger than the file")


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file to the cache atomically; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replace_whole(path) as draft:
            write(draft)


def hub_copy(name: str) -> Path | None:
    """The local folder of a hub model (owner/name); None unless all its weights are there."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    whole = [each for each in place.glob("*") if _has_weights(each)]
    return max(whole, key=lambda each: each.stat().st_mtime, default=None)


def _has_weights(folder: Path) -> bool:
    """Whether the folder has all weight files of its index, or any weights without an index."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return all((folder / name).is_file() for name in set(index["weight_map"].values()))
    except FileNotFoundError:
        return any(folder.glob("*.safetensors"))
    except UNREADABLE:
        return False


def publish(target: Path, write: Callable[[Path], object]) -> Path:
    """Write a folder atomically; while one process writes it, others wait for it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.claim(target.with_name(f".{target.name}.lock"), wait=True):
            if (target / "config.json").is_file():
                return target
            with files.write_whole(target) as draft:
                draft.mkdir()
                write(draft)
                draft.chmod(0o755)
    except OSError as error:
        raise ResourceError(
            f"cannot write the model cache {target.parent} ({error.strerror}); "
            "set SZPO_CACHE to a folder that can be written"
        ) from None
    except StorageError as error:
        if not (target / "config.json").is_file():
            raise ResourceError(
                f"{error}; set SZPO_CACHE to a folder that can be written"
            ) from None
    return target


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars and warnings of model loaders; errors still appear."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Its reader of GGUF draws bars past that switch.
    bar = transformers_logging.tqdm_lib.tqdm  # type: ignore[attr-defined]
    draw, bar.__init__ = bar.__init__, partialmethod(bar.__init__, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bar.__init__ = draw
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
