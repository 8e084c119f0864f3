"""The loop that turns a policy, an evaluator and a ledger into a run.

Each pass finishes one step: plan, generate, open, wait for votes, close, tell, apply. The ledger
is the truth: whatever was reached is found there, so a killed run goes on where it stood, and
calling `run` again continues.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from szpo import seeds
from szpo.data.text_files import clean
from szpo.errors import IntegrityError, RunError, UsageError
from szpo.evaluators.protocol import Evaluator
from szpo.failpoints import failpoint
from szpo.ledger import canonical, run_spec
from szpo.ledger.database import Clock, Ledger, Record
from szpo.optim import comparison_selection, momentum, optimizer, parameters, stopping
from szpo.optim.settings import Settings
from szpo.replay import replay
from szpo.training import budget, guards
from szpo.training.comparisons import Prompts, compare
from szpo.training.guards import Bands
from szpo.training.step_report import Outcome, StepReport, answers_read, flatten, plain
from szpo.types import Comparison, Info, Query, Theta
from szpo.voting import lease, steps, triads
from szpo.voting.ballots import ballots
from szpo.voting.counting import StepVotes
from szpo.voting.lease import Lease

if TYPE_CHECKING:
    from szpo.policies.protocol import Policy


CANARY_STEPS = 3
"""So many steps in a row with every answer alike on both sides are an error."""


def run(
    ledger: Ledger,
    policy: Policy,
    evaluator: Evaluator,
    *,
    prompts: Prompts,
    until_step: int | None = None,
    votes_budget: int | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    kl: Callable[[Theta], float] | None = None,
    bands: Bands | None = None,
    lag: int = 0,
    deadline_s: float | None = None,
    quorum: float | None = None,
    holder: str | None = None,
    lease_s: float = 60.0,
    held: Lease | None = None,
    wait: Callable[[], None] = lambda: time.sleep(0.2),
    clock: Clock | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Drive the run until ``until_step`` steps are applied or the next would pass the budget.

    ``policy`` may stand at θ₀ or after any step of this run; it is brought to the head. ``lag`` 1
    generates step t + 1 from the head after t − 1 while t is voted on. ``deadline_s`` closes a
    step with what there is so long after it opened, pauses not counted, once it has the share
    ``quorum`` of its votes. ``held`` is a lease that
    the caller keeps; without one the run is taken and given back. ``wait`` is called while votes
    are missing.

    Raises:
        LeaseError: another controller holds the run, or took it over.
        RunError: the canary (equal answers in three steps), a non-finite estimate.
        IntegrityError: the policy's weights are not the ledger's.
        UsageError: the policy, the prompts or the limits do not fit the run.
    """
    if until_step is None and votes_budget is None:
        raise UsageError("run: give until_step or votes_budget, else it would never end")
    if lag not in (0, 1):
        raise UsageError(f"run: lag is {lag}; it is 0 or 1")
    if clock is not None:
        ledger.clock = clock
    holding = contextlib.nullcontext(held) if held else lease.hold(ledger, holder, _us(lease_s))
    with holding as own:
        loop = _Loop(
            ledger, policy, evaluator, prompts, run_spec.recorded_settings(ledger), own,
            kl=kl, bands=bands or Bands(), lag=lag, deadline_s=deadline_s, quorum=quorum,
            wait=wait, timer=timer,
        )  # fmt: skip
        return loop.drive(until_step, votes_budget, on_step)


@dataclass(eq=False)
class _Loop:
    """One call of `run`: what it works with, and where it stands."""

    ledger: Ledger
    policy: Policy
    evaluator: Evaluator
    prompts: Prompts
    settings: Settings
    lease: Lease
    kl: Callable[[Theta], float] | None
    bands: Bands
    lag: int
    deadline_s: float | None
    quorum: float | None
    wait: Callable[[], None]
    timer: Callable[[], float]
    state: optimizer.State = field(init=False)
    theta: Theta = field(init=False)
    head: str = field(init=False)
    made: dict[int, dict[str, float]] = field(default_factory=dict)
    reading: budget.Reading = field(default_factory=budget.Reading)
    votes: StepVotes | None = None  # of the step at hand, read on at each look
    spent: int = 0
    read: int = 0
    generation_s: float = 0.0
    evaluation_s: float = 0.0

    def drive(
        self,
        until_step: int | None,
        votes_budget: int | None,
        on_step: Callable[[StepReport], None] | None,
    ) -> Outcome:
        self._take_up()
        per_step = self.settings.K * self.settings.N * self.settings.M
        while True:
            step = self.state.step
            lease.pause_if_due(self.ledger, step)
            if (paused := self._paused()) is not None:
                return paused
            row = self.ledger.step(step)
            if row is None or row["state"] not in ("open", "closed"):  # what is begun is finished
                limit = budget.reached(
                    self.ledger, step=step, votes=self.spent, per_step=per_step,
                    reading=self.reading,
                )  # fmt: skip
                if limit is not None:
                    return self._end("stopped", limit)
            if until_step is not None and step >= until_step:
                return self._end("finished", f"{step} steps are applied")
            if votes_budget is not None and self.spent + per_step > votes_budget:
                return self._end(
                    "finished",
                    f"{self.spent} of {votes_budget} votes spent, a step takes {per_step}",
                )
            started = self.timer()
            self.generation_s = self.evaluation_s = 0.0
            self._prepare(step)
            self._canary(step)
            comparisons = self.ledger.comparisons(step)
            if (stopped := self._ask(step, comparisons)) is not None:
                return stopped
            report = self._apply(step, comparisons, started)
            if report is not None and on_step is not None:
                on_step(report)

    # ---- taking the run up ----

    def _take_up(self) -> None:
        """State, weights and totals from the ledger; the policy is brought to its head."""
        ledger = self.ledger
        if self.policy.layout != self.settings.layout:
            raise UsageError("run: the policy's layout is not that of the ledger")
        self.state = replay.retell(ledger, self.settings)
        self._catch_up()
        total = ledger.query("SELECT coalesce(sum(n_votes), 0) AS total FROM updates")[0]["total"]
        self.spent = round(total)
        self.read = sum(event["body"].get("answers_read", 0) for event in ledger.events("step"))
        for row in ledger.steps()[: self.state.step]:
            self._count_void(row)

    def _count_void(self, row: Record) -> None:
        """A step that was closed and then made void has cost its votes all the same."""
        if row["state"] == "void" and row["closed_by"] is not None:
            votes = self._votes(row["step"])
            self.spent += len(votes.counted)
            self.read += answers_read(votes.standing, self.ledger.comparisons(row["step"]))

    def _catch_up(self) -> None:
        ledger = self.ledger
        heads, found = ledger.heads(), self.policy.digest()
        self.head = heads[-1]
        if found not in heads:
            raise IntegrityError(
                f"{ledger.path.name}: the policy's weights ({found[:12]}) are not those of this "
                "run at any step; build it anew from the run's settings"
            )
        # The same weights may occur twice (a warm-up moves nothing): any of the places will do.
        place = heads.index(found)
        for number, (_, updates) in enumerate(replay.added(ledger, self.settings)):
            for update in updates if number >= place else ():
                self.policy.apply(update)
        self.theta = {name: np.array(value) for name, value in self.policy.theta().items()}
        self._same_weights("taking the run up")

    def _same_weights(self, when: str) -> None:
        own = parameters.digest(self.theta, self.settings.layout, self.ledger.basis_sha256)
        found = self.policy.digest()
        if own != self.head or found != self.head:
            raise IntegrityError(
                f"{when}: the policy's weights are {found[:12]}, the ledger's {self.head[:12]}; "
                "build the policy anew and resume"
            )

    # ---- plan, generate, open ----

    def _prepare(self, step: int) -> None:
        """Bring a step to the state open (or further, if it was)."""
        self._generate(step, then_open=self.lag == 0 or step == 0)
        row = self._row(step)
        if row["state"] == "generating":  # stored while the step before was voted on
            with self.ledger.transaction("controller"):
                steps.open_step(self.ledger, self.lease.epoch, step)
                self._plan_ahead(step + 1)

    def _plan_ahead(self, step: int) -> None:
        """With lag, the plan of the next step is fixed as this one opens.

        So no kill, and no later run without lag, can plan it from another head.
        """
        if self.lag and self.ledger.step(step) is None:
            query = optimizer.ask(self.state, step)
            steps.record_plan(self.ledger, self.lease.epoch, self.settings, query, self.head)

    def _generate(self, step: int, *, then_open: bool) -> None:
        ledger, epoch = self.ledger, self.lease.epoch
        row = ledger.step(step)
        if row is not None and (
            row["state"] not in ("planned", "generating") or steps.stored(ledger, step)
        ):
            return
        failpoint("cp1")
        with ledger.transaction("controller"):
            if row is None:
                query = optimizer.ask(self.state, step)
                steps.record_plan(ledger, epoch, self.settings, query, self.head)
            if not steps.begin(ledger, epoch, step):
                return  # void
        failpoint("cp2")
        query = self._query(step)
        prompts = tuple(clean(prompt) for prompt in self.prompts(step))
        size = self.settings.made * self.settings.D
        if len(prompts) != self.settings.K * size:
            letters = "K·N·D" if self.settings.selection is None else "K·C·D"
            raise UsageError(
                f"step {step}: {len(prompts)} prompts given, {letters} = "
                f"{self.settings.K * size} are needed"
            )
        shifts = [shift for pair in query.shifts for shift in pair]
        asked = [prompts[shift.k * size : (shift.k + 1) * size] for shift in shifts]
        key = seeds.derive(self.settings.root_seed, "rollout", step=step)
        started = self.timer()
        batches = self.policy.rollout(asked, shifts, seed=seeds.as_seed(key))
        failpoint("cp3")
        took = self.timer() - started
        self.generation_s += took
        candidates = compare(self.settings, step, asked, batches)
        comparisons, selected = comparison_selection.pick(self.settings, step, candidates)
        notes = {**guards.figures(comparisons), "generation_s": took}
        head = self.policy.digest()
        with ledger.transaction("controller"):
            answers = steps.StepAnswers(step, comparisons, head, {**notes, **selected})
            stored = steps.store(ledger, epoch, answers, then_open=then_open)
            if stored and then_open:
                self._plan_ahead(step + 1)
        self.made[step] = notes

    def _query(self, step: int) -> Query:
        return optimizer.query(self.settings, step, self._row(step)["mu"])

    def _canary(self, step: int) -> None:
        first = step - CANARY_STEPS + 1
        unlike = self.ledger.query(
            "SELECT count(*) AS n, coalesce(sum(identical = 0), 0) AS unlike FROM comparisons "
            "WHERE run = ? AND kind = 'train' AND step BETWEEN ? AND ?",
            (self.ledger.run, first, step),
        )[0]
        if first >= 0 and unlike["n"] and not unlike["unlike"]:
            raise RunError(
                f"steps {first}–{step}: plus and minus gave equal answers in every row at mu = "
                f"{self._row(step)['mu']:.3g}; the perturbation does not reach the model, or is "
                "far too small"
            )

    # ---- ask and wait ----

    def _ask(self, step: int, comparisons: Sequence[Comparison]) -> Outcome | None:
        """Wait until the step is closed; an outcome if the run was paused meanwhile."""
        ledger = self.ledger
        asked = any(not c.identical for c in comparisons)
        if (paused := self._paused()) is not None:
            return paused
        if self._row(step)["state"] == "open" and asked:
            self._submit(step, comparisons)
        # A step planned under lag 1 keeps its head, also when the run goes on without lag.
        if self.lag or ledger.step(step + 1) is not None:
            self._generate(step + 1, then_open=False)
        while True:
            row = self._row(step)
            if row["state"] != "open":
                return None  # closed by the rule, an operator, or before a crash
            if (paused := self._paused()) is not None:
                return paused
            self._evaluating(lambda: self.evaluator.collect(step))
            if not asked:
                steps.close(ledger, step, self._closing("auto"))
            elif not (
                steps.close(ledger, step, self._closing("rule"), votes=self._votes(step))
                or self._overdue(row)
                or self._enough(step)
            ):
                self._evaluating(self.wait)
                lease.check(ledger, self.lease)

    def _submit(self, step: int, comparisons: Sequence[Comparison]) -> None:
        """Ask for all votes; with a price of votes for one comparison after the other."""
        whole = self.settings.vote_price is None
        for part in [comparisons] if whole else [(c,) for c in comparisons]:
            if self._enough(step):
                return
            self._evaluating(functools.partial(self.evaluator.submit, part))

    def _enough(self, step: int) -> bool:
        """Close a step that has a vote and whose next one is not worth its price."""
        settings, price = self.settings, self.settings.vote_price
        if price is None or not (votes := self._votes(step)).counted:
            return False
        tally = votes.tally(settings.K, settings.N)
        worth = float(stopping.worth_asking(self.state, self._query(step), tally).max())
        reason = f"a further vote is expected to gain {worth:.3g}, its price is {price:g}"
        closing = self._closing("operator", reason=reason)
        return worth < price and steps.close(self.ledger, step, closing)

    def _evaluating(self, act: Callable[[], object]) -> None:
        started = self.timer()
        act()
        self.evaluation_s += self.timer() - started

    def _overdue(self, row: Record) -> bool:
        """Close a step whose deadline has passed, with what there is; False if that must wait."""
        if self.deadline_s is None or row["opened_us"] is None or (
            self.ledger.clock() < steps.deadline_us(self.ledger, row, self.deadline_s)
        ):  # fmt: skip
            return False
        closing, votes = self._closing("deadline"), self._votes(row["step"])
        return steps.close(self.ledger, row["step"], closing, votes=votes)

    def _closing(self, by: steps.ClosedBy, reason: str | None = None) -> steps.Closing:
        quorum = self.quorum if by == "deadline" else None
        return steps.Closing(by, epoch=self.lease.epoch, reason=reason, quorum=quorum)

    # ---- tell and apply ----

    def _apply(
        self, step: int, comparisons: Sequence[Comparison], started: float
    ) -> StepReport | None:
        ledger, settings, row = self.ledger, self.settings, self._row(step)
        if row["state"] == "void":
            self._pass_over(row)
            return None
        votes = self._votes(step)
        counted, tally = votes.counted, votes.tally(settings.K, settings.N)
        voters = ballots(ledger, settings, step, counted, tally)
        query = self._query(step)
        state, updates, info = optimizer.tell(self.state, query, tally, ballots=voters)
        failpoint("cp9")
        reach = settings.momentum_terms if settings.momentum else 0
        recent = [u for u in ledger.updates(step) if u.step >= step - reach] if reach else []
        added = momentum.fold(settings, [*recent, *updates], step)
        theta = self.theta
        for update in added:
            theta = parameters.applied(settings.space, theta, update)
        head = parameters.digest(theta, settings.layout, ledger.basis_sha256)
        report = self._report(row, comparisons, votes, info, theta, head)
        notes = {**asdict(report), **report.figures, "figures": None, "seconds": None}
        if strange := self.bands.not_finite(asdict(report)):  # JSON has no NaN: null is "unknown"
            notes["not_finite"] = strange
        with ledger.transaction("controller"):  # a guard's pause is never lost to a crash
            result = steps.StepResult(
                updates, settings.rule, info, tally, report.votes_sha256, theta_sha256=head
            )
            all_notes = plain({**notes, **self._seconds(started)})
            done = steps.apply(ledger, self.lease.epoch, result, all_notes)
            if done and (broken := self.bands.broken(asdict(report))) is not None:
                lease.pause(ledger, f"guard {broken[0]}", f"after step {step}: {broken[1]}")
        if not done:
            self._pass_over(self._row(step))
            return None
        # From here on the step is done; what follows is a function of the ledger.
        failpoint("cp11")
        self.theta, self.head, self.state = theta, head, state
        self.spent, self.read = report.total_votes, report.total_answers_read
        failpoint("cp12")
        for update in added:
            self.policy.apply(update)
        self._same_weights(f"after step {step}")
        return replace(report, seconds=self._seconds(started))

    def _pass_over(self, row: Record) -> None:
        """A void step moves nothing."""
        self._count_void(row)
        self.state = replay.advance(self.ledger, self.settings, self.state)

    def _seconds(self, started: float) -> dict[str, float]:
        total = self.timer() - started
        return {
            "generation_s": self.generation_s,
            "evaluation_s": self.evaluation_s,
            "other_s": max(0.0, total - self.generation_s - self.evaluation_s),
        }

    def _report(
        self,
        row: Record,
        comparisons: Sequence[Comparison],
        votes: StepVotes,
        info: Info,
        theta: Theta,
        head: str,
    ) -> StepReport:
        counted, standing = votes.counted, votes.standing
        read = answers_read(standing, comparisons)
        flat = flatten(theta, self.settings.layout)
        figures = self._figures(row["step"], comparisons)
        return StepReport(
            step=row["step"],
            delta=info.delta,
            stderr=tuple(steps.finite(value) for value in info.stderr),
            win_rate=info.win_rate,
            votes=len(counted),
            ties=sum(vote.verdict == "tie" for vote in counted),
            skips=sum(vote.verdict == "skip" for vote in standing),
            automatic_ties=sum(c.identical for c in comparisons),
            answers_read=read,
            total_votes=self.spent + len(counted),
            total_answers_read=self.read + read,
            kl=None if self.kl is None else float(self.kl(theta)),
            length=figures["length"],
            repetition=figures["repetition"],
            identical=figures["identical"],
            norm=float(np.linalg.norm(flat)),
            moved=float(np.linalg.norm(flat - flatten(self.theta, self.settings.layout))),
            mu=row["mu"],
            alpha=(info.extra or {}).get("alpha"),
            kl_radius=info.kl_radius,
            flip_share=info.flip_share,
            capped=info.capped,
            warmup=info.warmup,
            closed_by=row["closed_by"],
            theta_sha256=head,
            votes_sha256=canonical.votes_sha256(counted),
            figures=figures,
            seconds={},
            extra=plain({**(info.extra or {}), **triads.note(self.ledger)}),
        )

    def _figures(self, step: int, comparisons: Sequence[Comparison]) -> dict[str, float]:
        """As measured when the answers were made: token counts are not stored with the texts."""
        if step not in self.made:
            for event in self.ledger.events("generated"):
                self.made[event["body"].pop("step")] = event["body"]
        return self.made.get(step) or guards.figures(comparisons)

    # ---- small things ----

    def _votes(self, step: int) -> StepVotes:
        """The votes of a step as they stand now."""
        if self.votes is None or self.votes.step != step:
            self.votes = StepVotes(self.ledger, step)
        return self.votes.look()

    def _row(self, step: int) -> Record:
        row = self.ledger.step(step)
        if row is None:
            raise IntegrityError(f"step {step} is missing from {self.ledger.path.name}")
        return row

    def _paused(self) -> Outcome | None:
        flags = lease.controller(self.ledger)
        if flags["paused_by"] is None:
            return None
        return self._end("paused", f"{flags['paused_by']}: {flags['pause_reason']}")

    def _end(self, status: Literal["finished", "paused", "stopped"], reason: str) -> Outcome:
        return Outcome(status, reason, self.state.step, self.spent)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
