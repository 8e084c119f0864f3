"""Guide `known` and `sign`: from the verdicts so far to a proposal, to the span of directions.

Every forty verdicts the taste that they teach so far, shown or not, proposes a difference of
weights by a policy gradient (`szpo.improvement.policy_gradient`) from where the policy is. The
latest proposals span the guided part of the directions from the next step on
(`szpo.optim.guided_directions`). Proposals move nothing: that is left to verdicts on two policies.

Where people vote, a proposal is made in turns of half a second while the run waits for them
(`szpo.background_work`), and guides from the next round on that is not planned yet.

What is proposed is recorded, not recomputed. Its seed is that of the run and the step, so a killed
run that proposes again finds the same on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo.analysis import run_taste
from szpo.background_work import Turns
from szpo.errors import EngineError, ResourceError, RunError, UsageError
from szpo.improvement import policy_gradient
from szpo.improvement.aims import score_of_taste
from szpo.improvement.policy_gradient import Pace
from szpo.ledger import guided_spans
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.guided_directions import EVERY, MOST
from szpo.optim.schedule import mu_at
from szpo.policies import span_measurement as measuring
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.span_measurement import Measured
from szpo.runs import setup_progress
from szpo.runs.assemble import RunParts
from szpo.runs.services import set_aside
from szpo.types import Progress, Say, Theta, unseen
from szpo.voting import lease, withdrawals
from szpo.voting.panel_factory import PEOPLE
from szpo.voting.withdrawals import Withdrawal

PACE: Final = Pace(steps=4)
"""How long a proposal is looked for."""
LEAST: Final = 1e-6
"""Weights that no proposal moves by more have no proposal."""


def due(ledger: Ledger, step: int, tried: float = 0.0) -> bool:
    """Whether a span is to be renewed before a step that is not planned yet.

    ``tried``: verdicts that were last asked what they propose.
    """
    settings = recorded_settings(ledger)
    if not settings.guides or settings.regressors is None or ledger.step(step) is not None:
        return False
    known = [event["body"]["verdicts"] for event in ledger.events(guided_spans.SPAN)]
    return bool(ledger.votes_applied() - max(tried, *known, 0) >= EVERY)


@dataclass(frozen=True, eq=False)
class Proposed:
    """What verdicts proposed, measured together with earlier proposals; nothing is recorded."""

    proposal: Theta
    of: range
    """Numbers of the span's proposals among all of the run."""
    measured: Measured
    notes: Mapping[str, Any]


def propose(
    ledger: Ledger,
    parts: RunParts,
    step: int,
    *,
    given: Sequence[str] = (),
    progress: Progress = unseen,
) -> Proposed | None:
    """What the verdicts before ``step`` propose, from where the run's policy is; it stays there.

    None: the policy has no gradient here, or the verdicts teach nothing. ``given``: the user's own
    features that are code, anew.

    Raises:
        RunError, UsageError: the model has no gradient that can be followed.
        ResourceError: memory does not hold one.
    """
    if parts.base is None or not parts.config.engine.is_local:
        return None
    settings, run = recorded_settings(ledger), parts.language
    verdicts, present = ledger.votes_applied(), run.theta()
    try:
        taste, _ = run_taste.read(ledger, given, anyway=True, before=ledger.next_event())
    except (RunError, UsageError):
        return None
    progress("what the votes so far propose", 0, 0)
    policy = LoraPolicy(  # of its own: others may use the run's meanwhile
        parts.base.loaded, run.subspace, root_seed=settings.root_seed, sampling=run.sampling,
        host=parts.base.host,
    )  # fmt: skip
    policy.move_to(present)
    seed = seeds.as_seed(seeds.derive(settings.root_seed, "improve", step=step))
    asked = set_aside(parts.prompts.train, settings.root_seed)[0]
    with policy_gradient.in_memory():
        proposal, made = policy_gradient.propose(
            policy, score_of_taste(taste, policy, given), asked, PACE, seed=seed
        )
    if max(float(np.abs(each).max()) for each in proposal.values()) < LEAST:
        return None
    earlier = [span.proposals[-1] for span in guided_spans.read(ledger)]
    first = max(0, len(earlier) + 1 - MOST)
    found = measuring.measure(
        parts.base.host, policy.subspace, present, (*earlier, proposal)[first:], asked,
        policy.sampling, mu=mu_at(settings, step), share=settings.section.guided, seed=seed,
        progress=lambda name, done, of: progress("how long a step along it may be", done, of),
    )  # fmt: skip
    if found is None:
        return None
    notes = {
        "verdicts": verdicts, "nats": found.nats, "taste_sha256": taste.sha256,
        "answers": made.answers + found.answers,
    }  # fmt: skip
    return Proposed(proposal, range(first, len(earlier) + 1), found, notes)


def record(ledger: Ledger, parts: RunParts, proposed: Proposed, step: int, epoch: int) -> None:
    """Let what was proposed guide directions from ``step`` on."""
    measured = proposed.measured
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        guided_spans.append(
            ledger, proposed.proposal, first=step, noise=measured.noise, of=proposed.of,
            mixing=measured.mixing, notes=proposed.notes,
        )  # fmt: skip
    parts.language.guide(guided_spans.read(ledger))


class Guiding:
    """Guides a run's directions by what its verdicts propose; close it where the run is left."""

    def __init__(self, ledger: Ledger, parts: RunParts, say: Say, *, waits: bool = False):
        """``waits``: the run waits for a proposal also where people vote."""
        self._ledger, self._parts, self._say = ledger, parts, say
        self._beside: Final = parts.config.panel.kind == PEOPLE and not waits
        self._turns: Turns[Proposed | None] | None = None
        self._withdrawn: tuple[Withdrawal, ...] = ()
        """Of when the proposal began."""
        self._tried = 0.0
        """Verdicts that were last asked what they propose."""
        self._over = False
        """The model has no gradient that can be followed."""

    def look(self, step: int, epoch: int) -> None:
        """Before a step is planned: take what was proposed, or begin a proposal that is due."""
        if self._ledger.step(step) is None:
            self._take(step, epoch)
        if self._over or self._turns is not None or not due(self._ledger, step, self._tried):
            return
        self._tried = self._ledger.votes_applied()
        self._withdrawn = tuple(withdrawals.withdrawals(self._ledger))
        work = partial(
            propose, self._ledger, self._parts, step, given=self._parts.given,
            progress=setup_progress.telling(self._say, of="guiding"),
        )  # fmt: skip
        with self._saying_why_not():
            self._turns = Turns(work, at_once=not self._beside)
            self._take(step, epoch)

    @property
    def at_work(self) -> bool:
        """Whether a proposal is being made beside the rounds, and the run is not paused."""
        moves = self._turns is not None and not self._turns.is_done
        return moves and not lease.is_paused(self._ledger)

    def wait(self, seconds: float) -> None:
        """Let the proposal that is being made move for so long."""
        assert self._turns is not None
        with self._saying_why_not():
            self._turns.move(seconds)

    def close(self) -> None:
        """Stop a proposal; the next process makes it anew."""
        if self._turns is not None:
            self._turns.stop()
            self._turns = None

    def _take(self, step: int, epoch: int) -> None:
        """Record what was proposed, unless nothing was or votes were withdrawn meanwhile."""
        if self._turns is None or not self._turns.is_done:
            return
        made, self._turns = self._turns.found, None
        if made is not None and self._withdrawn == tuple(withdrawals.withdrawals(self._ledger)):
            record(self._ledger, self._parts, made, step, epoch)
            self._say(describe(self._ledger))

    @contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except EngineError:
            raise
        except (RunError, UsageError, ResourceError) as error:  # the usual steps need none of it
            self._over, self._turns = True, None
            self._say(f"warning: directions are not guided any further: {error}")


def describe(ledger: Ledger) -> str:
    """What guides directions from now on, in a line for people."""
    body = [event["body"] for event in ledger.events(guided_spans.SPAN)][-1]
    return (
        f"guided: from round {body['first'] + 1} on a part of each direction lies where "
        f"{body['verdicts']:g} votes point, by {body['answers']} own answers"
    )
