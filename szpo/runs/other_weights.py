"""Weights that a run did not recommend: fitted to one taste's votes, or mixed by hand.

Shrinking weights towards the start loses some of the gain and undoes more of the damage (WARP,
arXiv 2406.16768, calls it linear interpolation towards initialization). Nothing is written into
the ledger.

In a mix by hand, nats are of each adapter alone, by its measured curve. They do not add up: the KL
of a whole mix is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from szpo import seeds
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.models import logprobs, lora
from szpo.models.logprobs import Sample
from szpo.policies import language_model, text_guards
from szpo.policies.backend import stack
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspaces import Blocks
from szpo.replay import replay
from szpo.runs import assemble, driver, run_engine
from szpo.runs.assemble import RunParts
from szpo.runs.guards import HeldOut, measure_right
from szpo.runs.update_policy import measure_moved
from szpo.types import Answer, Prompt, Say, Theta

SAMPLES: Final = 4
"""Answers to each held-out prompt where scaled weights are measured."""

MEASURED = 8
"""Prompts on which a mix's KL is measured."""


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

    ``number``: the cluster's, from 1. ``features``: those in which the clusters were found.
    """
    names = {row["pseudonym"]: row["panelist"] for row in ledger.query("SELECT * FROM panelists")}
    voters = frozenset(names[name] for name in members)
    kl = driver.measure_kl(parts)
    theta, votes = replay.fold_votes(ledger, voters, measure_moved(parts.settings, kl))
    return Group(number, features, tuple(members), round(votes), theta)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far weights are from the run's start at a share of their way."""

    scale: float
    """The share, in (0, 1]."""
    nats: float
    """KL, nats an answer."""
    stderr: float
    """Of these, over prompts."""


def read_distance(parts: RunParts, theta: Theta, scale: float, number: int) -> Distance:
    """Read the KL of weights at θ by answers to training prompts; ``number``: of their seed."""
    policy, seed = parts.language, seeds.child_seed(parts.settings.root_seed, number, "scale")
    asked = parts.prompts.train[: parts.config.evaluation.prompts]
    with moved(policy, theta):
        nats, stderr = policy.kl(asked, seed=seed, samples=SAMPLES)
    return Distance(scale, nats, stderr if len(asked) > 1 else 0.0)


def measure_cut(parts: RunParts, theta: Theta, rank: int) -> float:
    """KL from the adapter at θ to the same cut to a rank, nats per answer, on held-out prompts."""
    policy, seed = parts.language, parts.settings.root_seed
    asked = list((parts.prompts.heldout or parts.prompts.train)[: parts.config.evaluation.prompts])
    whole, sites = lora.pad(policy.factors(theta), policy.subspace.sites)
    few, low = lora.truncate(whole, sites, rank)
    few, _ = lora.pad(few, low, sites[0].rank)
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
        drawn, (kl, _) = policy.sample_with_kl(asked, samples, seed=seed)
        after = text_guards.measure(policy, asked, drawn, seed=seed)
        rows, kept = measure_right(policy, parts.config.guards.keep)
    guards, gap = text_guards.guards(before, after), text_guards.topic_gap(before, after)
    return kl, HeldOut(rows, (*guards, *kept), gap)


@dataclass(frozen=True, eq=False)
class Mixer:
    """A policy in the weights of named adapters."""

    config: Config
    policy: LoraPolicy
    blocks: Blocks
    heldout: tuple[Prompt, ...]

    def encode(self, texts: Sequence[str]) -> tuple[Prompt, ...]:
        """A person's own questions as prompts.

        Raises:
            UsageError: One is empty, or too long for the model.
        """
        if any(not text.strip() for text in texts):
            raise UsageError("the prompt is empty; give a question")
        asked = tuple(Prompt.user(text, self.config.prompts.system) for text in texts)
        return assemble.fit_prompts(self.config, PromptSet(asked, ())).train if texts else ()

    def move_to(self, nats: Mapping[str, float]) -> dict[str, float]:
        """Move the policy to a mix; returns the adapters' weights by name."""
        self.policy.move_to({"z": self.blocks.point(nats)})
        weights = self.blocks.weights(self.policy.theta()["z"])
        return dict(zip(self.blocks.names, weights.tolist(), strict=True))

    def kl(self, asked: Sequence[Prompt], *, seed: int) -> tuple[float, float]:
        """KL of the present mix to the start in nats, with its error, on held-out prompts.

        On ``asked`` where nothing is held out.
        """
        return self.policy.kl(self.heldout[:MEASURED] or asked, seed=seed)

    def answers(
        self, asked: Sequence[Prompt], samples: int, *, seed: int, base: bool = False
    ) -> list[list[Answer]]:
        """Answers to each prompt, of the present mix or of the start."""
        return self.policy.sample(asked, samples, seed=seed, base=base)


def mixer_of_run(ledger: Ledger, say: Say) -> Mixer:
    """The mixer of a run in adapters; it begins at the weights that the run recommends."""
    parts = assemble.reopen(ledger, panel=False, say=say)
    blocks = parts.language.subspace.blocks
    assert blocks is not None, "the run is in adapters"
    return Mixer(parts.config, parts.language, blocks, tuple(parts.prompts.heldout))


def mixer_of_set(config: Config, say: Say) -> Mixer:
    """The mixer of the settings' adapters at the start; their metric is measured or stored."""
    found = assemble.check(config)
    host = run_engine.load_host(found.config, adapter=True, driven=False)
    base = language_model.prepare(found.config, host, found.prompts.train, say)
    blocks = base.subspace.blocks
    assert blocks is not None, "the settings name adapters"
    settings = found.config.optimizer_settings(base.subspace.layout, base.subspace.scale)
    policy = language_model.make_policy(found.config, base, settings)
    return Mixer(found.config, policy, blocks, tuple(found.prompts.heldout))
