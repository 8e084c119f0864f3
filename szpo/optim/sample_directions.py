"""The random direction v of θ′ = θ + μv, E[v vᵀ] = I, as integers, so that runs replay exactly.

v is N(0, I) as in the paper, N(0, I) scaled to |v| = √d, or one of an orthonormal frame (`Law`).

Sixteen bits of a raw word choose one of 65,536 equal-probability quantiles of N(0, 1) from a
table, in units of 2⁻⁸. The draw uses no log, no cos and no floating point, so a direction is the
same on every machine and any shard can make any slice. Scale factors are not part of the drawn
values: they go into radius and coefficient. A change of the table or of a law moves the version of
the ledger's schema, since a run replays along the directions that it was asked along.
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

PER_UNIT = 256
"""Drawn integers are in units of 1/256."""
TABLE_SHA256 = "586fabbefab1ca027691c6b3d5704762521173d6ce9ad1624f04c5fbc16b9968"
NORMALISE_UP_TO = 64
"""Directions of at most this many coordinates are scaled to |v| = √d unless a law says not to."""
ORTHONORMAL_UP_TO: Final = 256
"""Largest space in which directions are made orthogonal."""
DIGITS: Final = 50
"""Decimal digits of the exact arithmetic in `orthonormal`."""
DEPENDENT: Final = decimal.Decimal("1e-40")
"""A row with a smaller share of its squared length left depends on the rows before it."""


@dataclass(frozen=True, slots=True)
class Law:
    """How a direction is drawn; E[v vᵀ] = I under every law, once the factor is applied.

    ``gaussian``: tabulated N(0, 1) in every coordinate; ``normalise`` scales |v| to √d.
    ``orthonormal``: the Gaussian directions of a step made orthogonal to each other, |v| = √d;
    after d of them a new frame begins (`orthonormal`).
    """

    kind: Literal["gaussian", "orthonormal"] = "gaussian"
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "orthonormal"):
            raise UsageError(f"law: {self.kind!r} is unknown; choose gaussian or orthonormal")

    @property
    def scaled(self) -> bool:
        """The factor brings |v| to √d."""
        return self.normalise or self.kind == "orthonormal"

    @classmethod
    def for_dim(cls, dim: int) -> Law:
        """The default law: Gaussian, normalised for small d.

        >>> Law.for_dim(8)
        Law(kind='gaussian', normalise=True)
        """
        return cls(normalise=dim <= NORMALISE_UP_TO)


@functools.cache
def table() -> NDArray[np.int16]:
    """The 65,536 quantiles at (i + ½) / 65536, rounded to the grid, mirrored about 0."""
    upper = ndtri((np.arange(32768, 65536) + 0.5) / 65536)
    half = np.rint(upper * PER_UNIT).astype(np.int16)
    values = np.concatenate([-half[::-1], half])
    digest = hashlib.sha256(values.astype("<i2").tobytes()).hexdigest()
    if digest != TABLE_SHA256:
        raise IntegrityError(
            f"direction table: SHA-256 is {digest}, expected {TABLE_SHA256}; "
            "this scipy computes other quantiles, so runs would not replay; install another scipy"
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


def orthonormal(drawn: NDArray[np.int16]) -> NDArray[np.int16]:
    """Rows (K, d), K ≤ d, made orthogonal one after the other, of length √d, in units of 1/256.

    Gram–Schmidt, then one rounding to the grid, halves to even. A row that depends on the rows
    before it is replaced by the first unit vector that does not. Rows are computed in double
    precision; where an error could change a rounding, they are computed with 50 digits instead.
    So the result is the same on every machine.

    >>> orthonormal(np.array([[3, 4], [5, 0]], dtype=np.int16)).tolist()
    [[217, 290], [290, -217]]
    """
    fast = _in_doubles(drawn)
    return _in_decimals(drawn) if fast is None else fast


def _in_doubles(drawn: NDArray[np.int16]) -> NDArray[np.int16] | None:
    """The rows of `orthonormal`; None where rounding errors could change one of its integers."""
    count, dim = drawn.shape
    rows = drawn.astype(np.float64)
    # The error of Gram–Schmidt grows with the ratio of these singular values (Björck 1967).
    spread = np.linalg.svd(rows, compute_uv=False)
    if not spread[-1] > 1e-6 * spread[0]:
        return None
    units = np.empty_like(rows)
    for k, row in enumerate(rows):
        left = row
        for _ in range(2):  # the second pass removes the rounding errors of the first
            left = left - (units[:k] * (units[:k] * left).sum(-1, keepdims=True)).sum(0)
        units[k] = left / math.sqrt(float((left * left).sum()))
    size = PER_UNIT * math.sqrt(dim)
    values = size * units
    error = size * 16 * count * math.sqrt(dim) * 2.0**-53 * spread[0] / spread[-1]
    if (np.abs(np.abs(values - np.floor(values)) - 0.5) <= error).any():
        return None
    return np.rint(values).astype(np.int16)


def _in_decimals(drawn: NDArray[np.int16]) -> NDArray[np.int16]:
    """The rows of `orthonormal` with `DIGITS` decimal digits."""
    dim = drawn.shape[1]
    units = np.eye(dim, dtype=np.int64)
    orthonormal: list[list[decimal.Decimal]] = []
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        for row in drawn.astype(np.int64):
            for given in (row, *units):
                whole = [decimal.Decimal(int(value)) for value in given]
                left = whole
                for before in orthonormal:
                    along = _dot(whole, before)
                    left = [x - along * y for x, y in zip(left, before, strict=True)]
                square = _dot(left, left)
                if square > DEPENDENT * max(_dot(whole, whole), decimal.Decimal(1)):
                    break
            length = square.sqrt()
            orthonormal.append([x / length for x in left])
        size = PER_UNIT * decimal.Decimal(dim).sqrt()
        even = decimal.ROUND_HALF_EVEN
        rounded = [[int((size * x).to_integral_value(even)) for x in row] for row in orthonormal]
    return np.array(rounded, dtype=np.int16)


def _dot(a: list[decimal.Decimal], b: list[decimal.Decimal]) -> decimal.Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), decimal.Decimal(0))


def gaussian_factor(sum_of_squares: int, dim: int) -> float:
    """√d / |v| from the exact integer sum of squares (units 1/65536); 1 for the zero direction."""
    if sum_of_squares == 0:
        return 1.0  # moves nothing; only likely in one dimension
    return math.sqrt(dim * PER_UNIT * PER_UNIT / sum_of_squares)
