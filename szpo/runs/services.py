"""The services that drive a run, and its position after the finished steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from szpo import seeds
from szpo.errors import IntegrityError, UsageError
from szpo.features.dictionary import Entry
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import theta_digests
from szpo.optim import parameters
from szpo.optim.named_features import NamedFeatures
from szpo.optim.optimizer import State, rule_of
from szpo.optim.settings import Settings
from szpo.replay import replay
from szpo.runs.guards import Bands
from szpo.types import Answer, Prompt, Theta
from szpo.voting import shown_features
from szpo.voting.applied_step import StepReport
from szpo.voting.evaluator import Evaluator
from szpo.voting.lease import Lease

if TYPE_CHECKING:
    from szpo.policies.protocol import Policy


ASIDE: Final = 32
"""Most training prompts that are set aside to check improved weights on."""
DIVISIBLE: Final = 8
"""With fewer training prompts none is."""
Prompts = Callable[[int], Sequence[Prompt]]
"""Maps a step to its K·N·D prompts; `prompt_order` makes one from a list.

A step of r · N comparisons takes the prompts of r steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """The run's state before its next step."""

    state: State
    theta: Theta
    """The recommended point, which is shown, measured and exported."""
    centre: Theta
    """The point where the run asks and the policy is; it is θ unless the rule has two points."""
    centre_sha256: str
    """SHA-256 of the centre in canonical form."""
    votes: int
    """Counted votes so far."""

    @property
    def step(self) -> int:
        """The step to do next."""
        return self.state.step


def resume(ledger: Ledger, settings: Settings, policy: Policy) -> Position:
    """Read the position from the ledger, and move the policy to its centre."""
    if policy.layout != settings.layout:
        raise UsageError(
            f"{ledger.path.name}: the policy's layout is not that of this run; build the policy "
            "from the run's settings"
        )
    state = replay.replay_state(ledger, settings)
    heads, found = theta_digests(ledger), policy.digest()
    if found not in heads:
        raise IntegrityError(
            f"{ledger.path.name}: the policy's weights ({found[:12]}) are not those of this "
            "run at any step; build it again from the run's settings"
        )
    # The same weights may occur twice (a warm-up moves nothing); any of the places is right.
    replay.apply_recorded(ledger, settings, policy, point="centre", done=heads.index(found))
    centre = {name: np.array(value) for name, value in policy.theta().items()}
    theta = replay.fold_updates(ledger) if rule_of(settings.section.rule).two_points else centre
    at = Position(state, theta, centre, heads[-1], round(ledger.votes_applied()))
    check_weights(ledger, policy, at, "taking the run up")
    return at


def check_weights(ledger: Ledger, policy: Policy, at: Position, when: str) -> None:
    """Compare the policy's weights and the position's centre with the ledger."""
    own = parameters.digest(at.centre, policy.layout, ledger.basis_sha256)
    found = policy.digest()
    if own != at.centre_sha256 or found != at.centre_sha256:
        raise IntegrityError(
            f"{when}: the policy's weights are {found[:12]}, the ledger's "
            f"{at.centre_sha256[:12]}; build the policy again and resume"
        )


def prompt_order(pool: Sequence[Prompt], settings: Settings) -> Prompts:
    """Training prompts in seeded permutations, one per epoch, with K·N·D prompts a step."""
    if not pool:
        raise UsageError("prompts: the training set is empty; give at least one prompt")
    prompts, per_step = tuple(pool), settings.section.K * settings.section.N * settings.section.D

    def of(step: int) -> tuple[Prompt, ...]:
        order = seeds.endless_order(
            len(prompts),
            per_step,
            lambda epoch: seeds.derive(settings.root_seed, "prompts", step=epoch),
            first=step * per_step,
        )
        return tuple(prompts[i] for i in order)

    return of


def set_aside(pool: Sequence[Prompt], root_seed: int) -> tuple[tuple[Prompt, ...], ...]:
    """Training prompts that improving may use, and a quarter, at most `ASIDE`, to check it on.

    >>> [len(part) for part in set_aside([Prompt.user(str(i)) for i in range(9)], 0)]
    [7, 2]
    """
    most = ASIDE if len(set(pool)) >= DIVISIBLE else 0
    return seeds.split(pool, seeds.derive(root_seed, "set aside"), most, 4)


def seconds() -> float:
    """Seconds since some fixed moment, including sleep where the system counts it."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True, eq=False)
class Services:
    """Everything that one call of `run` works with, except the run's `Position`."""

    ledger: Ledger
    """The run, opened for writing."""
    policy: Policy
    """At θ₀ or after any step of this run; `run` moves it to the head."""
    evaluator: Evaluator
    """Answers the comparisons of each step."""
    prompts: Prompts
    """The prompts of each step, as from `prompt_order`."""
    until_step: int | None = None
    """The run is finished after this many applied steps, including those of earlier calls.

    This and the budget hold until votes are added (`szpo.runs.budget.add_votes`)."""
    votes_budget: int | None = None
    """The run is finished once the next step could take the counted votes above this."""
    lag: int = 0
    """1: the answers of step t + 1 come from the weights after t − 1, while t is voted on."""
    deadline_s: float | None = None
    """A step is closed this long after it opened, with the votes it has; pauses do not count."""
    bands: Bands = field(default_factory=Bands)
    """Figures of a step outside their bands pause the run."""
    wait: Callable[[], None] = lambda: time.sleep(0.2)
    """Called between two reads of the ledger while votes are missing."""
    on_step: Callable[[StepReport], None] = lambda report: None
    """Called with the report of every applied step."""
    kl: Callable[[Theta], float] | None = None
    """Cheap estimate of the KL of the policy at θ to its start, nats per completion."""
    measured_kl: Callable[[Theta], float] | None = None
    """The same KL measured on answers: for a guard, for rules that keep a point within a budget,
    and for reports where the estimate is too rough; None where it cannot be measured."""
    entries: Mapping[str, Entry] | None = None
    """Counts the run's named features, and maybe others; None without them, or to look them up."""
    features: Callable[[], NamedFeatures] | None = None
    """Reads the start's answers for the features of a run that is still to draw them."""
    guide: Callable[[int, int], object] = lambda step, epoch: None
    """Renews what guides directions from a step on, where that is due; called before its plan."""
    timer: Callable[[], float] = seconds
    """Seconds that do not jump with the system clock: for deadlines and durations in reports."""
    repeats: float = 0.0
    """Share of the rows that show an earlier row again, where rows are chosen."""
    sheet: int | None = None
    """Rows of a sheet, where a round has one for each panelist present; None: rounds keep N."""
    checks: float = 0.0
    """Share of the rows that compare adopted weights with the start, where rows are chosen."""
    aside: Sequence[Prompt] = ()
    """The prompts of these rows, as from `set_aside`."""
    evens: bool = False
    """Pairs of about equally long answers come first, while votes are not about length."""
    check: Callable[[Sequence[tuple[Prompt, Answer]]], None] | None = None
    """Reads the first round's answers before they are stored, and may pause the run, which writes
    them even while it is paused; None: they are not read."""
    lease: Lease | None = None
    """A lease that the caller holds; None: the run takes its own and gives it back."""

    def __post_init__(self) -> None:
        if self.until_step is None and self.votes_budget is None:
            raise UsageError("run: give until_step or votes_budget, or it never ends")
        if self.lag not in (0, 1):
            raise UsageError(f"run: lag is {self.lag}; it is 0 or 1")

    @property
    def settings(self) -> Settings:
        """The optimizer's settings, as recorded in the ledger."""
        return recorded_settings(self.ledger)

    @cached_property
    def counted_features(self) -> Mapping[str, Entry]:
        """What counts the run's named features; empty without them."""
        named = self.settings.described
        if self.entries is None:
            return {} if named is None else shown_features.entries_of(named)
        names = self.entries if named is None else named.names
        return {name: self.entries[name] for name in names if name in self.entries}

    @property
    def epoch(self) -> int:
        """The epoch of the lease under which the ledger is written; 0 without a lease."""
        return 0 if self.lease is None else self.lease.epoch

    def row(self, step: int) -> Record:
        """The ledger's row of a step."""
        row = self.ledger.step(step)
        if row is None:
            raise IntegrityError(f"step {step} is missing from {self.ledger.path.name}")
        return row
