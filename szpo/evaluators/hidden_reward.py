"""The hidden reward of a simulated panel, for measuring; the run itself never reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from szpo import plugins
from szpo.errors import SzpoError
from szpo.evaluators.function_panel import FUNCTION
from szpo.ledger.database import Ledger
from szpo.types import Answer, Prompt

Score: TypeAlias = Callable[[Prompt, Answer], float]
"""A function that scores an answer to a prompt; more is better."""


def find_reward(ledger: Ledger) -> Score | None:
    """The reward of a run's simulated panel as a function; None if there is none at hand.

    It is only for people who look at a run. Rewards that need the base model are left out.
    """
    panel = ledger.spec.get("config", {}).get("panel", {})
    if panel.get("kind", "people") in ("people", "judge", FUNCTION):
        return None
    try:
        parse = plugins.load("szpo.rewards", "parse", "reward reader")
        reward = parse(str(panel["reward"]))
    except (SzpoError, KeyError):
        return None
    score: Score = reward.score
    return score
