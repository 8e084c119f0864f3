"""`szpo.Optimizer`: a vector tuned from comparisons of two points, by ask and tell.

It holds the state that the command line and the worlds pass to the same functions of `szpo.optim`:
what is asked, what the votes do and how the point moves is computed there.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, overload

from numpy.typing import ArrayLike

from szpo import __version__, seeds
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.files import replace_whole
from szpo.ledger.canonical import sha256
from szpo.library import vector_defaults
from szpo.library.vector_space import Bounds, VectorSpace, make_space
from szpo.library.vector_votes import VectorVote, check_votes, tally
from szpo.optim import optimizer, parameters
from szpo.optim.checked_settings import settings_from_json, settings_to_json
from szpo.optim.settings import Settings
from szpo.types import Floats, Info

FORMAT: Final = 2
"""Of what `Optimizer.to_dict` gives; in format 1 the digest left out the space."""
AT_ONCE: Final = 10_000
"""Most pairs that await votes together."""
_ONE_AT_A_TIME: Final = threading.RLock()
"""Pairs are asked, told and saved by one thread at a time. Of the module: copies carry no lock."""


class Pair(NamedTuple):
    """Two points to compare, each (d,) in the caller's coordinates."""

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
        self._begin(space, vector_defaults.make_settings(seed, space.dim, options))

    def _begin(self, space: VectorSpace, settings: Settings) -> None:
        self._space = space
        self._first = settings
        self._state = optimizer.init(settings)
        self._centre = parameters.zeros(settings.layout)
        self._recommended = parameters.zeros(settings.layout)
        self._past: list[list[list[Any]]] = []
        self._pending: tuple[Pair, ...] = ()
        self._flipped: tuple[bool, ...] = ()
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
    ) -> None:
        """Take the vote on the pair of `ask`, or one vote for each pair of ``ask(n)``, in order.

        Args:
            vote: "a", "b", "tie", the share of votes for a (0 to 1), or None (no answer).
            weight: how many votes it counts as, 0 or more; one number, or one for each pair.

        Raises:
            UsageError: nothing was asked, the number of votes is wrong, or a vote is unknown;
                the pairs still await their votes.
        """
        with _ONE_AT_A_TIME:
            self._tell(vote, weight)

    def _tell(
        self, vote: VectorVote | Sequence[VectorVote], weight: float | Sequence[float]
    ) -> None:
        if not self._pending:
            raise UsageError("tell: no pair awaits a vote; call ask() first")
        cast = check_votes(vote, weight, len(self._pending), self._single)
        query = optimizer.ask(self._state)
        state, updates, info = optimizer.tell(self._state, query, tally(cast, self._flipped))
        settings = state.settings
        centre, recommended = self._centre, self._recommended
        for update in optimizer.added_updates(settings, updates, "centre"):
            centre = parameters.apply_update(settings.space, centre, update)
        for update in optimizer.added_updates(settings, updates):
            recommended = parameters.apply_update(settings.space, recommended, update)
        self._state, self._info = state, info
        self._centre, self._recommended = centre, recommended
        self._past.append([[each.vote, each.weight] for each in cast])
        self._pending = ()

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

    # ---- where it stands ----

    @property
    def best(self) -> Floats:
        """The point (d,) that the votes so far recommend; the start before any vote."""
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
            if form not in (1, FORMAT):
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
            wanted = saved["digest"]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
