"""`szpo.Optimizer`: a vector tuned from comparisons of two points, by ask and tell.

It holds a state and calls the functions of `szpo.optim`, as runs and simulations do. They choose
the points to ask and compute how votes move the centre.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from szpo import __version__, named_parameters, seeds
from szpo.config.optimizer import KEYS, STEPS, make_settings, read_settings, record_settings
from szpo.config.section import suggest
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.files import replace_whole
from szpo.ledger.canonical import sha256
from szpo.named_parameters import APART, MOST, Parameter, is_number
from szpo.optim import optimizer, parameters
from szpo.optim.optimizer import has_two_points
from szpo.optim.settings import Settings
from szpo.types import Floats, Info, Query, Tally

Bounds: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | Floats | Mapping[str, Any]

FORMAT: Final = 6
"""Format of `Optimizer.to_dict`; it moves with what the settings hold."""
AT_ONCE: Final = 10_000
"""Most pairs that can await votes together."""
RULE: Final = "known"
"""Default rule: it needed fewest votes on six toy preferences (docs/tutorials/python.md)."""
OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "known": {"warmup": 0},
    "regression": {"kl_budget": "off", "centre_step": 0.3},
}
"""Default settings of each rule."""
FIXED: Final = (
    "K", "N", "M", "D", "layout", "root_seed", "scale", "start",
    "features", "asking_noise", "horizon", "narrows",
)  # fmt: skip
"""Settings that `ask`, `tell` and the vector determine."""
_ONE_AT_A_TIME: Final = threading.RLock()
"""One thread at a time asks, tells or saves; a global lock, so that optimizers can be copied."""
VectorVote: TypeAlias = Literal["a", "b", "tie"] | float | None
"""The better point; the share of votes for a, in [0, 1]; or None for no answer."""
WORDS: Final[Mapping[str, VectorVote]] = {"a": "a", "b": "b", "tie": "tie"}
HINT: Final = (
    'give "a", "b", "tie", True or False (a is better or not), a share of votes for a from 0 '
    "to 1, or None"
)


@dataclass(frozen=True, slots=True, eq=False)
class VectorSpace:
    """The map x = start + scale · z from the optimizer's coordinates z to a user's vector x."""

    start: Floats
    """(d,)."""
    scale: Floats
    """(d,), positive."""
    box: Floats | None = None
    """(d, 2): low and high bound of each coordinate; None without bounds."""
    parameters: tuple[Parameter, ...] = ()
    """Named parameters that the coordinates stand for, in order; empty without names."""

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return len(self.start)

    def to_vector(self, z: ArrayLike) -> Floats:
        """The user's vector (d,) of a point z (d,), inside the bounds.

        A coordinate outside its bounds is mirrored at them, so that x stays a continuous function
        of z, and an optimum on the edge is still an optimum in z.
        """
        x = self.start + self.scale * np.asarray(z, dtype=np.float64)
        if self.box is None:
            return np.asarray(x)
        low, high = self.box.T
        width = high - low
        turn = np.mod(x - low, 2 * width)
        inside: Floats = np.clip(low + np.minimum(turn, 2 * width - turn), low, high)
        return inside

    def to_point(self, z: ArrayLike) -> Any:
        """What the user gets of a point z (d,): a vector (d,), or the values of the parameters."""
        x = self.to_vector(z)
        return named_parameters.values(self.parameters, x) if self.parameters else x

    def coincide(self, one: ArrayLike, other: ArrayLike) -> bool:
        """Whether two points (d,) are mirrored to about the same place at the bounds."""
        seen = np.abs(self.to_vector(one) - self.to_vector(other))
        return bool((seen <= 0.01 * self.scale * np.abs(np.subtract(one, other))).all())

    def to_json(self) -> dict[str, Any]:
        """The space as plain JSON values; `from_json` makes an equal space from them."""
        bounds = None if self.box is None else self.box.tolist()
        space = {"start": self.start.tolist(), "scale": self.scale.tolist(), "bounds": bounds}
        named = [each.to_json() for each in self.parameters]
        return {**space, "parameters": named} if named else space

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The space of `to_json`."""
        space = make_space(None, saved["start"], saved["scale"], saved["bounds"])
        named = tuple(Parameter(*each) for each in saved.get("parameters", ()))
        return cls(space.start, space.scale, space.box, named)


def make_space(
    dim: int | None,
    start: ArrayLike | None,
    scale: ArrayLike | None,
    bounds: Bounds | None,
) -> VectorSpace:
    """The space of a vector, filled with defaults.

    The start is 0, or the middle of the bounds. The scale is 1, or a quarter of their width.

    Raises:
        UsageError: sizes differ or are unknown, a value is not finite, a scale is not positive,
            low is not below high, or the start is outside the bounds.

    >>> make_space(None, None, None, [(0, 8), (-1, 1)]).to_json()["start"]
    [4.0, 0.0]
    """
    if isinstance(bounds, Mapping):
        if dim is not None or scale is not None:
            raise UsageError("Optimizer: leave out dim and scale, which named bounds determine")
        named = named_parameters.read(bounds)
        begun = named_parameters.start(named, {} if start is None else start)
        plain = make_space(None, begun, None, [each.box for each in named])
        return VectorSpace(plain.start, plain.scale, plain.box, named)
    if dim is not None and ((whole := _whole(dim)) is None or whole < 1):
        raise UsageError(f"Optimizer: dim is {dim!r}; give a whole number from 1 up")
    first = None if start is None else _numbers("start", start)
    steps = None if scale is None else _numbers("scale", scale)
    box = None if bounds is None else _numbers("bounds", bounds)
    sizes = {
        "dim": None if dim is None else _whole(dim),
        "start": None if first is None else first.size,
        "scale": None if steps is None or steps.ndim == 0 else steps.size,
        "bounds": None if box is None or box.ndim == 1 else len(box),
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    if not given:
        each = "; these bounds hold for every one" if box is not None else ""
        raise UsageError(
            f"Optimizer: the number of coordinates is missing{each}; give dim=3, a start, or "
            "bounds=[(low, high), …] with a pair for each"
        )
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in given.items())
        raise UsageError(f"Optimizer: numbers of coordinates differ: {listed}")
    if not (count := next(iter(given.values()))):
        raise UsageError("Optimizer: start is empty; give at least one coordinate")
    if box is not None:
        if box.shape not in ((2,), (count, 2)):
            raise UsageError(
                f"Optimizer: bounds have shape {box.shape}; give (low, high) for every "
                f"coordinate, or {count} such pairs"
            )
        box = np.array(np.broadcast_to(box, (count, 2)))
        low, high = box.T
        if not (low < high).all():
            i = int(np.flatnonzero(low >= high)[0])
            raise UsageError(
                f"Optimizer: bounds of coordinate {i} are {low[i]:g} to {high[i]:g}; "
                "low must be below high"
            )
    return _fill(count, first, steps, box)


def _fill(
    count: int, first: Floats | None, steps: Floats | None, box: Floats | None
) -> VectorSpace:
    if first is None:
        first = np.zeros(count) if box is None else box.mean(1)
    if first.shape != (count,):
        raise UsageError(f"Optimizer: start has shape {first.shape}; give {count} numbers")
    if box is not None and not ((first >= box[:, 0]) & (first <= box[:, 1])).all():
        i = int(np.flatnonzero((first < box[:, 0]) | (first > box[:, 1]))[0])
        raise UsageError(
            f"Optimizer: start of coordinate {i} is {first[i]:g}, outside its bounds "
            f"{box[i, 0]:g} to {box[i, 1]:g}"
        )
    if steps is None:
        steps = np.ones(1) if box is None else (box[:, 1] - box[:, 0]) / 4
    if steps.ndim > 1 or not (steps > 0).all():
        raise UsageError("Optimizer: scale must be a positive number, or one per coordinate")
    wide = np.array(np.broadcast_to(steps, (count,)), dtype=np.float64)
    if (near := np.flatnonzero(wide < APART * np.spacing(np.abs(first)))).size:
        i = int(near[0])
        raise UsageError(
            f"Optimizer: points {wide[i]:g} from {first[i]:g} (coordinate {i}) differ by rounding "
            "alone; shift the vector towards 0, or give a larger scale"
        )
    return VectorSpace(first, wide, box)


def _whole(given: Any) -> int | None:
    """A whole number of Python or NumPy as int; None for anything else."""
    return None if isinstance(given, bool) or not hasattr(given, "__index__") else index(given)


def _numbers(name: str, given: Any) -> Floats:
    try:
        point = np.array(given, dtype=np.float64)
    except OverflowError:
        point = np.array(np.inf)
    except (TypeError, ValueError):
        raise UsageError(f"Optimizer: {name} {given!r} is not made of numbers") from None
    if not (np.abs(point) <= MOST).all():  # also refuses nan
        raise UsageError(f"Optimizer: {name} {given!r:.60} is not finite, or beyond {MOST:g}")
    return point


class Pair(NamedTuple):
    """Two points to compare, each (d,) or a dictionary of named values; the handle of `tell`."""

    a: Any
    b: Any


class Told(NamedTuple):
    """A pair with its vote and weight, and the best point after the votes of its step."""

    a: Any
    b: Any
    vote: VectorVote
    weight: float
    best: Any


class Optimizer:
    """Finds the vector that votes prefer: `ask` gives two points, `tell` takes which is better.

    Pairs lie on both sides of a centre, along random directions; a vote moves the centre towards
    the side that won (zeroth-order optimisation, two-point estimate). All randomness comes from
    ``seed``: the same seed and votes give bit-identical results. Threads may share an optimizer:
    if two tell the same pair, the second is refused.

    Args:
        dim: number of coordinates d; not needed if ``start`` or ``bounds`` give it.
        start: first centre (d,); by default 0, or the middle of the bounds.
        scale: typical distance of a shown point from the centre in a coordinate, one number or
            (d,); by default 1, or a quarter of the bounds' width. Choose it as large as your
            uncertainty about the start.
        bounds: (low, high) for every coordinate, or (d, 2); points are mirrored at them. Or named
            numbers, {"rate": (1e-5, 0.1, "log"), "width": (0, 8)}; then points are dictionaries of
            them, and ``start`` may name some of their values.
        seed: 0 to 2⁶³ − 1.
        options: ``rule`` and further settings of `szpo.config.optimizer`, such as ``link``
            or ``kl_step``.

    Raises:
        UsageError: a value is out of range, or values do not fit each other.

    >>> opt = Optimizer(dim=2, seed=1)
    >>> for _ in range(60):
    ...     a, b = opt.ask()
    ...     opt.tell("a" if abs(a - [1, -2]).sum() < abs(b - [1, -2]).sum() else "b")
    >>> bool(abs(opt.best - [1, -2]).max() < 0.5)
    True
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        start: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        bounds: Bounds | None = None,
        seed: int = 0,
        **options: Any,
    ):
        space = make_space(dim, start, scale, bounds)
        self._begin(space, choose_settings(seed, space.dim, options, bounds is not None))

    def _begin(self, space: VectorSpace, settings: Settings) -> None:
        self._space = space
        self._first = settings
        self._state = optimizer.init(settings)
        self._centre = parameters.zeros(settings.layout)
        self._recommended = parameters.zeros(settings.layout)
        self._past: list[Sequence[CastVote]] = []
        self._pending: tuple[Pair, ...] = ()
        self._flipped: tuple[bool, ...] = ()
        self._query: Query | None = None
        self._told: dict[int, CastVote] = {}
        self._single = True
        self._info: Info | None = None

    # ---- ask and tell ----

    @overload
    def ask(self) -> Pair: ...
    @overload
    def ask(self, n: int) -> list[Pair]: ...

    def ask(self, n: int | None = None) -> Pair | list[Pair]:
        """One pair of points to compare, or a list of ``n`` pairs to compare at once.

        Until they are answered by `tell`, the same pairs are returned. For each pair it is drawn
        which side of the centre is shown as a.

        Raises:
            UsageError: ``n`` is out of range, or a different number of pairs awaits votes.
        """
        count = 1 if n is None else _whole(n)
        if count is None or not 1 <= count <= AT_ONCE:
            raise UsageError(f"ask: n is {n!r}; give a whole number of pairs, 1 to {AT_ONCE:,}")
        with _ONE_AT_A_TIME:
            if not self._pending:
                self._ask(count, single=n is None)
            pairs, single = self._pending, self._single
        if len(pairs) != count or single != (n is None):
            waiting = "one pair awaits" if single else f"{len(pairs)} pairs await"
            raise UsageError(f"ask: {waiting} votes; give them with tell() first")
        return pairs[0] if n is None else list(pairs)

    def tell(
        self,
        vote: VectorVote | Sequence[VectorVote],
        *,
        weight: float | Sequence[float] = 1.0,
        pair: Pair | None = None,
    ) -> None:
        """Take the vote on the pair of `ask`, or one vote for each pair of ``ask(n)``, in order.

        With ``pair`` it is the vote on that pair of ``ask(n)``, in any order and from any thread.
        The last vote moves the centre; the result does not depend on the order.

        Args:
            vote: "a" or True, "b" or False, "tie", the share of votes for a (0 to 1), or None (no
                answer).
            weight: how many votes it counts as, 0 or more; one number, or one for each pair. More
                equal votes mean a larger difference: under `known` a vote for a moves twice as far
                with weight 4 as with weight 1 (ln 9 to ln 3), a share of .75 moves 1.7 times as
                far; under `sign` weight changes nothing.
            pair: one of `waiting`.

        Raises:
            UsageError: no pair was asked, the number of votes is wrong, a vote is unknown, or the
                pair awaits no vote; then all pairs still await their votes.
        """
        with _ONE_AT_A_TIME:
            if not self._pending:
                raise UsageError("tell: no pair awaits a vote; call ask() first")
            if pair is None:
                if self._told:
                    raise UsageError(
                        f"tell: {len(self._told)} of {len(self._pending)} pairs have their vote; "
                        "tell the others one by one, with pair=..."
                    )
                self._take(check_votes(vote, weight, len(self._pending), self._single))
                return
            place = self._find(pair)
            told = {**self._told, place: check_votes(vote, weight, 1, single=True)[0]}
            if len(told) == len(self._pending):
                self._take([told[i] for i in range(len(told))])
            else:
                self._told = told

    def run(self, better: Callable[[Any, Any], VectorVote], pairs: int, *, tries: int = 3) -> Any:
        """Ask ``better(a, b)`` about so many pairs, and return the best point.

        What it returns is told. If that is no vote, such as a typo at ``input``, the pair is asked
        again; after so many ``tries`` the error is raised.
        """
        for _ in range(pairs):
            pair = self.ask()
            for left in reversed(range(tries)):
                try:
                    self.tell(better(*pair))
                    break
                except UsageError as error:
                    if not left:
                        raise
                    print(error)
        return self.best

    def _find(self, pair: Pair) -> int:
        open_ = [i for i in range(len(self._pending)) if i not in self._told]
        for i in sorted(open_, key=lambda i: self._pending[i] is not pair):
            if isinstance(pair, tuple) and all(map(np.array_equal, pair, self._pending[i])):
                return i
        raise UsageError("tell: this pair awaits no vote: it has one, or was not asked here")

    def _take(self, cast: Sequence[CastVote]) -> None:
        assert self._query is not None  # pairs were asked
        counts = _tally(cast, self._flipped)
        state, updates, info = optimizer.tell(self._state, self._query, counts)
        settings, two = state.settings, has_two_points(state.settings.section.rule)
        centre, recommended = self._centre, self._recommended
        for update in optimizer.added_updates(settings, updates):
            recommended = parameters.apply_update(settings.space, recommended, update)
        for update in optimizer.added_updates(settings, updates, "centre") if two else ():
            centre = parameters.apply_update(settings.space, centre, update)
        self._state, self._info = state, info
        self._centre, self._recommended = centre if two else recommended, recommended
        self._past.append(cast)
        self._pending, self._told = (), {}

    def _take_again(self, past: Sequence[tuple[CastVote, ...]]) -> None:
        for cast in past:
            self._begin_step(len(cast))
            self._take(cast)

    def _ask(self, count: int, *, single: bool) -> None:
        query = self._begin_step(count)
        pairs = []
        for shifts, turned in zip(query.shifts, self._flipped, strict=True):
            sides = [
                parameters.shift(self._state.settings.space, self._centre, each)["z"]
                for each in shifts
            ]
            if self._space.coincide(*sides):  # centre at an edge: the same as from either side
                sides[1] = self._centre["z"]
            plus, minus = map(self._space.to_point, sides)
            pairs.append(Pair(minus, plus) if turned else Pair(plus, minus))
        self._pending, self._single = tuple(pairs), single

    def _begin_step(self, count: int) -> Query:
        self._state = optimizer.with_directions(self._state, count)
        self._query = query = optimizer.ask(self._state)
        self._flipped = self._sides(query.step, count)
        return query

    def _sides(self, step: int, count: int) -> tuple[bool, ...]:
        """Whether plus is shown as b, for each pair of a step."""
        seed = self._first.root_seed
        keys = [seeds.derive(seed, "vector side", step=step, k=k) for k in range(count)]
        return tuple(seeds.integer(key, 0, 2) == 1 for key in keys)

    # ---- where it stands ----

    @property
    def waiting(self) -> tuple[Pair, ...]:
        """The pairs of `ask` that have no vote yet."""
        with _ONE_AT_A_TIME:
            return tuple(p for i, p in enumerate(self._pending) if i not in self._told)

    @property
    def best(self) -> Any:
        """The point that the votes so far recommend; the start before any vote.

        A rule with two points gives a warning: its recommended point may move without end.
        """
        if has_two_points(rule := self._first.section.rule):
            warnings.warn(
                f'rule {rule} is for "more of this": it goes on past an optimum; '
                f"for a point to be found take rule={RULE!r}",
                stacklevel=2,
            )
        return self._space.to_point(self._recommended["z"])

    @property
    def history(self) -> list[Told]:
        """Every pair that has its vote, in order, with the point that was best after its step.

        It is worked out anew from seed and votes.
        """
        with _ONE_AT_A_TIME:
            past, copy = list(self._past), type(self).__new__(type(self))
        copy._begin(self._space, self._first)
        told: list[Told] = []
        for cast in past:
            copy._ask(len(cast), single=False)
            pairs = copy._pending
            copy._take(cast)
            best = copy._space.to_point(copy._recommended["z"])
            told += [Told(*pair, *each, best) for pair, each in zip(pairs, cast, strict=True)]
        return told

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return self._space.dim

    @property
    def steps(self) -> int:
        """Number of steps that have their votes."""
        return self._state.step

    @property
    def votes(self) -> float:
        """Counted votes, by weight."""
        return self._state.votes

    @property
    def info(self) -> Info | None:
        """The figures of the last `tell`; None before the first."""
        return self._info

    def digest(self) -> str:
        """SHA-256 (hex) of the recommended point in the optimizer's own coordinates."""
        return parameters.digest(self._recommended, self._first.layout)

    def __repr__(self) -> str:
        """The optimizer's size, rule and progress in one line."""
        return (
            f"<szpo.Optimizer: {self.dim} coordinates, rule {self._first.section.rule}, "
            f"{self.votes:g} votes>"
        )

    # ---- saved and loaded ----

    def to_dict(self) -> dict[str, Any]:
        """The state as plain JSON values: the settings and every vote; `from_dict` reads it."""
        with _ONE_AT_A_TIME:
            waiting = len(self._pending)
            return {
                "format": FORMAT,
                "szpo": __version__,
                "space": self._space.to_json(),
                "seed": self._first.root_seed,
                "settings": record_settings(self._first),
                "votes": [[list(each) for each in step] for step in self._past],
                "waiting": [waiting, self._single] if waiting else None,
                "told": [[i, *each] for i, each in self._told.items()],
                "digest": self._saved_digest(),
            }

    def _saved_digest(self) -> str:
        space = json.dumps(self._space.to_json(), sort_keys=True)
        return sha256(f"{space} {self.digest()}")

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """An optimizer with the saved settings, after replaying the saved votes.

        Raises:
            UsageError: ``saved`` does not come from `to_dict`.
            IntegrityError: the votes lead to a different point than the saved one.
        """
        try:
            if (form := saved["format"]) != FORMAT:
                raise UsageError(
                    f"Optimizer: this szpo reads format {FORMAT}, the saved state is of format "
                    f"{form}; take the szpo that saved it"
                )
            optimizer = cls.__new__(cls)
            space = VectorSpace.from_json(saved["space"])
            layout = (("z", (space.dim,)),)
            optimizer._begin(space, read_settings(saved["settings"], saved["seed"], layout))
            optimizer._take_again(
                [tuple(itertools.starmap(_check, step)) for step in saved["votes"]]
            )
            if saved["waiting"] is not None:
                count, single = saved["waiting"]
                _ = optimizer.ask() if single else optimizer.ask(count)
            for i, vote, weight in saved["told"]:
                optimizer.tell(vote, weight=weight, pair=optimizer._pending[i])
            wanted = saved["digest"]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"Optimizer: not a saved state ({error!r})") from None
        if optimizer._saved_digest() != wanted:
            raise IntegrityError(
                "Optimizer: the saved votes lead to another point than was saved; the state was "
                "changed, or this machine rounds differently"
            )
        return optimizer

    def save(self, path: str | Path) -> None:
        """Write the state to a JSON file atomically; an existing file is replaced.

        Raises:
            StorageError: the file cannot be written.
        """
        text = json.dumps(self.to_dict())
        try:
            with replace_whole(Path(path)) as draft:
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the optimizer that `save` wrote, with a bit-identical state.

        Raises:
            StorageError: the file is missing or cannot be read.
            UsageError: it holds no saved state.
            IntegrityError: its votes lead to a different point than the saved one.
        """
        try:
            if not Path(path).is_file():
                raise FileNotFoundError(errno.ENOENT, "no such file")
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is no saved Optimizer ({error})") from None
        if not isinstance(saved, dict):
            raise UsageError(f"{path} is no saved Optimizer (a list or a single value)")
        try:
            return cls.from_dict(saved)
        except (UsageError, IntegrityError) as error:
            raise type(error)(f"{path}: {error}") from None


def choose_settings(
    seed: int, dim: int, options: Mapping[str, Any], bounded: bool = False
) -> Settings:
    """The settings of an optimizer of ``dim`` coordinates: one pair a step, μ = 1.

    With μ = 1 a shown point is about one unit from the centre in each coordinate. With bounds μ
    shrinks: near a bound, mirrored pairs favour the wrong side until μ is small.

    Raises:
        UsageError: an option is unknown, out of range, or cannot be set by the caller.
    """
    given, root = dict(options), _whole(seed)
    if root is None:
        raise UsageError(f"Optimizer: seed {seed!r} is no whole number")
    for name in FIXED:
        if name in given:
            raise UsageError(
                f"Optimizer: {name} is not an option; help(szpo.Optimizer) names them"
            )
    known = sorted({"rule", *KEYS, *STEPS}.difference(FIXED))
    for name in given:
        if name not in known:
            hint = suggest(name, known) or f"; there are {', '.join(known)}"
            raise UsageError(f'Optimizer: unknown option "{name}"{hint}')
    if given.get("weighting", "equal") != "equal":
        raise UsageError(
            "Optimizer: weighting learns from who voted how, which tell does not know; weigh "
            "votes yourself with tell(vote, weight=...)"
        )
    rule = RULE if given.get("rule") == "auto" else given.get("rule", RULE)
    given.pop("rule", None)
    steps = {} if has_two_points(rule) else _shrinking(dim)
    if bounded and steps:
        steps["narrows"] = True
    chosen = {"mu": 1.0, **steps, **OWN.get(rule, {}), **given}
    if "centre_step" in given and not has_two_points(rule):
        raise UsageError(f"Optimizer: centre_step plays no part in the rule {rule}; leave it out")
    try:
        layout = (("z", (dim,)),)
        return make_settings(root, layout, rule=rule, K=1, N=1, M=1, D=1, **chosen)
    except UsageError as error:
        raise UsageError(f"Optimizer: {error}") from None


def _shrinking(dim: int) -> dict[str, Any]:
    """Settings for steps that begin at about the scale and shrink with the votes per coordinate.

    Steps that shrink with the root of the votes circle the optimum: after 20 votes a coordinate
    they end twice as far off, also with a fifth of wrong votes (tests/library/test_vector.py).
    """
    return {"kl_step": 0.94 / math.sqrt(dim), "horizon": 2.0 * dim}


# ---- votes ----


class CastVote(NamedTuple):
    """A checked vote with its weight."""

    vote: VectorVote
    weight: float

    @property
    def counts(self) -> tuple[float, float, float]:
        """Weighted votes for a, votes for b, and ties."""
        w = self.weight
        if self.vote is None:
            return 0.0, 0.0, 0.0
        if isinstance(self.vote, str):
            return {"a": (w, 0.0, 0.0), "b": (0.0, w, 0.0), "tie": (0.0, 0.0, w)}[self.vote]
        return w * self.vote, w * (1.0 - self.vote), 0.0


def check_votes(votes: Any, weight: Any, pairs: int, single: bool) -> tuple[CastVote, ...]:
    """Check the votes of a call of ``tell`` on this number of pairs.

    Raises:
        UsageError: the number of votes or weights differs from that of the pairs, or a vote or
            weight is invalid.
    """
    votes, weight = (
        each.tolist() if hasattr(each, "tolist") else each for each in (votes, weight)
    )
    listed = isinstance(votes, Sequence) and not isinstance(votes, str)
    given = list(votes) if listed else [votes]
    if listed and single:
        raise UsageError(f"tell: ask() gave one pair; {HINT}, not a list")
    if not listed and not single:
        raise UsageError(f"tell: ask({pairs}) gave a list of pairs; give a list of {pairs} votes")
    if len(given) != pairs:
        raise UsageError(f"tell: {len(given)} votes for {pairs} pairs; None stands for no answer")
    each = isinstance(weight, Sequence) and not isinstance(weight, str)
    weights = list(weight) if each else [weight] * pairs
    if len(weights) != pairs:
        raise UsageError(f"tell: {len(weights)} weights for {pairs} pairs; give one for each")
    return tuple(_check(vote, w) for vote, w in zip(given, weights, strict=True))


def _tally(cast: Sequence[CastVote], flipped: Sequence[bool]) -> Tally:
    """The tally (K, 1) of one vote for each of K directions; ``flipped``: plus was shown as b."""
    plus, minus, tie = np.array(_count(cast, flipped)).T[..., None]
    weighted = any(each.weight != 1 for each in cast)
    answers = np.array([[float(each.vote is not None)] for each in cast])
    side = np.array([[-1.0 if turned else 1.0] for turned in flipped])
    identical = np.zeros(plus.shape, np.bool_)
    return Tally(plus, minus, tie, identical, cast=answers if weighted else None, side=side)


def _count(cast: Sequence[CastVote], flipped: Sequence[bool]) -> list[tuple[float, float, float]]:
    """For each direction the votes for plus, for minus, and ties."""
    rows = zip((each.counts for each in cast), flipped, strict=True)
    return [(b, a, tie) if turned else (a, b, tie) for (a, b, tie), turned in rows]


def _check(vote: Any, weight: Any) -> CastVote:
    if not is_number(weight):
        raise UsageError(f"tell: the weight {weight!r} is no number")
    if not 0 <= weight <= MOST:  # also refuses nan
        raise UsageError(f"tell: the weight is {weight!s:.20}; it must be 0 or more, to {MOST:g}")
    if vote is None:
        return CastVote(None, float(weight))
    if isinstance(vote, str) and (word := vote.strip().lower()) in WORDS:
        return CastVote(WORDS[word], float(weight))
    if isinstance(vote, (bool, np.bool_)):
        return CastVote("a" if vote else "b", float(weight))
    if not is_number(vote):
        raise UsageError(f"tell: the vote {vote!r} is unknown; {HINT}")
    if not 0 <= vote <= 1:  # also refuses nan
        raise UsageError(f"tell: the vote is {vote}; a share of votes for a is from 0 to 1")
    return CastVote(float(vote), float(weight))
