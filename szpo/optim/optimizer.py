"""SZPO as ask and tell: what to compare next, and what the votes do to θ.

Pure: a state in, a state out. A state is a function of the settings, the recorded radii and the
recorded votes alone, so a run can always be told again (`retell`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from szpo.aggregation import estimators, links, weighting
from szpo.aggregation.weighting import Ballots, History
from szpo.errors import RunError, UsageError
from szpo.optim import momentum, parameters, posterior
from szpo.optim.bayes_rule import informed, window_flip_share
from szpo.optim.count_rules import Coefficients, coefficients
from szpo.optim.momentum import Memory, rounded
from szpo.optim.settings import Schedule, Settings, settings_to_json
from szpo.optim.step_size import Pool, base_mu, default_alpha, longest, shape, steered
from szpo.optim.weighted_votes import Weighed, by_voter, check_tally, totals, weigh
from szpo.types import Floats, Info, Query, Shift, Tally, Update


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where a run's optimizer stands before the votes of ``step`` are told."""

    settings: Settings
    step: int
    alpha: float | None
    """Base step size; None during a warm-up and under ``bayes``."""
    kl_radius: float
    """KL radius κ, steered or constant."""
    warm: tuple[float, ...]
    """Squares of what the warm-up measured, one per direction."""
    votes: float
    ties: float
    pool: Pool
    """Steering: sum of agreements, pairs of votes, steps since the last decision."""
    window: posterior.Window | None
    memory: Memory | None
    history: History | None = None
    """Who said what, where the votes were told with their voters."""


def init(settings: Settings) -> State:
    """The state before step 0."""
    measured = settings.rule == "bayes" or settings.warmup > 0
    window = posterior.Window.empty(settings.dim, settings.N) if settings.rule == "bayes" else None
    carries = settings.vectored and settings.rule != "bayes"
    return State(
        settings=settings,
        step=0,
        alpha=None if measured else default_alpha(settings),
        kl_radius=settings.kl_radius,
        warm=(),
        votes=0.0,
        ties=0.0,
        pool=(0.0, 0.0, 0),
        window=window,
        memory=Memory.empty(settings.dim) if carries else None,
    )


def ask(state: State, step: int | None = None) -> Query:
    """The two policies of each direction at the state's step, or at the next one (lag 1).

    Raises:
        UsageError: another step than these two.
    """
    wanted = state.step if step is None else step
    if wanted not in (state.step, state.step + 1):
        raise UsageError(f"ask: step {wanted} when votes are awaited for step {state.step}")
    settings = state.settings
    mu = base_mu(settings) * math.sqrt(state.kl_radius / settings.kl_radius)
    if isinstance(settings.mu, Schedule):
        mu *= settings.mu.shape(wanted)
    alpha = None if state.alpha is None else state.alpha * shape(settings, wanted)
    return query(settings, wanted, mu, alpha)


def query(settings: Settings, step: int, mu: float, alpha: float | None = None) -> Query:
    """The query of a step whose radius is known, as when a run is told again.

    Raises:
        RunError: μ is not a positive number.
    """
    if not (mu > 0 and math.isfinite(mu)):
        raise RunError(f"step {step}: the perturbation radius mu is {mu}; nothing was generated")
    space = settings.space
    pairs = []
    for k in range(settings.K):
        radius = rounded(mu * parameters.factor(space, step, k))
        minus = (
            Shift(step, k, -1, radius)
            if settings.pairing == "antithetic"
            else Shift(step, k, 0, 0.0)
        )
        pairs.append((Shift(step, k, 1, radius), minus))
    return Query(step, tuple(pairs), mu, alpha)


def tell(
    state: State,
    query: Query,
    tally: Tally,
    *,
    delta: ArrayLike | None = None,
    ballots: Ballots | None = None,
) -> tuple[State, tuple[Update, ...], Info]:
    """What a step's counted votes do: the next state, the updates to record, the report.

    The tally's arrays are (K, N). ``ballots`` are the same votes by voter: every weighting but
    ``equal`` needs them, and with them the report says which share of hostile voters would have
    turned the step round. ``delta`` (K,) replaces Δ̂ (not under ``bayes``). An update with
    coefficient 0 moves nothing (warm-up, exact tie). Under full-space momentum the recorded
    coefficients are undecayed: `fold` says what is added.

    Raises:
        RunError: a count, an estimate or a step is not finite; nothing was applied.
        UsageError: the votes do not belong to the state's step, or have the wrong shape.
    """
    settings = state.settings
    if query.step != state.step:
        raise UsageError(f"tell: votes of step {query.step}, awaited are those of {state.step}")
    if tally.plus.shape != (settings.K, settings.N):
        raise UsageError(
            f"tell: step {query.step} has votes of shape {tally.plus.shape}, "
            f"expected {(settings.K, settings.N)}"
        )
    check_tally(tally, query.step)
    given = None if delta is None else _given(settings, delta, query.step)
    votes, ties, wins = totals(tally)
    state = replace(state, votes=state.votes + votes, ties=state.ties + ties)
    rows = 0 if state.window is None else len(state.window.steps)
    weighed = weigh(settings, state.history, query.step, tally, ballots, given, rows=rows)
    state = replace(state, history=weighed.history)
    if settings.rule == "bayes":
        after, updates, arithmetic, extra = _tell_bayes(state, query, weighed)
    elif state.alpha is None:
        after, updates, arithmetic, extra = _tell_warmup(state, query, weighed)
    else:
        after, updates, arithmetic, extra = _tell_step(state, query, weighed)
    after = replace(after, step=state.step + 1)
    if settings.weighting in weighting.LEARNT and weighed.ballots is not None:
        extra["weights"] = dict(zip(weighed.ballots.voters, weighed.weights.tolist(), strict=True))
    if settings.steering is not None:
        radius, pool = steered(state.kl_radius, state.pool, tally, settings.steering)
        after = replace(after, kl_radius=radius, pool=pool)
    info = Info(
        step=query.step,
        delta=tuple(arithmetic.delta.tolist()),
        stderr=tuple(arithmetic.stderr.tolist()),
        win_rate=wins / votes if votes else 0.5,
        votes=votes,
        capped=bool(arithmetic.capped.any()),
        warmup=settings.warmup > 0 and state.alpha is None,
        kl_radius=state.kl_radius,
        extra=extra,
        flip_share=extra.pop("flip_share", None),
    )
    return after, updates, info


def retell(
    settings: Settings, tallies: Iterable[Tally], mus: Sequence[float] | None = None
) -> State:
    """The state after recorded votes of equal weight, rebuilt from nothing else.

    ``mus`` are the recorded radii of the steps; without them each step asks for its own, which is
    the same unless a lagging run was steered.
    """
    state = init(settings)
    for step, tally in enumerate(tallies):
        asked = ask(state) if mus is None else query(settings, step, mus[step])
        state = tell(state, asked, tally)[0]
    return state


def state_to_json(state: State) -> dict[str, Any]:
    """The state as plain JSON values, to look at or to compare."""
    window, memory = state.window, state.memory
    return {
        "settings": settings_to_json(state.settings),
        "step": state.step,
        "alpha": state.alpha,
        "kl_radius": state.kl_radius,
        "warm": list(state.warm),
        "votes": state.votes,
        "ties": state.ties,
        "pool": list(state.pool),
        "window": None
        if window is None
        else {
            name: getattr(window, name).tolist()
            for name in ("steps", "x", "plus", "minus", "ties")
        },
        "memory": None
        if memory is None
        else {
            "first": memory.first.tolist(),
            "second": memory.second.tolist(),
            "count": memory.count,
        },
    }


_Told = tuple[State, tuple[Update, ...], Coefficients, dict[str, Any]]


def _flip_share(state: State, query: Query, weighed: Weighed) -> float | None:
    """Which share of hostile voters would have turned Δ̂ of a direction round."""
    settings, ballots = state.settings, weighed.ballots
    if ballots is None:
        return None

    def lead(votes: Ballots) -> Floats:
        if settings.pooled_by_voter:
            return by_voter(settings, votes)
        tally = votes.tally(weighed.weights if weighed.cast is not None else None)
        tally = replace(tally, share=weighed.tally.share)
        return coefficients(
            settings, tally, mu=query.mu, alpha=1.0, nu=_nu(state), cast=weighed.cast
        ).coef

    return weighting.flip_share(ballots, weighed.weights, lead)


def _tell_step(state: State, query: Query, weighed: Weighed) -> _Told:
    settings = state.settings
    alpha = (state.alpha or 0.0) * shape(settings, query.step)
    rate = 1.0 if settings.adam is not None else alpha
    found = _found(state, query, weighed, rate)
    _finite(found.coef, query.step, "coefficient")
    extra = {
        "alpha": alpha,
        "mu": query.mu,
        "flip_share": _flip_share(state, query, weighed),
    }
    if not settings.vectored:
        updates = tuple(
            Update(
                query.step,
                k,
                coef=rounded(
                    float(found.coef[k]) * parameters.factor(settings.space, query.step, k)
                ),
            )
            for k in range(settings.K)
        )
        return state, updates, found, extra
    memory = state.memory
    if memory is None:
        raise UsageError("tell: the state has lost its memory; rebuild it with retell")
    move = np.zeros(settings.dim)
    for k in range(settings.K):
        move = move + float(found.coef[k]) * _unit_direction(settings, query.step, k)
    if settings.adam is not None:
        step, memory = momentum.adam_step(memory, move, alpha, settings.adam)
    else:
        step, memory = momentum.momentum_step(memory, move, settings.momentum)
    limit = settings.coef_cap * query.mu * math.sqrt(settings.dim)
    length = float(np.linalg.norm(step))
    if length > limit:
        step = step * (limit / length)
        found = replace(found, capped=np.ones_like(found.capped))
    return replace(state, memory=memory), (_vector(step, query.step),), found, extra


def _found(state: State, query: Query, weighed: Weighed, rate: float) -> Coefficients:
    return coefficients(
        state.settings, weighed.tally, mu=query.mu, alpha=rate, nu=_nu(state),
        delta=weighed.delta, cast=weighed.cast,
    )  # fmt: skip


def _tell_warmup(state: State, query: Query, weighed: Weighed) -> _Told:
    """Votes are spent and recorded, nothing moves; the last warm-up step sets α.

    A direction of which nothing was counted (a deadline) measures nothing.
    """
    settings = state.settings
    found = _found(state, query, weighed, 1.0)
    _finite(found.delta, query.step, "value difference")
    measured = found.delta
    if settings.rule == "margin":
        tally = weighed.tally
        measured = estimators.margin(
            tally.plus, tally.minus, tally.tie, tally.identical, weighed.cast, tally.share
        )
        if weighed.delta is not None:
            measured = 2 * links.link(settings.link).prob(found.delta) - 1
    counted = measured[np.isfinite(found.stderr)].tolist()
    warm = (*state.warm, *(value * value for value in counted))
    alpha = None
    if query.step + 1 >= settings.warmup:
        total = 0.0
        for square in warm:
            total += square
        # Only ties so far say nothing about the spread: fall back to that of pure vote noise.
        alpha = default_alpha(settings, math.sqrt(total / max(len(warm), 1)) or None)
    rows = 1 if settings.vectored else settings.K
    updates = tuple(Update(query.step, k, coef=0.0) for k in range(rows))
    found = replace(found, capped=np.zeros_like(found.capped))
    extra = {"mu": query.mu, "flip_share": _flip_share(state, query, weighed)}
    return replace(state, warm=warm, alpha=alpha), updates, found, extra


def _tell_bayes(state: State, query: Query, weighed: Weighed) -> _Told:
    settings = state.settings
    if state.window is None:
        raise UsageError("tell: the state has lost its window; rebuild it with retell")
    window, known = informed(settings, state.window, query, weighed)
    length = longest(settings, query.step)
    step = posterior.step_vector(known, length)
    found = _found(state, query, weighed, 1.0)
    found = replace(found, capped=np.zeros_like(found.capped))
    extra = {
        "flip_share": None
        if weighed.ballots is None or state.history is None
        else window_flip_share(window, known, state.history, weighed.weights, settings.forget),
        "mu": query.mu,
        "gradient": float(np.linalg.norm(known.w)),
        "uncertainty": math.sqrt(float(np.trace(known.covariance))),
        "comparison_noise": float(known.s),
        "length": float(np.linalg.norm(step)),
    }
    return replace(state, window=window), (_vector(step, query.step),), found, extra


def _nu(state: State) -> float | None:
    if state.settings.ties == "half":
        return None
    if state.settings.tie_nu is not None:
        return state.settings.tie_nu
    return estimators.tie_nu(state.ties, state.votes)


def _unit_direction(settings: Settings, step: int, k: int) -> Floats:
    scale = parameters.factor(settings.space, step, k)
    return scale * parameters.direction_vector(settings.space, step, k)


def _vector(step: Floats, number: int) -> Update:
    with np.errstate(over="ignore"):
        values = step.astype(np.float32)
    _finite(values.astype(np.float64), number, "step vector")
    return Update(number, 0, vector=tuple(values.tolist()))


def _finite(values: Floats, step: int, source: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise RunError(
            f"step {step}: {source} {bad[0]} is {values.flat[bad[0]]}; nothing was applied"
        )


def _given(settings: Settings, delta: ArrayLike, step: int) -> Floats:
    given = np.asarray(delta, dtype=np.float64)
    if settings.rule == "bayes":
        raise UsageError("tell: bayes takes votes, not one estimate per direction")
    if given.shape != (settings.K,):
        raise UsageError(f"tell: delta has shape {given.shape}, expected {(settings.K,)}")
    _finite(given, step, "value difference")
    return given
