"""The folder of converted and trained models, and how another folder is put there whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from szpo.errors import ResourceError


def cache_dir() -> Path:
    """The folder of converted and trained models: $SZPO_CACHE, else ~/.cache/szpo."""
    chosen = os.environ.get("SZPO_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "szpo"


def publish(target: Path, write: Callable[[Path], object]) -> Path:
    """Write a folder under another name and rename it, so that a half-written one is never seen.

    Raises:
        ResourceError: The cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ResourceError(
            f"cannot write the model cache {target.parent} ({error.strerror}); "
            "set SZPO_CACHE to a folder that can be written"
        ) from None
    try:
        write(draft)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    except OSError as error:
        raise ResourceError(f"cannot write {target} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loaders' progress bars and remarks; errors still come."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
