"""Replay a ledger: weights from updates, the optimizer's state from votes; without a panelist.

It needs only NumPy and the file: no model, no torch. `verify` recomputes every hash and figure.

A preview without one panelist changes nothing: past updates stay, and excluding somebody affects
only later rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from szpo import background_work
from szpo.errors import IntegrityError, UsageError
from szpo.files import quoted
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
from szpo.optim import kl_limits, optimizer, parameters, regression
from szpo.optim.kl_limits import KlMeasurement
from szpo.optim.optimizer import Point, State, rule_of
from szpo.optim.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.optim.weighting import MINUS, PLUS, TIE, VotesByVoter
from szpo.types import Floats, Info, Tally, Theta, Update, Vote
from szpo.voting import counting, withdrawals
from szpo.voting.recorded_step import Step, read_steps

if TYPE_CHECKING:
    from szpo.policies.subspaces import Subspace


VERDICTS: Final = {"plus": PLUS, "minus": MINUS, "tie": TIE}


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
) -> tuple[Tally, State, tuple[Update, ...], Info]:
    """Report a recorded step to the optimizer.

    ``inputs``: of the fit besides votes; None: as recorded. ``measure``: KL to the model's start,
    nats, of a point as moved from θ₀; None: not measured.
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
        by_voter=read_votes_by_voter(ledger, settings, number, votes, tally),
        inputs=step.inputs(ledger, settings) if inputs is None else inputs,
        measure=measure,
    )
    return tally, state, tuple(updates), info


def findings(ledger: Ledger, settings: Settings, state: State) -> dict[str, Any] | None:
    """What the votes say after a step, as JSON; None under a rule that draws no such findings.

    ``state``: after the step.
    """
    if not rule_of(settings.section.rule).two_points:
        return None
    found = regression.findings_of(settings, state.carried)
    adopted = last_adopted(ledger, state.step - 1)
    return (found if adopted is None else found.replaced).to_json()


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
        background_work.pause()
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
