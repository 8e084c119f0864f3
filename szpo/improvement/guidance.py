"""Guide `known` and `sign`: from the verdicts so far to a proposal, to the span of directions.

Every forty verdicts the taste that they teach so far, shown or not, proposes a difference of
weights by a policy gradient (`szpo.improvement.policy_gradient`) from where the policy is. The
latest proposals span the guided part of the directions from the next step on
(`szpo.optim.guided_directions`). Proposals move nothing: that is left to verdicts on two policies.

What is proposed is recorded, not recomputed. Its seed is that of the run and the step, so a killed
run that proposes again finds the same on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from szpo import seeds
from szpo.analysis import run_taste
from szpo.errors import RunError, UsageError
from szpo.improvement import policy_gradient
from szpo.improvement.aims import score_of_taste
from szpo.improvement.policy_gradient import Pace, Score
from szpo.ledger import spans
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.guided_directions import EVERY, MOST
from szpo.optim.settings import mu_at
from szpo.policies import spans as measuring
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.runs.assemble import RunParts
from szpo.runs.services import set_aside
from szpo.taste import Taste
from szpo.types import Progress, unseen
from szpo.voting import lease

PACE: Final = Pace(steps=4)
"""How long a proposal is looked for."""
LEAST: Final = 1e-6
"""Weights that no proposal moves by more have no proposal."""


def due(ledger: Ledger, step: int, tried: float = 0.0) -> bool:
    """Whether a span is to be renewed before a step that is not planned yet.

    ``tried``: verdicts that proposed nothing when they were last asked.
    """
    settings = recorded_settings(ledger)
    if not settings.guides or settings.regressors is None or ledger.step(step) is not None:
        return False
    known = [event["body"]["verdicts"] for event in ledger.events(spans.SPAN)]
    return bool(ledger.votes_applied() - max(tried, *known, 0) >= EVERY)


def renew(
    ledger: Ledger,
    parts: RunParts,
    step: int,
    epoch: int,
    *,
    given: Sequence[str] = (),
    score: Callable[[Taste, LoraPolicy, Sequence[str]], Score] = score_of_taste,
    progress: Progress = unseen,
) -> bool:
    """Propose a difference of weights, and let it guide directions from ``step`` on.

    False where nothing was done: the policy has no gradient here, or the verdicts teach nothing. ``given``: the user's own features that are code, anew. ``score`` makes of their
    taste what answers are worth.

    Raises:
        RunError, UsageError: the model has no gradient that can be followed.
        ResourceError: memory does not hold one.
    """
    if parts.base is None or not parts.config.engine.is_local:
        return False
    settings, policy = recorded_settings(ledger), parts.language
    try:
        taste, _ = run_taste.read(ledger, given, anyway=True)
    except (RunError, UsageError):
        return False
    progress("what the votes so far propose", 0, 0)
    seed = seeds.as_seed(seeds.derive(settings.root_seed, "improve", step=step))
    asked = set_aside(parts.prompts.train, settings.root_seed)[0]
    present = {name: np.array(policy.theta()[name]) for name, _ in policy.layout}
    with policy_gradient.in_memory():
        proposal, made = policy_gradient.propose(
            policy, score(taste, policy, given), asked, PACE, seed=seed
        )
    if max(float(np.abs(each).max()) for each in proposal.values()) < LEAST:
        return False
    earlier = [span.proposals[-1] for span in spans.read(ledger)]
    first = max(0, len(earlier) + 1 - MOST)
    with moved(policy, present):
        found = measuring.measure(
            parts.base.host, policy.subspace, present, (*earlier, proposal)[first:], asked,
            policy.sampling, mu=mu_at(settings, step), share=settings.section.guided, seed=seed,
            progress=lambda name, done, of: progress("how long a step along it may be", done, of),
        )  # fmt: skip
    if found is None:
        return False
    notes = {
        "verdicts": ledger.votes_applied(), "nats": found.nats, "taste_sha256": taste.sha256,
        "answers": made.answers + found.answers,
    }  # fmt: skip
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        spans.append(
            ledger, proposal, first=step, noise=found.noise, of=range(first, len(earlier) + 1),
            mixing=found.mixing, notes=notes,
        )  # fmt: skip
    policy.guide(spans.read(ledger))
    return True


def describe(ledger: Ledger) -> str:
    """What guides directions from now on, in a line for people."""
    body = [event["body"] for event in ledger.events(spans.SPAN)][-1]
    return (
        f"guided: from round {body['first'] + 1} on a part of each direction lies where "
        f"{body['verdicts']:g} votes point, by {body['answers']} own answers"
    )
