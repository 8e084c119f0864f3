"""Votes as arrays, and an optimizer that gets them."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from szpo.config.optimizer import record_settings
from szpo.optim import known_and_sign, optimizer
from szpo.optim.optimizer import State
from szpo.optim.rule import Perturbations
from szpo.optim.settings import Settings
from szpo.types import Info, Tally, Update

SMALL = (("z", (3,)),)
WIDE = (("a", (5,)), ("b", (4,)))


def tally(plus: Any, minus: Any = None, tie: Any = None, identical: Any = None) -> Tally:
    """A tally from nested lists (..., K, N); missing counts are zero."""
    plus = np.asarray(plus, dtype=float)
    minus = 0 * plus if minus is None else np.asarray(minus, dtype=float)
    tie = 0 * plus if tie is None else np.asarray(tie, dtype=float)
    same = np.zeros(plus.shape, bool) if identical is None else np.asarray(identical)
    return Tally(plus, minus, tie, same)


def one_vote(plus: Any) -> Tally:
    """One vote per direction, for plus where ``plus`` is true."""
    up = np.asarray(plus, dtype=float)[:, None]
    return tally(up, 1 - up)


def random_tally(
    rng: np.random.Generator, settings: Settings, lead: tuple[int, ...] = ()
) -> Tally:
    """M votes on every comparison, any number of them for plus."""
    shape = (*lead, settings.section.K, settings.section.N)
    plus = rng.integers(0, settings.section.M + 1, size=shape).astype(float)
    return tally(plus, settings.section.M - plus)


COUNTING = {one.name: one for one in (known_and_sign.KNOWN_PARTS, known_and_sign.SIGN_PARTS)}


def coefficients(
    settings: Settings, votes: Tally, *, mu: Any, alpha: Any, delta: Any = None
) -> known_and_sign.Coefficients:
    """The coefficients of a counting rule at a radius and a step size."""
    at = Perturbations(
        0, mu, alpha, np.zeros(settings.section.K), lambda: (np.zeros(0), np.zeros(0))
    )
    rule = COUNTING[settings.section.rule]
    return known_and_sign.coefficients(rule, settings, at, votes, delta=delta)


def default_alpha(settings: Settings, rms: float | None = None) -> float:
    """The default step size of a counting rule."""
    return known_and_sign.default_alpha(COUNTING[settings.section.rule], settings, rms)


def told(
    settings: Settings, votes: Tally, steps: int = 1
) -> tuple[State, tuple[Update, ...], Info]:
    """The last result of telling a new optimizer the same votes ``steps`` times."""
    state = optimizer.init(settings)
    for _ in range(steps):
        query = optimizer.ask(state)
        state, updates, info = optimizer.tell(state, query, votes)
    return state, updates, info


def state_to_json(state: State) -> str:
    """The state in JSON, to compare two."""
    whole = {**asdict(state), "settings": record_settings(state.settings)}
    return json.dumps(whole, default=lambda value: value.tolist(), allow_nan=False)
