"""Weights that a run did not recommend: fitted to the votes of one taste, and measured.

Shrinking weights towards the start loses some of the gain and undoes more of the damage (WARP,
arXiv 2406.16768, calls it linear interpolation towards initialization). Nothing is written into
the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.models import logprobs, peft_format
from szpo.models.logprobs import Sample
from szpo.policies import text_guards
from szpo.policies.backend import stack
from szpo.policies.protocol import moved
from szpo.replay import replay
from szpo.runs import driver
from szpo.runs.assemble import RunParts
from szpo.training import held_out
from szpo.training.held_out import HeldOut
from szpo.training.update_policy import measure_moved
from szpo.types import Theta

SAMPLES: Final = 4
"""Answers to each held-out prompt where scaled weights are measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Panelists of one taste, and the coordinates fitted to their recorded votes alone."""

    number: int
    """The cluster's number, from 1."""
    features: str
    """The set of features in which the clusters were found."""
    members: tuple[str, ...]
    """Pseudonyms."""
    votes: int
    theta: Theta


def fit_group(
    ledger: Ledger, parts: RunParts, number: int, features: str, members: Sequence[str]
) -> Group:
    """Fit the votes of a cluster as the run fits its own.

    Args:
        ledger: The run.
        parts: Its parts, with a language model.
        number: The cluster's number, from 1.
        features: The set of features in which the clusters were found.
        members: Pseudonyms.
    """
    names = {row["pseudonym"]: row["panelist"] for row in ledger.query("SELECT * FROM panelists")}
    voters = frozenset(names[name] for name in members)
    kl = driver.measure_kl(parts)
    theta, votes = replay.fold_votes(ledger, voters, measure_moved(parts.settings, kl))
    return Group(number, features, tuple(members), round(votes), theta)


def measure_cut(parts: RunParts, theta: Theta, rank: int) -> float:
    """KL from the adapter at θ to the same cut to a rank, nats per answer, on held-out prompts."""
    policy, seed = parts.language, parts.settings.root_seed
    asked = list((parts.prompts.heldout or parts.prompts.train)[: parts.config.evaluation.prompts])
    whole, sites = peft_format.pad(policy.factors(theta), policy.subspace.sites)
    few, low = peft_format.truncate(whole, sites, rank)
    few, _ = peft_format.pad(few, low, sites[0].rank)
    # The sites' own scales are multiplied into the cut factors, so into the whole ones too.
    plain = tuple(replace(site, scale=1.0) for site in sites)
    whole |= {site.b: whole[site.b] * np.float32(site.scale) for site in sites}
    with moved(policy, theta):
        rows = policy.sample_tokens(asked, SAMPLES, seed=seed)
    ids = [policy.encode(prompt) for prompt in asked]
    samples = [Sample(ids[i // SAMPLES], row) for i, row in enumerate(rows)]
    device = policy.held.device
    found = logprobs.kl_of_members(
        policy.held.adapt(plain), stack(plain, whole, [{}], device), samples, [0] * len(samples),
        reference=stack(plain, few, [{}], device), temperature=policy.sampling.temperature or 1.0,
    )  # fmt: skip
    return float(found.mean())


def measure(parts: RunParts, theta: Theta, *, fitted: bool = False) -> tuple[float, HeldOut]:
    """KL to the run's start, nats per answer, and the guards against it, on held-out prompts.

    The start and θ answer with the same random numbers; the policy is put back. ``fitted``: with
    the draws by which a run measures its own end. Without held-out prompts there are no guards.
    """
    policy, asked = parts.language, parts.prompts.heldout[: parts.config.evaluation.prompts]
    if not asked:
        return driver.measure_kl(parts)(theta), HeldOut(())
    seed, samples = parts.settings.root_seed, SAMPLES
    if fitted:
        seed = seeds.as_seed(seeds.derive(seed, "evaluation"))
        samples = text_guards.READ_AGAIN
    drawn = policy.sample(asked, samples, seed=seed, base=True)
    before = text_guards.measure(policy, asked, drawn, seed=seed)
    with moved(policy, theta):
        drawn = policy.sample(asked, samples, seed=seed)
        after = text_guards.measure(policy, asked, drawn, seed=seed)
        kl, _ = policy.kl(asked, seed=seed)
        rows, kept = held_out.measure_right(policy, parts.config.guards.keep)
    guards, gap = text_guards.guards(before, after), text_guards.topic_gap(before, after)
    return kl, HeldOut(rows, (*guards, *kept), gap)
