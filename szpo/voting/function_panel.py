"""A panel whose votes come from a plain Python function; the hidden reward of a simulated one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from szpo import plugins, seeds
from szpo.config.schema import Config
from szpo.errors import RunError, SzpoError, UsageError
from szpo.ledger.database import Ledger
from szpo.types import Answer, Choice, Comparison, Prompt
from szpo.voting import steps
from szpo.voting.evaluator import NobodyLeftError
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.seats import Letter
from szpo.voting.service import VoteService

FUNCTION: Final = "function"
"""The ``panel.kind`` of runs in which a Python function votes."""
Better: TypeAlias = Callable[[Any, Any, Any], str | float | None]
"""``better(prompt, a, b)`` gets a prompt's last turn and two answers to it, as texts. Where
verdicts are on batches it is ``better(prompts, a, b)`` and gets lists of these.

It returns "a", "b" or "tie", or the probability from 0 to 1 that a is better, or None or "skip" to
abstain. With a probability, the vote is drawn by the run's own random numbers.
"""
SHARES: Final[Mapping[str, float]] = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""The words that a function may return, with the share of the vote that goes to batch a."""
TRIES: Final = 3
"""How often a function is asked that returns a text which is no vote."""
MAX_EMPTY_STEPS: Final = 3
"""A run ends after this many steps in a row without any vote."""
NO_FUNCTION: Final = (
    "the votes of this run come from a Python function; go on with it by "
    "szpo.Tuner.resume(ledger, better)"
)


@dataclass(frozen=True, slots=True)
class FunctionJudge:
    """A panelist that asks the function."""

    better: Better
    rows: bool = False
    """It is asked about two answers, not about two batches."""

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """Ask the function, with batch plus as a or b according to ``plus_side``."""
        plus = [row.plus.text for row in comparison.rows]
        minus = [row.minus.text for row in comparison.rows]
        a, b = (plus, minus) if plus_side == "A" else (minus, plus)
        prompts = [row.prompt.text for row in comparison.rows]
        return read_choice(_ask(self.better, self.rows, prompts, a, b), key)


def check_function(better: object) -> None:
    """Check that ``better`` can be called; None means no function."""
    if better is not None and not callable(better):
        raise UsageError(f"better: {better!r} is no function; give better(prompt, a, b)")


def _ask(better: Better, rows: bool, prompts: list[str], a: list[str], b: list[str]) -> object:
    """What the function returns; asked again after a text that is no vote, a typo."""
    for left in reversed(range(TRIES)):
        answer = better(prompts[0], a[0], b[0]) if rows else better(prompts, a, b)
        try:
            read_share(answer)
        except UsageError as error:
            if not left or not isinstance(answer, str):
                raise
            print(error)
        else:
            break
    return answer


def read_share(answer: object) -> float | None:
    """Turn a function's answer into the share of the vote for batch a, 0 to 1; a tie is .5.

    None if the function abstains.

    >>> [read_share(each) for each in ("a", "tie", 0.75, "B", "skip", True)]
    [1.0, 0.5, 0.75, 0.0, None, 1.0]
    """
    if answer is None or (isinstance(answer, str) and answer.strip().lower() == "skip"):
        return None
    if isinstance(answer, str) and (word := answer.strip().lower()) in SHARES:
        return SHARES[word]
    if isinstance(answer, str) or not hasattr(answer, "__float__"):
        raise _refuse(answer)
    share = float(answer)
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise _refuse(answer)
    return share


def read_choice(answer: object, key: bytes) -> Choice:
    """Turn a function's answer into a vote; with a probability, the vote is drawn by the key.

    >>> [read_choice(each, bytes(16)) for each in ("a", "tie", 1.0, 0, None)]
    ['A', 'tie', 'A', 'B', 'skip']
    """
    share = read_share(answer)
    if share is None:
        return "skip"
    if isinstance(answer, str):
        return "A" if share == 1 else "B" if share == 0 else "tie"
    return "A" if float(seeds.uniform(key, 1)[0]) < share else "B"


def _refuse(answer: object) -> UsageError:
    return UsageError(
        f'better: the function returned {answer!r}; return "a" or True, "b" or False, "tie", the '
        "probability that a is better (0 to 1), or None to abstain"
    )


@dataclass(frozen=True, slots=True)
class FunctionEvaluator:
    """Asks the function; comparisons from which it abstains are left out of their step."""

    panel: PanelEvaluator

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Ask the function about these comparisons."""
        try:
            self.panel.submit(comparisons)
        except NobodyLeftError:
            ledger, step = self.panel.service.ledger, comparisons[0].step
            how = steps.Closing("operator", actor=FUNCTION, reason="the function abstained")
            steps.close(ledger, step, how)
            sql = "SELECT sum(n_votes) AS n, min(step) AS first FROM updates WHERE step > ?"
            (past,) = ledger.query(sql, (step - MAX_EMPTY_STEPS,))
            empty = past["n"] == 0 and past["first"] == step - MAX_EMPTY_STEPS + 1
            if empty and not self.panel.service.counted(step):
                raise RunError(
                    "better: the function abstained from every pair of steps "
                    f"{step - MAX_EMPTY_STEPS + 1} to {step}; nothing can be learned from it"
                ) from None

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has stored every answer."""


@dataclass(frozen=True, slots=True)
class FunctionPanel:
    """A panel of ``size`` panelists who all ask one function, and also its own factory."""

    better: Better | None = None
    """The function; None where the run is only read."""
    size: int = 1
    rows: bool = False
    """It is asked about two answers, not about two batches."""

    @property
    def judges(self) -> tuple[FunctionJudge, ...]:
        """One per panelist."""
        if self.better is None:
            raise UsageError(NO_FUNCTION)
        return (FunctionJudge(self.better, self.rows),) * self.size

    def compare(
        self,
        prompts: Sequence[Prompt],
        tuned: Sequence[Answer],
        base: Sequence[Answer],
        *,
        side: Letter,
    ) -> float:
        """The share of the function's vote for the tuned batch, which is shown on ``side``.

        Batches with equal texts are a tie, and the function is not asked. If it abstains, the
        share is .5.
        """
        if self.better is None:
            raise UsageError(NO_FUNCTION)
        first, second = [answer.text for answer in tuned], [answer.text for answer in base]
        if first == second:
            return 0.5
        asked = [prompt.text for prompt in prompts]
        shown = (first, second) if side == "A" else (second, first)
        share = read_share(_ask(self.better, self.rows, asked, *shown))
        if share is None:
            return 0.5
        return share if side == "A" else 1 - share

    @property
    def spec(self) -> Mapping[str, Any]:
        """The function's name, for the run's record."""
        name = getattr(self.better, "__qualname__", type(self.better).__name__)
        return {"panel": FUNCTION, "function": name, "size": self.size}

    def evaluator(self, service: VoteService) -> FunctionEvaluator:
        """The panel as an evaluator over a vote service."""
        return FunctionEvaluator(PanelEvaluator(service, self.judges))

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Refuse a run without a function to vote in it."""
        if self.better is None:
            raise UsageError(
                'panel.kind "function" needs a Python function: szpo.Tuner(model, prompts, better)'
            )

    def build(
        self, config: Config, start: Any, recorded: Mapping[str, Any] | None = None
    ) -> FunctionPanel:
        """The panel of these settings; without a function it can be described, but not asked."""
        return FunctionPanel(self.better, config.panel.size, config.asks_rows)

    def __str__(self) -> str:
        return f"panel: the function {self.spec['function']}, {self.size} panelists"


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
        reward = plugins.read_reward(str(panel["reward"]))
    except (SzpoError, KeyError):
        return None
    score: Score = reward.score
    return score
