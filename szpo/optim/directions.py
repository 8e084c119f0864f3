"""Directions as integers on the grid 2⁻⁸: tabled Gaussians, random blocks, orthonormal frames.

Sixteen bits of a raw word choose one of 65,536 equal-probability quantiles of N(0, 1). No log, no
cos and no floating point in the stream, so a direction is the same on every machine and any shard
can make any slice. Scale factors never enter the stream: they go into radius and coefficient.
"""

from __future__ import annotations

import decimal
import functools
import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from szpo import seeds
from szpo.errors import IntegrityError, UsageError

DIRECTION_VERSION = 1
"""Of the table, and so of the laws gaussian and block."""
ORTHONORMAL_VERSION: Final = 2
"""Of the law orthonormal; whichever law changes gets the next number that none has had."""
GRID = 256
"""Integers are in units of 1/256."""
TABLE_SHA256 = "586fabbefab1ca027691c6b3d5704762521173d6ce9ad1624f04c5fbc16b9968"
NORMALISE_UP_TO = 64
"""Directions of at most this many coordinates are scaled to |v| = √d unless a law says not to."""
ORTHONORMAL_UP_TO: Final = 256
"""Largest space in which directions are made orthogonal."""
DIGITS: Final = 50
"""Decimal digits of the arithmetic that makes them so; see `orthonormal`."""
DEPENDENT: Final = decimal.Decimal("1e-40")
"""A row with a smaller share of its square left depends on those before it."""


@dataclass(frozen=True, slots=True)
class Law:
    """How a direction is drawn; E[v vᵀ] = I under each, once the factor is applied.

    ``gaussian``: tabled N(0, 1) in every coordinate; ``normalise`` scales |v| to √d.
    ``block``: ±1 at ``block`` random coordinates, times √(d / block) (block-coordinate search).
    ``orthonormal``: the Gaussian directions of a step made orthogonal to each other, |v| = √d;
    after d of them a new frame begins (`orthonormal`).

    Raises:
        UsageError: an unknown kind, or a block size that is missing or not positive.
    """

    kind: Literal["gaussian", "block", "orthonormal"] = "gaussian"
    block: int | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "block", "orthonormal"):
            raise UsageError(
                f"law: {self.kind!r} is unknown; choose gaussian, block or orthonormal"
            )
        if self.kind == "block" and (self.block is None or self.block < 1):
            raise UsageError(f"law: block size is {self.block}; give an integer of at least 1")
        if self.kind != "block" and self.block is not None:
            raise UsageError(f"law: a block size belongs to the law block, not {self.kind}")

    @property
    def scaled(self) -> bool:
        """The factor brings |v| to √d."""
        return self.normalise or self.kind == "orthonormal"

    @property
    def version(self) -> int:
        """The number under which a run records how its directions are drawn."""
        return ORTHONORMAL_VERSION if self.kind == "orthonormal" else DIRECTION_VERSION

    @classmethod
    def for_dim(cls, dim: int) -> Law:
        """The default law: Gaussian, normalised for small d.

        >>> Law.for_dim(8)
        Law(kind='gaussian', block=None, normalise=True)
        """
        return cls(normalise=dim <= NORMALISE_UP_TO)


@functools.cache
def table() -> NDArray[np.int16]:
    """The 65,536 quantiles at (i + ½) / 65536, rounded to the grid, mirrored about 0.

    Raises:
        IntegrityError: this machine's quantile function gives another table.
    """
    upper = ndtri((np.arange(32768, 65536) + 0.5) / 65536)
    half = np.rint(upper * GRID).astype(np.int16)
    values = np.concatenate([-half[::-1], half])
    found = hashlib.sha256(values.astype("<i2").tobytes()).hexdigest()
    if found != TABLE_SHA256:
        raise IntegrityError(
            f"direction table: SHA-256 is {found}, expected {TABLE_SHA256}; "
            "this scipy computes other quantiles, so runs would not replay: install another"
        )
    values.setflags(write=False)
    return values


def gaussian(key: bytes, n: int, start: int = 0) -> NDArray[np.int16]:
    """Coordinates start … start + n − 1 of the key's Gaussian direction, in units of 1/256.

    >>> whole = gaussian(bytes(16), 9)
    >>> bool((gaussian(bytes(16), 3, start=5) == whole[5:8]).all())
    True
    """
    word, skip = divmod(start, 4)  # a word makes four coordinates, lowest bits first
    words = seeds.bits(key, (skip + n + 3) // 4, word)
    picks = words.astype("<u8").view("<u2")[skip : skip + n]
    values: NDArray[np.int16] = table()[picks]
    return values


def block(key: bytes, dim: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Positions (ascending, distinct, in [0, dim)) and values (±256) of a block direction.

    Raises:
        UsageError: the block is larger than the space.
    """
    if not 1 <= size <= dim:
        raise UsageError(f"law: block of {size} in {dim} coordinates; give 1 to {dim}")
    few = min(size, dim - size)
    positions = _distinct(key, dim, few)
    if few != size:  # drawing what to leave out is the shorter list
        keep = np.ones(dim, dtype=bool)
        keep[positions] = False
        positions = np.flatnonzero(keep)
    # Signs come from the far half of the stream, which the positions never reach.
    coins = seeds.bits(key, (size + 63) // 64, start=2**60)
    signs = np.unpackbits(coins.astype("<u8").view(np.uint8), bitorder="little")[:size]
    return positions, ((2 * signs.astype(np.int16) - 1) * GRID).astype(np.int16)


def orthonormal(drawn: NDArray[np.int16]) -> NDArray[np.int16]:
    """Rows (K, d), K ≤ d, made orthogonal one after the other, of length √d, in units of 1/256.

    Gram–Schmidt in real arithmetic, then one rounding to the grid, halves to even. A row that
    depends on those before it is replaced by the first unit vector that does not. Double precision
    is enough unless a value lies closer to a half than its error reaches; then the rows are
    computed with 50 digits. So the result is the same on every machine.

    >>> orthonormal(np.array([[3, 4], [5, 0]], dtype=np.int16)).tolist()
    [[217, 290], [290, -217]]
    """
    fast = _in_doubles(drawn)
    return _in_decimals(drawn) if fast is None else fast


def _in_doubles(drawn: NDArray[np.int16]) -> NDArray[np.int16] | None:
    """The rows of `orthonormal`; None where rounding errors could change one of its integers."""
    count, dim = drawn.shape
    rows = drawn.astype(np.float64)
    # Only the size matters here: with it grows the error of Gram–Schmidt (Björck 1967).
    spread = np.linalg.svd(rows, compute_uv=False)
    if not spread[-1] > 1e-6 * spread[0]:
        return None
    found = np.empty_like(rows)
    for k, row in enumerate(rows):
        left = row
        for _ in range(2):  # once more: the first leaves what its own rounding made
            left = left - (found[:k] * (found[:k] * left).sum(-1, keepdims=True)).sum(0)
        found[k] = left / math.sqrt(float((left * left).sum()))
    size = GRID * math.sqrt(dim)
    values = size * found
    error = size * 16 * count * math.sqrt(dim) * 2.0**-53 * spread[0] / spread[-1]
    if (np.abs(np.abs(values - np.floor(values)) - 0.5) <= error).any():
        return None
    return np.rint(values).astype(np.int16)


def _in_decimals(drawn: NDArray[np.int16]) -> NDArray[np.int16]:
    """The rows of `orthonormal` with `DIGITS` decimal digits."""
    dim = drawn.shape[1]
    units = np.eye(dim, dtype=np.int64)
    found: list[list[decimal.Decimal]] = []
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        for row in drawn.astype(np.int64):
            for given in (row, *units):
                whole = [decimal.Decimal(int(value)) for value in given]
                left = whole
                for before in found:
                    along = _dot(whole, before)
                    left = [x - along * y for x, y in zip(left, before, strict=True)]
                square = _dot(left, left)
                if square > DEPENDENT * max(_dot(whole, whole), decimal.Decimal(1)):
                    break
            length = square.sqrt()
            found.append([x / length for x in left])
        size = GRID * decimal.Decimal(dim).sqrt()
        even = decimal.ROUND_HALF_EVEN
        rounded = [[int((size * x).to_integral_value(even)) for x in row] for row in found]
    return np.array(rounded, dtype=np.int16)


def _dot(a: list[decimal.Decimal], b: list[decimal.Decimal]) -> decimal.Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), decimal.Decimal(0))


def gaussian_factor(sum_of_squares: int, dim: int) -> float:
    """√d / |v| from the exact integer sum of squares (units 1/65536); 1 for the zero direction."""
    if sum_of_squares == 0:
        return 1.0  # asks nothing and moves nothing; only likely to be met in one dimension
    return math.sqrt(dim * GRID * GRID / sum_of_squares)


def block_factor(dim: int, size: int) -> float:
    """√(d / B), which makes E[v vᵀ] = I for a block of B coordinates."""
    return math.sqrt(dim / size)


def _distinct(key: bytes, dim: int, count: int) -> NDArray[np.int64]:
    """The first ``count`` distinct integers in [0, dim) of the key's stream, ascending."""
    found = np.empty(0, dtype=np.int64)
    drawn, chunk = 0, 2 * count + 8
    while len(found) < count:
        words = seeds.bits(key, chunk, drawn) >> np.uint64(32)
        picks = (words * np.uint64(dim) >> np.uint64(32)).astype(np.int64)
        both = np.concatenate([found, picks])
        _, first = np.unique(both, return_index=True)
        found = both[np.sort(first)]
        drawn += chunk
    return np.sort(found[:count])
