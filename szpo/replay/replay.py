"""Replay a ledger: weights from updates, the optimizer's state from votes; without a panelist.

It needs only NumPy and the file: no model, no torch. `verify` recomputes every hash and figure.

A preview without one panelist changes nothing: past updates stay, and excluding somebody affects
only later rounds.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from szpo import turns
from szpo.errors import IntegrityError, RunError, UsageError
from szpo.files import quoted
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import (
    RECOMMENDED,
    START,
    UPDATED,
    last_adopted,
    read_adopted,
    starting_theta,
    went_back,
)
from szpo.optim import kl_limits, optimizer, parameters
from szpo.optim.kl_limits import KlMeasurement
from szpo.optim.optimizer import Point, State, rule_of
from szpo.optim.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.optim.weighting import MINUS, PLUS, TIE, VotesByVoter
from szpo.types import Floats, Info, Tally, Theta, Update, Vote
from szpo.voting import counting, withdrawals
from szpo.voting.step import Step, read_steps

if TYPE_CHECKING:
    from szpo.policies.subspaces import Subspace


VERDICTS: Final = {"plus": PLUS, "minus": MINUS, "tie": TIE}

MAX_COORDINATES: Final = 4096
"""Up to this many coordinates steps are recomputed; above it only votes are counted."""


def read_votes_by_voter(
    ledger: Ledger, settings: Settings, step: int, votes: Sequence[Vote], tally: Tally
) -> VotesByVoter:
    """Arrange the counted ``votes`` of a closed step by voter, in the order of their ids."""
    voters = tuple(sorted({vote.panelist for vote in votes}))
    column = {voter: i for i, voter in enumerate(voters)}
    verdicts = np.zeros((len(voters), *tally.identical.shape), dtype=np.int8)
    for vote in votes:
        verdicts[column[vote.panelist], vote.k, vote.n] = VERDICTS[vote.verdict]
    return VotesByVoter(voters, verdicts, tally.identical)


def read_applied_updates(
    ledger: Ledger,
    settings: Settings,
    until: int | None = None,
    point: Point = "recommended",
) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """Yield each applied step with the updates that it adds to ``point``, in order."""
    rows = ledger.updates(until)
    by_step: dict[int, list[Update]] = {}
    for update in rows:
        by_step.setdefault(update.step, []).append(update)
    for step, updates in by_step.items():
        yield step, optimizer.added_updates(settings, updates, point)


def read_reaches(ledger: Ledger, settings: Settings) -> dict[int, KlMeasurement]:
    """By step, what was measured of the point of a rule with one point; it was drawn back by it.

    Raises:
        IntegrityError: a measurement cannot be read.
    """
    if settings.kl_budget is None or rule_of(settings.section.rule).two_points:
        return {}
    found = {step.number: step.reach for step in read_steps(ledger)}
    return {step: reach for step, reach in found.items() if reach is not None}


def apply_recorded(
    ledger: Ledger,
    settings: Settings,
    policy: Any,
    until: int | None = None,
    point: Point = "recommended",
    *,
    done: int = 0,
) -> int:
    """Apply the recorded updates of ``point`` to a policy that already has ``done`` steps.

    Returns:
        How many steps the policy has now.
    """
    applied, start, reaches = 0, starting_theta(ledger), read_reaches(ledger, settings)
    for step, updates in read_applied_updates(ledger, settings, until, point):
        applied += 1
        for update in updates if applied > done else ():
            policy.apply(update)
        if step in reaches and applied > done:
            policy.move_to(kl_limits.draw_back(start, policy.theta(), reaches[step]))
    return applied


def walk(
    ledger: Ledger, settings: Settings, until: int | None = None
) -> Iterator[tuple[int, Theta]]:
    """Yield each applied step with the θ that its updates lead to."""
    theta = start = starting_theta(ledger)
    reaches = read_reaches(ledger, settings)
    for step, updates in read_applied_updates(ledger, settings, until):
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
        theta = kl_limits.draw_back(start, theta, reaches.get(step))
        yield step, theta


def fold(ledger: Ledger, until: int | None = None) -> Theta:
    """The weights that a run recommends after the steps < ``until`` (None: after all).

    That is `fold_updates`, or, once the run has adopted weights (`szpo.ledger.theta`), these,
    and after a return the start.
    """
    return _recommended(ledger, fold_updates(ledger, until), until)


def _recommended(
    ledger: Ledger, updated: Theta, until: int | None, number: int | None = None
) -> Theta:
    if last_adopted(ledger, until, number) is None:
        return updated
    weights = read_adopted(ledger, until, number)
    return starting_theta(ledger) if weights is None else weights.theta


def improved_from(
    ledger: Ledger, subspace: Subspace, until: int | None = None, number: int | None = None
) -> dict[str, Theta]:
    """Every moving factor at the places where an improvement may begin, by their names.

    The mix is one beside adopted weights, in a run with coordinates. ``until``: how many steps,
    and ``number``: how many improvements were applied then; None: all.
    """
    updated = fold_updates(ledger, until)
    places = {START: None, RECOMMENDED: _recommended(ledger, updated, until, number)}
    last = last_adopted(ledger, until, number)
    adopted = last is not None and not went_back(last)
    if adopted and ledger.layout != parameters.NO_COORDINATES:
        places[UPDATED] = updated
    found = {place: subspace.factors(theta) for place, theta in places.items()}
    names = [site.b for site in subspace.sites]
    return {place: {name: every[name] for name in names} for place, every in found.items()}


def fold_updates(ledger: Ledger, until: int | None = None) -> Theta:
    """The recommended θ after the steps < ``until`` (None: after all), exact on any machine."""
    settings = recorded_settings(ledger)
    last = ledger.last_applied()
    if until is not None and not 0 <= until <= (-1 if last is None else last) + 1:
        raise UsageError(
            f"{ledger.path.name}: {0 if last is None else last + 1} steps are applied, not "
            f"{until}; give fewer"
        )
    theta = starting_theta(ledger)
    for _, reached in walk(ledger, settings, until):
        theta = reached
    rows = ledger.query(
        "SELECT theta_sha256 FROM updates WHERE run = ? AND step < ? "
        "ORDER BY step DESC, k LIMIT 1",
        (ledger.run, 2**62 if until is None else until),
    )
    digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
    if rows and rows[0]["theta_sha256"] != digest:
        raise IntegrityError(
            f"{ledger.path.name}: replayed weights are {digest[:12]}, recorded "
            f"{rows[0]['theta_sha256'][:12]}; see: szpo verify {quoted(ledger.path)}"
        )
    return theta


def replay_state(ledger: Ledger, settings: Settings, until: int | None = None) -> State:
    """Recompute the optimizer's state after ``until`` steps (None: all) from recorded votes."""
    state = optimizer.init(settings)
    for after, _ in itertools.islice(retell(ledger, settings), until):
        state = after
    return state


def tell_step(
    ledger: Ledger,
    settings: Settings,
    step: Step,
    state: State,
    votes: Sequence[Vote],
    *,
    inputs: StepInputs | None = None,
    measure: Callable[[Floats], float] | None = None,
    voters: bool = True,
) -> tuple[Tally, State, tuple[Update, ...], Info]:
    """Report a recorded step to the optimizer.

    ``inputs``: of the fit besides votes; None: as recorded. ``measure``: KL to the model's start,
    nats, of a point as moved from θ₀; None: not measured. ``voters``: also report who voted; with
    equal weights only ``info`` depends on it.
    """
    number, settings = step.number, step.settings(settings)
    state = replace(state, settings=state.settings.change(N=settings.section.N))
    tally = counting.tally(ledger, number, settings.section.K, settings.section.N, votes)
    if state.history is not None:
        past = withdrawals.history_left(ledger, state.history, number)
        state = replace(state, history=past)
    state, updates, info = optimizer.tell(
        state,
        step.query(settings),
        tally,
        by_voter=read_votes_by_voter(ledger, settings, number, votes, tally) if voters else None,
        inputs=step.inputs(ledger, settings) if inputs is None else inputs,
        measure=measure,
    )
    return tally, state, tuple(updates), info


def fold_votes(
    ledger: Ledger, voters: Collection[str], measure: Callable[[Floats], float] | None = None
) -> tuple[Theta, float]:
    """The θ that the counted votes of these panelists alone recommend, and the number of votes.

    The run's rule, radii, answers and directions are as recorded. The votes of all panelists give
    the θ of `fold`.

    ``voters``: ids of panelists. ``measure``: as in `tell_step`.
    """
    settings, theta = recorded_settings(ledger), starting_theta(ledger)
    state = optimizer.init(settings)
    for after, updates in retell(ledger, settings, voters, measure):
        state = after
        for update in optimizer.added_updates(settings, updates):
            theta = parameters.apply_update(settings.space, theta, update)
    return theta, state.votes


def retell(
    ledger: Ledger,
    settings: Settings,
    voters: Collection[str] | None = None,
    measure: Callable[[Floats], float] | None = None,
) -> Iterator[tuple[State, tuple[Update, ...]]]:
    """Yield the optimizer's state after each applied step, and the step's updates.

    ``voters``: ids of panelists whose votes count; None: all. KL measured during the run is not
    valid for fewer voters; then ``measure`` measures the last point.
    """
    state, same, last = optimizer.init(settings), True, ledger.last_applied()
    stands = withdrawals.left(ledger)
    for step in read_steps(ledger):
        number = step.number
        if step.row["state"] != "applied":
            break
        turns.pause()
        found = counting.counted(ledger, number)
        votes = tuple(
            v for v in found
            if voters is None or (v.panelist in voters and stands(v.panelist, number))
        )  # fmt: skip
        same = same and len(votes) == len(found)
        inputs = step.inputs(ledger, settings)
        _, state, updates, _ = tell_step(
            ledger, settings, step, state, votes,
            inputs=inputs if same else replace(inputs, reach=None, withdrawn=()),
            measure=None if same or number != last else measure,
        )  # fmt: skip
        yield state, updates


@dataclass(frozen=True, slots=True)
class StepEffect:
    """One applied step with and without the panelist's votes."""

    step: int
    votes: int
    theirs: int
    flips: bool
    """Whether in some direction the majority changes sign, vanishes or appears."""
    cosine: float | None
    """Between the step taken and the step without their votes, after the same earlier steps; None
    if one of the two is zero, or steps are not recomputed."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The effect of leaving out one panelist."""

    name: str
    votes: int
    of: int
    effects: tuple[StepEffect, ...]
    """The steps in which this panelist voted."""

    @property
    def flipped(self) -> tuple[int, ...]:
        """Steps whose majority would be different."""
        return tuple(effect.step for effect in self.effects if effect.flips)

    @property
    def turned(self) -> tuple[int, ...]:
        """Steps that would have moved in an opposing direction (negative cosine)."""
        return tuple(e.step for e in self.effects if e.cosine is not None and e.cosine < 0)


def preview_without(ledger: Ledger, name: str) -> Preview:
    """The effect of leaving out the counted votes of the panelist with this pseudonym."""
    found = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
    if not found:
        raise UsageError(f"panelist {name!r} is not enrolled in this run")
    panelist = found[0]["panelist"]
    applied = [row for row in ledger.steps() if row["state"] == "applied"]
    cosines = _cosines(ledger, panelist)
    effects, total = [], 0
    for row in applied:
        votes = counting.counted(ledger, row["step"])
        rest = [vote for vote in votes if vote.panelist != panelist]
        total += len(votes)
        if len(rest) == len(votes):
            continue
        before, after = _leads(votes), _leads(rest)
        effects.append(
            StepEffect(
                step=row["step"],
                votes=len(votes),
                theirs=len(votes) - len(rest),
                flips=any(before[k] != after[k] for k in before),
                cosine=cosines.get(row["step"]),
            )
        )
    return Preview(name, sum(e.theirs for e in effects), total, tuple(effects))


def _leads(votes: Iterable[Vote]) -> dict[int, int]:
    """Which side leads in each direction: 1 plus, −1 minus, 0 neither."""
    net: dict[int, int] = defaultdict(int)
    for vote in votes:
        net[vote.k] += {"plus": 1, "minus": -1}.get(vote.verdict, 0)
    return defaultdict(int, {k: (lead > 0) - (lead < 0) for k, lead in net.items()})


def _cosines(ledger: Ledger, panelist: str) -> dict[int, float]:
    """Cosine, per step, between the step taken and the one without the panelist's votes."""
    try:
        settings = run_spec.recorded_settings(ledger)
    except IntegrityError:
        return {}
    if settings.space.dim > MAX_COORDINATES or settings.section.weighting != "equal":
        return {}
    if settings.section.rule == "sign":  # its steps only flip
        return {}
    state, found = optimizer.init(settings), {}
    for step in read_steps(ledger):
        if step.row["state"] != "applied":
            break
        votes = counting.counted(ledger, step.number)
        rest = [vote for vote in votes if vote.panelist != panelist]
        try:
            tell = partial(
                tell_step, ledger, settings, step, state,
                inputs=step.inputs(ledger, settings), voters=False,
            )  # fmt: skip
            _, after, taken, _ = tell(votes)
            if len(rest) < len(votes):
                _, _, other, _ = tell(rest)
                cosine = _cosine(_sum_updates(settings, taken), _sum_updates(settings, other))
                if cosine is not None:
                    found[step.number] = cosine
        except (RunError, UsageError):
            return found
        state = after
    return found


def _sum_updates(settings: Settings, updates: Sequence[Update]) -> Floats:
    total = np.zeros(settings.space.dim)
    if rule_of(settings.section.rule).two_points:
        updates = updates[:1]  # the recommended point's
    for update in updates:
        if update.vector is not None:
            total += np.asarray(update.vector)
        elif update.coef:
            total += update.coef * parameters.direction_vector(
                settings.space, update.step, update.k
            )
    return total


def _cosine(a: Floats, b: Floats) -> float | None:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / size, 9) if size else None
