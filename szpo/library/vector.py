"""`szpo.Optimizer`: a vector tuned from comparisons of two points, by ask and tell.

It holds the state that the command line and the worlds pass to the same functions of `szpo.optim`:
what is asked, what the votes do and how the point moves is computed there.
"""

from __future__ import annotations

import errno
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from szpo import __version__, seeds
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.files import replace_whole
from szpo.ledger.canonical import sha256
from szpo.library.vector_space import Bounds, VectorSpace, make_space
from szpo.library.vector_votes import CastVote, VectorVote, check_votes, tally
from szpo.optim import optimizer, parameters
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.optim.rules.registry import has_two_points
from szpo.optim.settings import Settings, SettingsError
from szpo.types import Floats, Info, Query

FORMAT: Final = 3
"""Of what `Optimizer.to_dict` gives; 1 left the space out of its digest, 2 had no votes held."""
AT_ONCE: Final = 10_000
"""Most pairs that await votes together."""
RULE: Final = "known"
"""Of the rules, the one that needed fewest votes on six toy preferences (docs/library.md)."""
OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "known": {"kl_step": 0.06, "alpha_decay": 0.5, "decay_horizon": 30.0, "warmup": 0},
    "sign": {"kl_step": 0.06, "alpha_decay": 0.5, "decay_horizon": 30.0},
    "regression": {"kl_budget": None, "centre_step": 0.3},
}  # fmt: skip
"""Settings by rule. Steps shrink with the square root of their number (Robbins & Monro 1951)."""
FIXED: Final = ("K", "N", "M", "D", "layout", "root_seed", "scale", "start")
"""Settings that ask, tell and the vector itself decide."""
_ONE_AT_A_TIME: Final = threading.RLock()
"""Pairs are asked, told and saved by one thread at a time. Of the module: copies carry no lock."""


class Pair(NamedTuple):
    """Two points to compare, each (d,) in the caller's coordinates; also the handle of `tell`."""

    a: Floats
    b: Floats


class Optimizer:
    """Finds the vector that votes prefer: `ask` gives two points, `tell` takes which is better.

    Pairs stand on both sides of a centre, along random directions; a vote moves the centre towards
    the side that won (zeroth-order optimisation, two-point estimate). Everything random follows
    from ``seed``: the same seed and the same votes give the same bits. Threads may share one: of
    two that tell the same pair the second is refused.

    Args:
        dim: number of coordinates d; may be left out where ``start`` or ``bounds`` say it.
        start: first centre (d,); by default 0, or the middle of the bounds.
        scale: how far a shown point stands from the centre in a coordinate, one number or (d,);
            by default 1, or a quarter of the bounds' width. Choose it as large as the doubt
            about the start.
        bounds: (low, high) for every coordinate, or (d, 2); points are mirrored at them.
        seed: 0 to 2⁶³ − 1.
        options: ``rule`` and further settings of `szpo.optim.Settings`, such as ``ties``,
            ``link`` or ``kl_step``.

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
        self._begin(space, make_settings(seed, space.dim, options))

    def _begin(self, space: VectorSpace, settings: Settings) -> None:
        self._space = space
        self._first = settings
        self._state = optimizer.init(settings)
        self._centre = parameters.zeros(settings.layout)
        self._recommended = parameters.zeros(settings.layout)
        self._past: list[list[list[Any]]] = []
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

        Until they are answered by `tell`, the same pairs are returned. Which side of the centre
        is shown as a is drawn for each pair.

        Raises:
            UsageError: ``n`` is no number from 1 up, or another number of pairs awaits votes.
        """
        count = 1 if n is None else n
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= AT_ONCE:
            raise UsageError(f"ask: n is {n!r}; give a whole number of pairs, 1 to {AT_ONCE:,}")
        with _ONE_AT_A_TIME:
            if not self._pending:
                self._ask(count, single=n is None)
            pairs, single = self._pending, self._single
        if len(pairs) != count or single != (n is None):
            waiting = "one pair awaits" if single else f"{len(pairs)} pairs await"
            raise UsageError(f"ask: {waiting} votes; tell them first")
        return pairs[0] if n is None else list(pairs)

    def tell(
        self,
        vote: VectorVote | Sequence[VectorVote],
        *,
        weight: float | Sequence[float] = 1.0,
        pair: Pair | None = None,
    ) -> None:
        """Take the vote on the pair of `ask`, or one vote for each pair of ``ask(n)``, in order.

        With ``pair`` it is the vote on that pair of ``ask(n)``: in any order, from any thread. The
        last one moves the centre, to the same bits whatever the order.

        Args:
            vote: "a", "b", "tie", the share of votes for a (0 to 1), or None (no answer).
            weight: how many votes it counts as, 0 or more; one number, or one for each pair.
            pair: one of `waiting`.

        Raises:
            UsageError: nothing was asked, the number of votes is wrong, a vote is unknown, or the
                pair awaits none; the pairs still await their votes.
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

    def _find(self, pair: Pair) -> int:
        for i, each in enumerate(self._pending):
            if i not in self._told and all(map(np.array_equal, pair, each)):
                return i
        raise UsageError("tell: this pair awaits no vote: it has one, or was not asked here")

    def _take(self, cast: Sequence[CastVote]) -> None:
        assert self._query is not None  # pairs were asked
        counts = tally(cast, self._flipped)
        state, updates, info = optimizer.tell(self._state, self._query, counts)
        settings = state.settings
        centre, recommended = self._centre, self._recommended
        for update in optimizer.added_updates(settings, updates, "centre"):
            centre = parameters.apply_update(settings.space, centre, update)
        for update in optimizer.added_updates(settings, updates):
            recommended = parameters.apply_update(settings.space, recommended, update)
        self._state, self._info = state, info
        self._centre, self._recommended = centre, recommended
        self._past.append([[each.vote, each.weight] for each in cast])
        self._pending, self._told = (), {}

    def _ask(self, count: int, *, single: bool) -> None:
        self._state = optimizer.with_directions(self._state, count)
        query, space = optimizer.ask(self._state), self._state.settings.space
        pairs, flipped = [], []
        for k, shifts in enumerate(query.shifts):
            plus, minus = (
                self._space.to_vector(parameters.shift(space, self._centre, each)["z"])
                for each in shifts
            )
            key = seeds.derive(space.root_seed, "vector side", step=query.step, k=k)
            turned = seeds.integer(key, 0, 2) == 1
            pairs.append(Pair(minus, plus) if turned else Pair(plus, minus))
            flipped.append(turned)
        self._pending, self._flipped, self._single = tuple(pairs), tuple(flipped), single
        self._query = query

    # ---- where it stands ----

    @property
    def waiting(self) -> tuple[Pair, ...]:
        """The pairs of `ask` that have no vote yet."""
        with _ONE_AT_A_TIME:
            return tuple(p for i, p in enumerate(self._pending) if i not in self._told)

    @property
    def best(self) -> Floats:
        """The point (d,) that the votes so far recommend; the start before any vote.

        Rules that recommend another point than they ask at warn: their way may have no end.
        """
        if has_two_points(self._first.rule):
            warnings.warn(
                f'rule {self._first.rule} is for "more of this": it goes on past an optimum; '
                f"for a point to be found take rule={RULE!r}",
                stacklevel=2,
            )
        return self._space.to_vector(self._recommended["z"])

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return self._space.dim

    @property
    def steps(self) -> int:
        """How often votes were taken."""
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
        """Its size, rule and progress in a line."""
        return (
            f"<szpo.Optimizer: {self.dim} coordinates, rule {self._first.rule}, "
            f"{self.votes:g} votes>"
        )

    # ---- saved and loaded ----

    def to_dict(self) -> dict[str, Any]:
        """The state as plain JSON values: the settings, and every vote; `from_dict` reads it."""
        with _ONE_AT_A_TIME:
            waiting = len(self._pending)
            return {
                "format": FORMAT,
                "szpo": __version__,
                "space": self._space.to_json(),
                "settings": settings_to_json(self._first),
                "votes": [[list(each) for each in step] for step in self._past],
                "waiting": [waiting, self._single] if waiting else None,
                "told": [[i, each.vote, each.weight] for i, each in self._told.items()],
                "digest": self._saved_digest(),
            }

    def _saved_digest(self, form: int = FORMAT) -> str:
        space = json.dumps(self._space.to_json(), sort_keys=True)
        return self.digest() if form == 1 else sha256(f"{space} {self.digest()}")

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """An optimizer with the saved settings, to which the saved votes are reported again.

        Raises:
            UsageError: this is nothing that `to_dict` gave.
            IntegrityError: the votes lead to another point than the saved one.
        """
        try:
            form = saved["format"]
            if form not in (1, 2, FORMAT):
                raise UsageError(f"Optimizer: format {form} is unknown; it is {FORMAT}")
            space = saved["space"]
            own = make_space(None, space["start"], space["scale"], space["bounds"])
            found = cls.__new__(cls)
            found._begin(own, settings_from_json(saved["settings"]))
            for step in saved["votes"]:
                found._ask(len(step), single=False)
                votes, weights = zip(*step, strict=True)
                found.tell(votes, weight=weights)
            if saved["waiting"] is not None:
                count, single = saved["waiting"]
                _ = found.ask() if single else found.ask(count)
            for i, vote, weight in saved.get("told", ()):
                found.tell(vote, weight=weight, pair=found._pending[i])
            wanted = saved["digest"]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"Optimizer: not a saved state ({error!r})") from None
        if found._saved_digest(form) != wanted:
            raise IntegrityError(
                "Optimizer: the saved votes lead to another point than was saved; the state was "
                "changed, or this machine rounds differently"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write the state to a JSON file, whole or not at all; one of that name is replaced.

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
        """The optimizer of a file that `save` wrote, at the same bits.

        Raises:
            StorageError: the file is missing or cannot be read.
            UsageError: it holds no saved state.
            IntegrityError: its votes lead to another point than the saved one.
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
        return cls.from_dict(saved)


def make_settings(seed: int, dim: int, options: Mapping[str, Any]) -> Settings:
    """The settings of an optimizer of ``dim`` coordinates: one pair a step, μ = 1.

    With μ = 1 a shown point stands about one unit from the centre in each coordinate.

    Raises:
        UsageError: an option is unknown, out of range, or not the caller's to choose.
    """
    given = dict(options)
    for name in FIXED:
        if name in given:
            raise UsageError(f"Optimizer: {name} is no option; see szpo.Optimizer for what is")
    if given.get("weighting", "equal") != "equal":
        raise UsageError(
            "Optimizer: weighting learns from who voted how, which tell does not know; weigh "
            "votes yourself with tell(vote, weight=...)"
        )
    rule = given.pop("rule", RULE)
    chosen = {"mu": 1.0, **OWN.get(rule, {}), **given}
    try:
        return defaults(seed, (("z", (dim,)),), rule=rule, K=1, N=1, M=1, D=1, **chosen)
    except SettingsError as error:
        raise UsageError(f"Optimizer: {error.rename({})}") from None
