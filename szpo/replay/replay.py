"""Replay a ledger: recompute weights from its updates and the optimizer's state from its votes.

It needs only NumPy and the file: no model, no torch. `verify` recomputes every hash and figure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from szpo import turns
from szpo.errors import IntegrityError, UsageError
from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import starting_theta
from szpo.optim import optimizer, parameters
from szpo.optim.optimizer import Point
from szpo.optim.rules.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.optim.state import State
from szpo.types import Floats, Info, Tally, Theta, Update, Vote
from szpo.voting import counting, step_inputs, step_plan, withdrawals
from szpo.voting.votes_by_voter import read_votes_by_voter

if TYPE_CHECKING:
    from szpo.policies.subspaces import Subspace


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
    applied = 0
    for _, updates in read_applied_updates(ledger, settings, until, point):
        applied += 1
        for update in updates if applied > done else ():
            policy.apply(update)
    return applied


def fold(ledger: Ledger, until: int | None = None, number: int | None = None) -> Theta:
    """The weights that a run recommends after the steps < ``until`` (None: after all).

    That is `fold_updates`, or, once the run has adopted weights (`szpo.ledger.adopted`), these,
    and after a return the start. ``number``: only the first so many adoptions are looked at.
    """
    theta, found = fold_updates(ledger, until), adopted.last(ledger, until, number)
    if found is None:
        return theta
    weights = adopted.read(ledger, until, number)
    return starting_theta(ledger) if weights is None else weights.theta


def improved_from(
    ledger: Ledger, subspace: Subspace, until: int | None = None, number: int | None = None
) -> tuple[Theta, Theta]:
    """Every moving factor where an improvement begins from, and at the run's start.

    Args:
        ledger: The run.
        subspace: Its coordinates, with the sites of adopted weights.
        until: How many steps were applied then; None: all.
        number: How many improvements were adopted then; None: all.
    """
    now, start = subspace.factors(fold(ledger, until, number)), subspace.factors()
    names = [site.b for site in subspace.sites]
    return {name: now[name] for name in names}, {name: start[name] for name in names}


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
    for _, updates in read_applied_updates(ledger, settings, until):
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
    rows = ledger.query(
        "SELECT theta_sha256 FROM updates WHERE run = ? AND step < ? "
        "ORDER BY step DESC, k LIMIT 1",
        (ledger.run, 2**62 if until is None else until),
    )
    digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
    if rows and rows[0]["theta_sha256"] != digest:
        raise IntegrityError(
            f"{ledger.path.name}: replayed weights are {digest[:12]}, recorded "
            f"{rows[0]['theta_sha256'][:12]}; see: szpo verify {ledger.path}"
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
    state: State,
    mu: float,
    votes: Sequence[Vote],
    *,
    inputs: StepInputs | None = None,
    measure: Callable[[Floats], float] | None = None,
    voters: bool = True,
) -> tuple[Tally, State, tuple[Update, ...], Info]:
    """Report a recorded step to the optimizer.

    Args:
        ledger: The run.
        settings: The run's optimizer settings.
        state: The state before the step.
        mu: The step's perturbation radius.
        votes: The votes to count.
        inputs: Inputs of the fit besides votes; None: as recorded.
        measure: KL to the model's start, nats, of a point as moved from θ₀; None: not measured.
        voters: Also report who voted; with equal weights only ``info`` depends on it.
    """
    step = state.step
    settings = step_plan.settings_of(ledger, settings, step)
    state = replace(state, settings=state.settings.change(N=settings.section.N))
    tally = counting.tally(ledger, step, settings.section.K, settings.section.N, votes)
    state, updates, info = optimizer.tell(
        state,
        step_plan.recorded_query(ledger, settings, step, mu),
        tally,
        by_voter=read_votes_by_voter(ledger, settings, step, votes, tally) if voters else None,
        inputs=step_inputs.read(ledger, settings, step) if inputs is None else inputs,
        measure=measure,
    )
    return tally, state, tuple(updates), info


def fold_votes(
    ledger: Ledger, voters: Collection[str], measure: Callable[[Floats], float] | None = None
) -> tuple[Theta, float]:
    """The θ that the counted votes of these panelists alone recommend, and the number of votes.

    The run's rule, radii, answers and directions are as recorded. The votes of all panelists give
    the θ of `fold`.

    Args:
        ledger: The run.
        voters: Ids of panelists.
        measure: KL to the model's start, nats, of a point as moved from θ₀; None: not measured.
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
    out = withdrawals.withdrawals(ledger) if voters is not None else ()
    for row in ledger.steps():
        step = row["step"]
        if row["state"] != "applied":
            break
        turns.pause()
        found = counting.counted(ledger, step)
        votes = tuple(
            v for v in found
            if voters is None
            or (v.panelist in voters and not any(each.holds(v.panelist, step) for each in out))
        )  # fmt: skip
        same = same and len(votes) == len(found)
        inputs = step_inputs.read(ledger, settings, step)
        _, state, updates, _ = tell_step(
            ledger, settings, state, row["mu"], votes,
            inputs=inputs if same else replace(inputs, reach=None, withdrawn=()),
            measure=None if same or step != last else measure,
        )  # fmt: skip
        yield state, updates
