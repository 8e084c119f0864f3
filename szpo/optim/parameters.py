"""The master coordinates θ: the one module that perturbs and updates them.

Everything is fp32 NumPy. A coefficient has 13 significant bits and a direction value 11, so their
product is exact in fp32 and θ + coef · v is rounded once, with or without fused multiply-add; that
of a guided direction is rounded twice, by two ufuncs.
No perturbation is undone by subtracting it: both sides of a step are made from the stored θ.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo import seeds
from szpo.errors import RunError, UsageError
from szpo.optim import guided_directions, sample_directions
from szpo.optim.guided_directions import Span
from szpo.optim.sample_directions import Law
from szpo.types import Floats, Grid, Layout, Shift, Theta, Update

SIGNIFICANT_BITS = 13
SMALLEST_COEF = 1e-30
"""Smaller coefficients become 0: their products would fall below fp32's normal range."""
FRAME_ROWS = 8
"""Number of directions of an orthonormal frame that are made at once."""
CACHED_UP_TO_DIM = 4096
"""Largest number of coordinates for which drawn directions are cached."""

NO_COORDINATES: Final[Layout] = (("none", (1,)),)
"""The layout of a run in which nothing moves: one coordinate that stays at 0."""


@dataclass(frozen=True, slots=True)
class Space:
    """The coordinates of a run and the law by which directions are drawn in them.

    For a subspace adapter the layout is (("z", (d,)),). A direction depends on the root seed, the
    step, k and the tensor's own name, never on the other tensors.
    """

    root_seed: int
    layout: Layout
    law: Law
    spans: tuple[Span, ...] = field(default=(), compare=False)
    """What guides directions, in order of the steps from which on (`guided_directions`)."""

    def __post_init__(self) -> None:
        seeds.derive(self.root_seed, "direction")  # says what is wrong with a bad seed
        check_layout(self.layout)
        largest = sample_directions.ORTHONORMAL_UP_TO
        if self.law.kind == "orthonormal" and (len(self.layout) != 1 or self.dim > largest):
            raise UsageError(
                f"law: orthonormal needs one tensor of at most {largest} coordinates; there are "
                f"{len(self.layout)} tensors of {self.dim} coordinates; choose gaussian"
            )

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return layout_dim(self.layout)


def check_layout(layout: Layout) -> None:
    """Raise UsageError unless names are distinct and every shape is positive."""
    names = [name for name, _ in layout]
    if not names:
        raise UsageError("layout: no trainable tensor; set adapter.layers or adapter.targets")
    if len(set(names)) != len(names):
        raise UsageError(f"layout: a tensor name occurs twice in {names}")
    for name, shape in layout:
        if any(size < 1 for size in shape):
            raise UsageError(f"layout: tensor {name} has the empty shape {shape}")


def layout_dim(layout: Layout) -> int:
    """The number of coordinates of a layout.

    >>> layout_dim((("a", (2, 3)), ("b", (4,))))
    10
    """
    return sum(math.prod(shape) for _, shape in layout)


def direction(
    space: Space, step: int, k: int, grid: Grid | None = None
) -> dict[str, NDArray[np.float32]]:
    """The direction's grid values (integer / 256, without factor), exact in fp32, per tensor.

    Of a guided direction, its values as they are.
    """
    unit = np.float32(1 / sample_directions.PER_UNIT)
    drawn = {
        name: values.astype(np.float32).reshape(shape) * unit
        for (name, shape), values in zip(
            space.layout, _integers(space, step, k, grid), strict=True
        )
    }
    span = guided_directions.in_force(space.spans, step)
    return drawn if span is None else span.guide(space.root_seed, step, k, drawn)


def direction_vector(space: Space, step: int, k: int, grid: Grid | None = None) -> Floats:
    """The values of `direction` as one float64 vector of d entries, in layout order."""
    values = direction(space, step, k, grid)
    return np.concatenate([values[name].ravel() for name, _ in space.layout]).astype(np.float64)


def factor(space: Space, step: int, k: int, grid: Grid | None = None) -> float:
    """The factor that turns grid values into the unit-variance direction: √d/|v| or 1."""
    if not space.law.scaled:
        return 1.0
    squares = sum(int((v.astype(np.int64) ** 2).sum()) for v in _integers(space, step, k, grid))
    return sample_directions.gaussian_factor(squares, space.dim)


def zeros(layout: Layout) -> dict[str, NDArray[np.float32]]:
    """θ = 0: the untouched policy."""
    check_layout(layout)
    return {name: np.zeros(shape, dtype=np.float32) for name, shape in layout}


def shift(space: Space, theta: Theta, to: Shift) -> dict[str, NDArray[np.float32]]:
    """θ + sign · radius · v(step, k) as new arrays; sign 0 is a copy of θ."""
    return _add(space, theta, to.step, to.k, to.sign * to.radius, "radius", to.grid)


def apply_update(space: Space, theta: Theta, update: Update) -> dict[str, NDArray[np.float32]]:
    """θ + coef · v(step, k), or θ + vector, as new arrays."""
    if (update.coef is None) == (update.vector is None):
        raise UsageError(f"update of step {update.step}: set exactly one of coef and vector")
    if update.coef is not None:
        return _add(space, theta, update.step, update.k, update.coef, "coefficient")
    check_theta(theta, space.layout)
    if len(space.layout) != 1:
        raise UsageError(f"update of step {update.step}: a vector needs a layout of one tensor")
    name, shape = space.layout[0]
    vector = np.asarray(update.vector, dtype=np.float64)
    if vector.shape != (space.dim,):
        raise UsageError(
            f"update of step {update.step}: vector of {vector.size} for {space.dim} coordinates"
        )
    result = {name: theta[name] + vector.astype(np.float32).reshape(shape)}
    _finite(result, update.step, "vector")
    return result


def between(start: Theta, end: Theta, share: float) -> dict[str, NDArray[np.float32]]:
    """The point at ``share`` of the way from ``start`` to ``end``.

    Shares 0 and 1 are exact, but for the sign of a zero.

    >>> between({"z": np.float32([1, 0])}, {"z": np.float32([3, 4])}, 0.25)["z"].tolist()
    [1.5, 1.0]
    """
    return {
        name: ((1.0 - share) * start[name].astype(np.float64) + share * value).astype(np.float32)
        for name, value in end.items()
    }


def materialise(
    start: Theta, basis: Mapping[str, NDArray[np.float32]], z: ArrayLike
) -> dict[str, NDArray[np.float32]]:
    """The adapter θ₀ + P z: fp32, elementwise, one column after the other.

    ``basis`` holds one array (*shape, d) per tensor of ``start``. This sum is the same on every
    machine; a matrix product would round differently.
    """
    small = np.asarray(z, dtype=np.float32)
    if set(start) != set(basis):
        raise UsageError("subspace: start and basis name different tensors")
    result = {}
    for name, values in start.items():
        columns = basis[name]
        if columns.dtype != np.float32 or columns.shape != (*values.shape, len(small)):
            raise UsageError(
                f"subspace: basis {name} is {columns.dtype} {columns.shape}, "
                f"expected float32 {(*values.shape, len(small))}"
            )
        total = values.astype(np.float32, copy=True)
        for j, weight in enumerate(small):
            total += columns[..., j] * weight  # two ufuncs, so never fused
        result[name] = total
    return result


def digest(theta: Theta, layout: Layout, basis_sha256: str | None = None) -> str:
    """SHA-256 (hex) of θ in canonical form: name, shape, '<f4' and bytes of each tensor.

    For a subspace, the digest of its basis follows the coordinates z.
    """
    check_theta(theta, layout)
    state = hashlib.sha256()
    for name, _ in layout:
        _feed(state, name, theta[name])
    if basis_sha256 is not None:
        state.update(basis_sha256.encode("ascii"))
    return state.hexdigest()


def layout_sha256(layout: Layout) -> str:
    """SHA-256 (hex) of the layout's canonical JSON."""
    listed = [[name, list(shape)] for name, shape in layout]
    return hashlib.sha256(_json(listed)).hexdigest()


def basis_sha256(basis: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 (hex) of named fp32 tensors, in the order of their names."""
    state = hashlib.sha256()
    for name in sorted(basis):
        _feed(state, name, basis[name])
    return state.hexdigest()


def round13(x: ArrayLike) -> Floats:
    """Round to 13 significant bits, halves to even; works elementwise.

    >>> round13(1.0001).item(), round13([0.1, 0.0]).tolist()
    (1.0, [0.100006103515625, 0.0])
    """
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    scale = 2.0**SIGNIFICANT_BITS
    return np.asarray(np.ldexp(np.rint(mantissa * scale), exponent - SIGNIFICANT_BITS))


def round_coef(coef: ArrayLike) -> Floats:
    """Round coefficients as they are recorded and applied: 13 significant bits, tiny ones to 0."""
    value = np.asarray(coef, dtype=np.float64)
    return round13(np.where(np.abs(value) < SMALLEST_COEF, 0.0, value))


def check_theta(theta: Theta, layout: Layout) -> None:
    """Raise UsageError unless θ has exactly the layout's names and shapes, in fp32."""
    if set(theta) != {name for name, _ in layout}:
        raise UsageError(f"weights: tensors {sorted(theta)} do not match the layout's names")
    for name, shape in layout:
        if theta[name].shape != shape or theta[name].dtype != np.float32:
            given = f"{theta[name].dtype} {theta[name].shape}"
            raise UsageError(f"weights: tensor {name} is {given}, expected float32 {shape}")


def _integers(
    space: Space, step: int, k: int, grid: Grid | None = None
) -> list[NDArray[np.int16]]:
    """The direction's flat integer values per tensor, in layout order."""
    if grid is not None:
        if len(grid) != space.dim or max(map(abs, grid)) >= 2**15:
            raise UsageError(f"step {step}: direction {k} is not {space.dim} integers of 16 bits")
        sizes = [math.prod(shape) for _, shape in space.layout]
        return np.split(np.array(grid, dtype=np.int16), np.cumsum(sizes)[:-1])
    if space.law.kind == "orthonormal":
        first = k - k % space.dim
        count = min(space.dim, FRAME_ROWS * ((k - first) // FRAME_ROWS + 1))
        return [_orthonormal(space, step, first, count)[k - first]]
    drawn = _draw if space.dim <= CACHED_UP_TO_DIM else _draw.__wrapped__
    return list(drawn(space, step, k))


@functools.lru_cache(maxsize=256)  # a step asks for the same one several times
def _draw(space: Space, step: int, k: int) -> tuple[NDArray[np.int16], ...]:
    drawn = tuple(
        sample_directions.gaussian(
            seeds.derive(space.root_seed, "direction", step=step, k=k, name=name),
            math.prod(shape),
        )
        for name, shape in space.layout
    )
    for values in drawn:
        values.setflags(write=False)
    return drawn


@functools.lru_cache(maxsize=512)
def _orthonormal(space: Space, step: int, first: int, count: int) -> NDArray[np.int16]:
    """The first ``count`` directions (count, d) of the frame that starts at direction ``first``.

    A direction depends only on those before it, so a longer frame begins with the same ones.
    """
    plain = replace(space, law=Law())
    drawn = [_integers(plain, step, first + k)[0] for k in range(count)]
    rows = sample_directions.orthonormal(np.stack(drawn))
    rows.setflags(write=False)
    return rows


def _add(
    space: Space,
    theta: Theta,
    step: int,
    k: int,
    coef: float,
    source: str,
    grid: Grid | None = None,
) -> dict[str, NDArray[np.float32]]:
    check_theta(theta, space.layout)
    if not math.isfinite(coef):
        raise RunError(f"step {step}: {source} of direction {k} is {coef}; nothing was applied")
    if float(round13(coef)) != coef:
        raise UsageError(
            f"step {step}: {source} {coef!r} has more than {SIGNIFICANT_BITS} significant bits; "
            "round it with parameters.round13"
        )
    if coef == 0:  # adding 0 would still turn a -0.0 into 0.0
        return {name: values.copy() for name, values in theta.items()}
    scale = np.float32(coef)
    moves = direction(space, step, k, grid)
    with np.errstate(over="ignore", invalid="ignore"):
        result = {name: theta[name] + scale * moves[name] for name, _ in space.layout}
    _finite(result, step, source)
    return result


def _finite(theta: Theta, step: int, source: str) -> None:
    for name, values in theta.items():
        if not np.isfinite(values).all():
            raise RunError(
                f"step {step}: the {source} would make tensor {name} non-finite; "
                "nothing was applied"
            )


def _feed(state: hashlib._Hash, name: str, values: NDArray[np.float32]) -> None:
    if values.dtype != np.float32:
        raise UsageError(f"digest: tensor {name} is {values.dtype}, expected float32")
    state.update(_json([name, list(values.shape), "<f4"]))
    state.update(np.ascontiguousarray(values).astype("<f4", copy=False).tobytes())


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")
