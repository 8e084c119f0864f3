"""Nearness of an answer to texts of one's own: a classifier of them against the start's answers.

Logistic regression on the frequencies of hashed runs of one to three characters, own texts and
answers of equal weight. Its weights are small integers, which are recorded: so a score is an exact
ratio on every machine, and whoever verifies a record needs neither the texts nor a fit.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from szpo.errors import UsageError
from szpo.optim import vote_regression
from szpo.types import Floats

BUCKETS: Final = 512
READS: Final = 4_000
"""Characters from the start of a text that are read."""
FEWEST: Final = 10
MOST: Final = 2_000
"""Own texts: fewer teach a topic, more take long."""
BYTES: Final = 2**25
"""Longest file of own texts."""
PRIOR: Final = 0.01
"""Prior precision of a weight, of a run's frequency in tenths."""
LARGEST: Final = 127


def read_texts(path: Path) -> tuple[tuple[str, ...], bytes]:
    """The different texts of a file, one a line, and its bytes.

    Raises:
        UsageError: the file cannot be read as UTF-8, or has too few texts or too many.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file; give one text a line")
        with path.open("rb") as file:
            raw = file.read(BYTES + 1)
        if len(raw) > BYTES:
            raise UsageError(
                f"{path} has more than {BYTES >> 20} MiB; give {MOST:,} texts at most"
            )
        lines = raw.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as UTF-8") from None
    except ValueError as error:  # a name that no file can have
        raise UsageError(f"{path} cannot be read ({error})") from None
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not FEWEST <= len(texts) <= MOST:
        raise UsageError(
            f"{path} has {len(texts)} different texts, one a line; give {FEWEST} to {MOST:,}"
        )
    return texts, raw


def learn(own: Sequence[str], start: Sequence[str]) -> list[int]:
    """The weights (`BUCKETS`,) by which own texts differ from the start's answers."""
    x = 10 * np.array([_frequencies(text) for text in (*own, *start)])
    x = np.c_[x - x.mean(0), np.ones(len(x))]
    total = np.repeat([1 / len(own), 1 / len(start)], [len(own), len(start)])
    total = total * len(x) / 2
    up = np.where(np.arange(len(x)) < len(own), total, 0.0)
    precision = np.diag(np.r_[np.full(BUCKETS, PRIOR), 1e-4])
    fit = vote_regression.approximate(
        vote_regression.Rows(x, up, total), np.zeros(BUCKETS + 1), precision, None
    )
    found = fit.coef[:-1]
    return [round(each) for each in (LARGEST * found / max(np.abs(found).max(), 1e-300)).tolist()]


def score(text: str, weights: Sequence[int]) -> tuple[int, int]:
    """The mean weight of a text's runs of characters, as a ratio.

    >>> score("abc", [1] * BUCKETS)
    (12, 12)
    """
    found = [weights[each] for each in _runs(text)]
    return sum(found), len(found)


def pack(weights: Sequence[int]) -> str:
    """The weights as text; `unpack` reads it."""
    return base64.b64encode(np.array(weights, dtype=np.int8).tobytes()).decode()


def unpack(text: str) -> list[int]:
    """The weights that `pack` wrote; a damaged text is refused."""
    try:
        found = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.int8)
    except (binascii.Error, ValueError):
        found = np.zeros(0, dtype=np.int8)
    if len(found) != BUCKETS:
        raise UsageError(f"likeness: {len(text)} characters are not the weights of {BUCKETS} runs")
    return [int(each) for each in found]


def _frequencies(text: str) -> Floats:
    counts = np.bincount([*_runs(text)], minlength=BUCKETS)
    return np.asarray(counts / counts.sum())


def _runs(text: str) -> Iterator[int]:
    """The bucket of each run of one to three characters; the text has a space at both ends."""
    padded = f" {text[:READS]} "
    for size in (1, 2, 3):
        for at in range(len(padded) - size + 1):
            yield zlib.crc32(padded[at : at + size].encode(errors="replace")) % BUCKETS
