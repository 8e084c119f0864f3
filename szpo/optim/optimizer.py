"""SZPO as ask and tell: what to compare next, and what the votes do to θ.

`ask` gives the points θ + μv of the policies to compare. Evaluators compare the policies' answers
outside this module. `tell` aggregates the votes by a rule and says how θ moves. `szpo.optim` has
the equations. All functions are pure. A state depends only on the settings, the recorded radii and
the recorded votes, so every run can be replayed.

The rules are here by name (`RULES`). A new rule is a file beside this one and an entry here;
`szpo.config.optimizer` finds the rules of other packages and adds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from szpo.errors import RunError, UsageError
from szpo.optim import known_and_sign, parameters, regression
from szpo.optim.informative import draw_direction
from szpo.optim.known_and_sign import KNOWN, SIGN
from szpo.optim.links import TRIM
from szpo.optim.rule import (
    Move,
    Rule,
    StepInputs,
    check_finite,
    check_tally,
    perturbations,
    totals,
    weigh,
)
from szpo.optim.schedule import mu_at
from szpo.optim.settings import Settings
from szpo.optim.weighting import History, VotesByVoter
from szpo.types import Asked, Explanation, Floats, Grid, Info, Query, Shift, Tally, Update

_RULES: Final = {rule.name: rule for rule in (KNOWN, SIGN, regression.RULE)}
RULES: Final[Mapping[str, Rule]] = MappingProxyType(_RULES)
"""The rules of szpo and those that were added."""

Point: TypeAlias = Literal["recommended", "centre"]
POINTS: Final[tuple[Point, ...]] = ("recommended", "centre")
"""The points of a run; a rule with two points updates them in this order in each step."""


def add_rule(rule: Rule) -> None:
    """Add the rule of another package; adding the same rule twice is allowed."""
    if _RULES.setdefault(rule.name, rule) is not rule:
        raise UsageError(f"rule {rule.name!r} is there already; give the new one another name")


def has_two_points(name: str) -> bool:
    """The rule asks around one point and recommends another; False for an unknown name."""
    return name in RULES and RULES[name].two_points


def rule_of(name: str) -> Rule:
    """The rule of that name."""
    if name not in RULES:
        raise UsageError(f"rule {name!r} is unknown; choose {', '.join(RULES)}")
    return RULES[name]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the optimizer knows before it gets the votes of ``step``.

    A function of the settings and the recorded votes alone.
    """

    settings: Settings
    step: int
    carried: Any
    """What the rule carries from step to step; see the rule's file in `szpo.optim.optimizer`."""
    votes: float = 0.0
    history: History | None = None
    """Past votes by voter, if it is known who cast them."""


def init(settings: Settings) -> State:
    """The state before step 0; make the settings with `szpo.config.optimizer`."""
    carried = rule_of(settings.section.rule).init(settings, ())
    return State(settings, step=0, carried=carried)


def ask(state: State, step: int | None = None) -> Query:
    """The two policies of each direction, at the state's step or the one after it (lag 1).

    Raises:
        UsageError: ``step`` is neither of the two.
    """
    wanted = state.step if step is None else step
    if wanted not in (state.step, state.step + 1):
        raise UsageError(f"ask: step {wanted} when votes are awaited for step {state.step}")
    settings, asked = state.settings, None
    if settings.asks_posterior:
        ways = rule_of(settings.section.rule).ways(settings, state.carried)
        asked = Asked(state.step, ways, draw_grids(settings, wanted, ways))
    return query(settings, wanted, mu_at(settings, wanted), alpha_at(state, wanted), asked)


def draw_grids(settings: Settings, step: int, ways: Sequence[Explanation]) -> tuple[Grid, ...]:
    """Draw the directions of a step from the explanations ``ways``; none if ``ways`` is empty."""
    named, noise = settings.features, settings.asking_noise
    if named is None or noise is None or not ways:
        return ()
    each = range(settings.section.K)
    return tuple(draw_direction(settings.space, named, ways, noise, step, k) for k in each)


def with_directions(state: State, count: int) -> State:
    """The state with ``count`` directions a step instead of K.

    `known` and `sign` keep the expected length of their step, whatever K is.

    Raises:
        UsageError: ``count`` is below 1.
    """
    if count == state.settings.section.K:
        return state
    settings = state.settings.change(K=count)
    carried = state.carried
    if isinstance(carried, known_and_sign.StepSize):
        carried = known_and_sign.with_directions(state.settings, carried, count)
    return replace(state, settings=settings, carried=carried)


def alpha_at(state: State, step: int) -> float | None:
    """The step size α at a step; None during a warm-up and for rules without a step size."""
    return rule_of(state.settings.section.rule).alpha(state.settings, state.carried, step)


def query(
    settings: Settings,
    step: int,
    mu: float,
    alpha: float | None = None,
    asked: Asked | None = None,
) -> Query:
    """The query of a step whose radius and drawn directions are known, as in a replay.

    Raises:
        RunError: μ is not a positive number.
        UsageError: the drawn directions do not fit the settings' coordinates.
    """
    if not (mu > 0 and math.isfinite(mu)):
        raise RunError(f"step {step}: the perturbation radius mu is {mu}; nothing was generated")
    space = settings.space
    pairs = []
    grids = asked.grids if asked is not None and asked.grids else (None,) * settings.section.K
    for k, grid in enumerate(grids):  # θ′ = θ + μ v_k; v_k by (seed, step, k), or on record
        if not settings.perturbs(step, k):
            pairs.append((Shift(step, k, 0, 0.0),) * 2)
            continue
        radius = float(parameters.round_coef(mu * parameters.factor(space, step, k, grid)))
        minus = (
            Shift(step, k, -1, radius, grid)
            if settings.section.pairing == "antithetic"
            else Shift(step, k, 0, 0.0)
        )
        pairs.append((Shift(step, k, 1, radius, grid), minus))
    return Query(step, tuple(pairs), mu, alpha, asked)


def tell(
    state: State,
    query: Query,
    tally: Tally,
    *,
    delta: ArrayLike | None = None,
    by_voter: VotesByVoter | None = None,
    inputs: StepInputs | None = None,
    measure: Callable[[Floats], float] | None = None,
) -> tuple[State, tuple[Update, ...], Info]:
    """Apply a step's counted votes: returns the next state, the updates to record and the report.

    The tally's arrays are (K, N). ``by_voter`` holds the same votes by voter: every weighting but
    ``equal`` needs them, and the report uses them to say which share of hostile voters would have
    reversed the step. ``delta`` (K,) replaces Δ̂ (not under ``regression``). ``inputs`` holds the
    step's recorded inputs. ``measure``, for a step not recorded yet, gives the KL to the model's
    start, in nats, of a point given as its displacement from θ₀. An update with coefficient 0
    moves nothing (warm-up, exact tie). `added_updates` says which point each update moves.

    Raises:
        RunError: a count, an estimate or a step is not finite; nothing was applied.
        UsageError: the votes do not belong to the state's step, or have the wrong shape.
    """
    settings, step = state.settings, state.step
    rule = rule_of(settings.section.rule)
    _check_votes(state, query, tally)
    given = None if delta is None else _check_delta(settings, delta, step)
    votes, wins = totals(tally)
    use = rule.past(settings, state.carried)
    weighted = weigh(settings, state.history, step, tally, by_voter, use=use)
    if given is not None:
        weighted = replace(weighted, delta=given)
    at = perturbations(settings, query, alpha_at(state, step), inputs, measure)
    move = rule.move(settings, state.carried, at, weighted)
    updates = _updates(settings, step, move)
    extra: dict[str, Any] = {} if at.alpha is None else {"alpha": at.alpha}
    extra |= {"mu": at.mu, **rule.figures(move)}
    if settings.section.weighting == "skill" and weighted.by_voter is not None:
        voters = weighted.by_voter.voters
        extra["weights"] = dict(zip(voters, weighted.weights.tolist(), strict=True))
    delta_hat, stderr = move.delta, move.stderr
    if delta_hat is None or stderr is None:
        estimate = known_and_sign.estimate(settings, weighted.tally)
        delta_hat, stderr = estimate.delta, estimate.stderr
    after = State(settings, step + 1, move.carried, state.votes + votes, weighted.history)
    info = Info(
        step=step,
        delta=tuple(delta_hat.tolist()),
        stderr=tuple(stderr.tolist()),
        win_rate=wins / votes if votes else 0.5,
        votes=votes,
        capped=move.capped,
        warmup=bool(settings.warmup) and at.alpha is None,
        extra=extra,
    )
    return after, updates, info


def added_updates(
    settings: Settings, updates: Iterable[Update], point: Point = "recommended"
) -> tuple[Update, ...]:
    """The updates of a step that move one of a run's points, in order.

    A run shows, measures and exports the recommended point, and asks around the centre. The two
    differ only under a rule with two points: its first update moves the recommended point, its
    second the centre.
    """
    added = tuple(sorted(updates, key=lambda update: update.k))
    if not has_two_points(settings.section.rule):
        return added
    return tuple(update for update in added if update.k == POINTS.index(point))


def describe_settings(settings: Settings) -> Sequence[str]:
    """Describe the settings of a run as lines to print."""
    s, o, mu = settings, settings.section, ask(init(settings)).mu
    end = f"weighting {o.weighting}, seed {s.root_seed}"
    how = f"rule {o.rule}, {o.pairing} pairs, link {o.link}, {end}"
    if not rule_of(o.rule).two_points:
        return how, _describe_step(s, mu)
    budget = "none" if s.kl_budget is None else f"{s.kl_budget:g} nats"
    votes = step_votes(o.K, o.N, o.M, o.D, own=s.own_share == 1)
    if s.own_share == 1:
        limit = "" if s.idle else f"; KL budget {budget}"  # improving has its own
        return f"rule {o.rule}, votes on pairs, {end}", f"a step: {votes}{limit}"
    if s.own_share:
        how += "; every other pair is of the policy's own answers"
    return (
        how,
        f"a step: {votes}",
        f"perturbation radius mu {mu:.4g} (KL {o.kl_radius:g} nats), KL budget {budget}",
    )


def step_votes(K: int, N: int, M: int, D: int, *, own: bool = False) -> str:
    """The votes of a step, in words; ``own``: of the policy's own answers.

    >>> step_votes(8, 1, 1, 8)
    'K × N × M = 8 × 1 × 1 votes (directions × batches × panelists), D = 8 answers a batch'
    >>> step_votes(1, 8, 5, 1)
    'K × N × M = 1 × 8 × 5 votes (directions × pairs × panelists), each on two answers to a prompt'
    """
    if own:
        return (
            f"{K * N} × {M} votes (pairs × panelists), each on two of the policy's own answers to "
            "a prompt, chosen for what a vote says"
        )
    unit = "pairs" if D == 1 else "batches"
    about = "each on two answers to a prompt" if D == 1 else f"D = {D} answers a batch"
    return f"K × N × M = {K} × {N} × {M} votes (directions × {unit} × panelists), {about}"


def _describe_step(s: Settings, mu: float) -> str:
    """A step of a rule with one point, in the symbols of the paper."""
    o, alpha = s.section, alpha_at(init(s), 0)
    size = f"measured in {s.warmup} steps" if alpha is None else f"{alpha:.4g}"
    return (
        f"a step: {equations(s)}; d = {s.dim}, K = {o.K}, N = {o.N}, M = {o.M}, D = {o.D}, "
        f"μ = {mu:.4g} (KL {o.kl_radius:g}), α = {size}"
    )


def equations(s: Settings) -> str:
    """What a step compares and how it moves, in the symbols of the paper."""
    both = "θ ± μv" if s.section.pairing == "antithetic" else "θ and θ + μv"
    length = ", |v| = √d" if s.law.scaled else ""
    if s.guides:
        length = f", {100 * s.section.guided:g} % of it guided once votes propose where"
    shares = {
        "trim": f"k/M trimmed to [σ(−{TRIM:g}), σ({TRIM:g})]",
        "haldane": "(k + ½)/(M + 1)",
    }
    apart = "μ" if s.distance == 1 else f"({s.distance}μ)"
    equation = rule_of(s.section.rule).equation.format(c=apart, p=shares[s.section.smoothing])
    return f"{both}, v ~ N(0, I){length}" + (f"; {equation}" if equation else "")


def _check_votes(state: State, query: Query, tally: Tally) -> None:
    settings = state.settings
    if query.step != state.step:
        raise UsageError(f"tell: votes of step {query.step}; expected those of step {state.step}")
    shape = settings.section.K, settings.section.N
    if tally.plus.shape != shape:
        raise UsageError(
            f"tell: step {query.step} has votes of shape {tally.plus.shape}, expected {shape}"
        )
    check_tally(tally, query.step)


def _updates(settings: Settings, step: int, move: Move) -> tuple[Update, ...]:
    """The updates to record: one vector per point, or one coefficient per direction."""
    if move.vector is not None:
        vectors = [move.vector] if move.centre is None else [move.vector, move.centre]
        return tuple(_vector(vector, step, k) for k, vector in enumerate(vectors))
    coefs = np.zeros(0) if move.coef is None else move.coef
    factors = [parameters.factor(settings.space, step, k) for k in range(len(coefs))]
    rounded = parameters.round_coef(coefs * np.array(factors))
    return tuple(Update(step, k, coef=coef) for k, coef in enumerate(rounded.tolist()))


def _vector(step: Floats, number: int, k: int) -> Update:
    with np.errstate(over="ignore"):
        values = step.astype(np.float32)
    check_finite(values.astype(np.float64), number, "step vector")
    return Update(number, k, vector=tuple(values.tolist()))


def _check_delta(settings: Settings, delta: ArrayLike, step: int) -> Floats:
    given = np.asarray(delta, dtype=np.float64)
    o = settings.section
    if rule_of(o.rule).two_points:
        raise UsageError(f"tell: {o.rule} takes votes, not one estimate per direction")
    if given.shape != (o.K,):
        raise UsageError(f"tell: delta has shape {given.shape}, expected {(o.K,)}")
    check_finite(given, step, "value difference")
    return given
