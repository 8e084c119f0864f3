"""A small policy whose answers contain a number, for tests of runs without a model or torch."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from szpo import seeds
from szpo.config.optimizer import make_settings, record_settings
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.settings import Settings
from szpo.runs import controller
from szpo.runs.assemble import RunParts
from szpo.runs.services import Services, prompt_order
from szpo.types import Answer, Batch, Choice, Comparison, Prompt, Query, Shift, Theta, Update
from szpo.voting import applied_step, lease, step_states
from szpo.voting.evaluator import Judge
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService

LAYOUT = (("z", (4,)),)
WIDE = (("a", (6, 4)), ("b", (3,)))
PROMPTS = tuple(Prompt.user(f"Question {i}?") for i in range(24))


class QuadraticPolicy:
    """Answers with −|θ − 1|² plus noise; θ = 1 is best."""

    def __init__(self, settings: Settings, basis_sha256: str | None = None):
        self.layout = settings.layout
        self.dim = settings.dim
        self.space = Space(settings.root_seed, settings.layout, settings.law)
        self.basis_sha256 = basis_sha256
        self.theta_now: Theta = parameters.zeros(settings.layout)
        self.rollouts = 0
        self.dead = False
        """If true, all shifts give the same answers, as with a broken engine."""

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        self.rollouts += 1
        batches = []
        for i, (asked, shift) in enumerate(zip(prompts, shifts, strict=True)):
            moved = parameters.shift(self.space, self.theta_now, shift)
            at = self.theta_now if self.dead else moved
            flat = np.concatenate([at[name].ravel() for name, _ in self.layout]).astype(float)
            value = -float(((flat - 1) ** 2).mean())
            key = seeds.derive(seed, "noise", k=0 if self.dead else i)
            noise = seeds.uniform(key, len(asked))
            batches.append(tuple(Answer(f"value {value + 0.1 * u:.6f}", tokens=2) for u in noise))
        return batches

    def apply(self, update: Update) -> None:
        self.theta_now = parameters.apply_update(self.space, self.theta_now, update)

    def digest(self) -> str:
        return parameters.digest(self.theta_now, self.layout, self.basis_sha256)

    def theta(self) -> Theta:
        return self.theta_now


class ValueJudge:
    """Prefers the larger mean number, by Bradley–Terry with β; skips and ties at these rates."""

    def __init__(self, beta: float = 5.0, skips: float = 0.0, ties: float = 0.0):
        self.beta, self.skips, self.ties = beta, skips, ties

    def gap(self, comparison: Comparison) -> float:
        """Preference for plus, in logits."""
        values = [
            np.mean([float(getattr(row, side).text.split()[1]) for row in comparison.rows])
            for side in ("plus", "minus")
        ]
        return self.beta * float(values[0] - values[1])

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: str, key: bytes
    ) -> Choice:
        chance = special.expit(self.gap(comparison))
        wins, skips = seeds.uniform(key, 2)
        if skips < self.skips:
            return "skip"
        if wins < self.ties:
            return "tie"
        plus = wins < chance
        return "A" if plus == (plus_side == "A") else "B"


class Clock:
    """A clock that advances a millisecond with each reading."""

    def __init__(self, start_us: int = 1_700_000_000_000_000):
        self.now = start_us

    def __call__(self) -> int:
        self.now += 1000
        return self.now

    def seconds(self) -> float:
        """The same time in seconds, as the monotonic clock of a run's deadlines."""
        return self.now / 1e6


def settings_of(layout: Any = LAYOUT, root_seed: int = 11, **changes: Any) -> Settings:
    return make_settings(root_seed, layout, **{"rule": "known", "N": 4, "D": 2, **changes})


def new_ledger(
    path: Path, settings: Settings, clock: Callable[[], int] | None = None, *,
    spec: dict[str, Any] | None = None, **changes: Any,
) -> Ledger:  # fmt: skip
    """The ledger of a run before its first step, with further fields of its spec and `NewRun`."""
    whole = {"szpo": "test", **(spec or {}), "optimizer": record_settings(settings)}
    made = {
        "root_seed": settings.root_seed, "layout": settings.layout,
        "run": "run-1", **changes,
    }  # fmt: skip
    return Ledger.create(path, NewRun(whole, **made), clock=clock or Clock())


def open_step(
    ledger: Ledger,
    settings: Settings,
    asked: Sequence[Comparison],
    *,
    mu: float = 0.5,
    epoch: int | None = None,
) -> int:
    """Open the step of these comparisons; returns the epoch (a new one unless given)."""
    epoch = lease.acquire(ledger, "test").epoch if epoch is None else epoch
    step, head = asked[0].step, theta_digest(ledger)
    step_states.record_plan(ledger, epoch, settings, Query(step, (), mu, None), head)
    step_states.begin(ledger, epoch, step)
    step_states.store(ledger, epoch, step, asked, head, then_open=True)
    return epoch


def panel_of(ledger: Ledger, panelists: int = 5, judge: Judge | None = None) -> PanelEvaluator:
    return PanelEvaluator(VoteService(ledger), [judge or ValueJudge()] * panelists)


def prompts_of(settings: Settings) -> Callable[[int], Sequence[Prompt]]:
    return prompt_order(PROMPTS, settings)


def start(
    tmp_path: Path, name: str = "run.db", layout: Any = LAYOUT, **changes: Any
) -> tuple[Settings, Ledger, QuadraticPolicy]:
    """A new run: its settings, its ledger, a policy at the start."""
    settings = settings_of(layout, **changes)
    return settings, new_ledger(tmp_path / name, settings), QuadraticPolicy(settings)


def go(
    settings: Settings, ledger: Ledger, policy: QuadraticPolicy, evaluator: Any = None,
    **arguments: Any,
) -> applied_step.Outcome:  # fmt: skip
    """Drive the run, by default for four steps; ``arguments``: those of `Services`."""
    how = {"until_step": 4, "prompts": prompts_of(settings), **arguments}
    return controller.run(Services(ledger, policy, evaluator or panel_of(ledger), **how))


def parts_of(
    settings: Settings, policy: QuadraticPolicy, prompts: PromptSet, *, again: bool = True
) -> RunParts:
    """The parts that draw answers for orders; ``again``: another such policy can be made."""

    def maker(root_seed: int) -> QuadraticPolicy:
        return type(policy)(settings)

    return RunParts(Config(), settings, policy, prompts, maker=maker if again else None)


def history(ledger: Ledger) -> list[tuple[int, str, str]]:
    """(step, votes_sha256, theta_sha256) of every applied step; equal for the same run."""
    rows = ledger.update_rows()
    return [
        (step, *next((r["votes_sha256"], r["theta_sha256"]) for r in group))
        for step, group in itertools.groupby(rows, key=lambda row: row["step"])
    ]


PLAIN = {"rule": "regression", "N": 1, "D": 2, "centre_step": 0.3,
         "kl_budget": 2.0}  # fmt: skip


class MovingPolicy(QuadraticPolicy):
    """A policy that can be moved to any θ."""

    def move_to(self, theta):
        self.theta_now = {name: np.array(value) for name, value in theta.items()}


def started(tmp_path, name="run.db", **changes):
    """A run that is driven step by step."""
    settings = settings_of(**{**PLAIN, **changes})
    ledger = new_ledger(tmp_path / name, settings)
    return settings, ledger, MovingPolicy(settings)


def kl(theta):
    """A measured KL: three times the quadratic estimate |z|²/2."""
    return 1.5 * float((theta["z"].astype(float) ** 2).sum())


def drive(settings, ledger, policy, **how):
    return go(settings, ledger, policy, panel_of(ledger, judge=ValueJudge(20.0)), **how)
