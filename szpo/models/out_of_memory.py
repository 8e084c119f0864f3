"""Smaller batches where memory runs out: log one line, and repeat the work with half the rows.

The distribution of samples does not depend on the batch size; their last bits may.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import ResourceError

T = TypeVar("T")
S = TypeVar("S", bound=np.generic)
_WORDS: Final = ("out of memory", "can't allocate memory")
"""How errors without a class of their own (CPU, MPS) say it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def retry_halved(work: Callable[[int], T], rows: int) -> T:
    """Return ``work(rows)``; while it runs out of memory, ask again with half as many rows."""
    while True:
        try:
            return work(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            rows = _smaller(rows)
        free_memory()


def split_halved(
    work: Callable[[NDArray[np.int64]], NDArray[S]], rows: NDArray[np.int64]
) -> NDArray[S]:
    """Return ``work(rows)``, one result per row; where memory runs out, the halves one by one."""
    try:
        return work(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        half = _smaller(len(rows))
    free_memory()
    parts = [split_halved(work, rows[:half]), split_halved(work, rows[half:])]
    return np.concatenate(parts)


def free_memory() -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _smaller(rows: int) -> int:
    if rows <= 1:
        raise ResourceError(
            "out of memory with one row in the batch; lower generation.max_new_tokens, shorten "
            "the prompts, or set model.quantization"
        ) from None
    logging.getLogger("szpo").warning(
        f"out of memory with {rows} rows in a batch; going on with {rows // 2}"
    )
    return rows // 2
