"""Iterative DPO in the weights of named adapters: the coordinates of szpo, moved by gradients.

loss = −log σ(β · [log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻)]), as in `szpo.baselines.dpo`, where
π is the policy at z and π_ref that at z = 0. ∇_z log π(y) is the answer's score in every B
(`szpo.improvement.score_ascent` reads it at z), carried to the adapters' weights: site by site an
entry of A x is scaled by its adapter's weight, and w = T z. Adam moves z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from szpo import seeds
from szpo.baselines import dpo
from szpo.baselines.asking import Meter, OnStep, Survey
from szpo.baselines.recipes import Rounds
from szpo.baselines.trainer import require_pairs
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import UsageError
from szpo.improvement.score_ascent import read_scores
from szpo.models.loading import answer_tokens
from szpo.policies.lora_policy import LoraPolicy
from szpo.types import Answer, Floats, Prompt

METHOD: Final = "iterative-dpo"
KNOWN: Final = ("rounds", "memory", "drawn", "learning_rate", "batch", "beta")
"""The settings of iterative DPO that are followed here."""


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that only the training of a LoRA of its own follows."""
    if idle := [name for name in settings if name not in KNOWN]:
        raise UsageError(
            f"{METHOD}: {idle[0]!r} is not followed in adapters' weights; leave it out "
            f"(there are: {', '.join(KNOWN)})"
        )


def train(
    policy: LoraPolicy, survey: Survey, plan: Rounds, *, seed: int, on_step: OnStep
) -> dict[str, int]:
    """Generate, ask, train, repeat; the policy ends at the trained z.

    Returns the number of pairs, and of questions that gave none.
    """
    how, meter, asked = plan.recipe, Meter(), dpo.Asked()
    z = torch.zeros(policy.dim, requires_grad=True)
    for i, asked in enumerate(dpo.ask_rounds(survey, policy, plan, meter)):
        count = len(asked.pairs)
        adam = torch.optim.Adam([z], lr=how.learning_rate)  # a new one each round, as TRL has
        order = seeds.permutation(seeds.derive(seed, "pairs", step=i), count).tolist()
        with meter:
            for first in range(0, count, how.batch):
                some = [asked.pairs[j] for j in order[first : first + how.batch]]
                z.grad = torch.from_numpy(gradient(policy, some, how.beta))
                adam.step()
                policy.move_to({"z": z.detach().numpy().copy()})
        meter.report(on_step, i + 1, plan.rounds, {"pairs": float(count)})
    require_pairs(Preferences(asked.pairs, asked.ties), METHOD)
    return {"pairs": asked.found, "ties": asked.ties}


def gradient(policy: LoraPolicy, pairs: Sequence[Pair], beta: float) -> np.ndarray:
    """The gradient (d,) in z of the mean loss of these pairs, where the policy is."""
    texts = [(p.prompt, getattr(p, side)) for side in ("chosen", "rejected") for p in pairs]
    gap, scores = (
        plus - minus
        for plus, minus in (
            np.split(read(policy, texts), 2) for read in (dpo.log_ratios, z_scores)
        )
    )
    pull = beta / (1 + np.exp(beta * gap))
    return np.asarray(-(pull[:, None] * scores).mean(0), np.float32)


def z_scores(policy: LoraPolicy, texts: Sequence[tuple[Prompt, Answer]]) -> Floats:
    """∇_z log π(y | x) of each answer where the policy is, (answers, d)."""
    prompts = [prompt for prompt, _ in texts]
    answers = tuple(tuple(answer_tokens(policy.loaded, answer)) for _, answer in texts)
    found = read_scores(policy, policy.theta(), prompts, answers)[:, 0]
    subspace, blocks = policy.subspace, policy.subspace.blocks
    assert blocks is not None  # the caller has adapters as coordinates
    along, first = np.zeros((len(texts), policy.dim)), 0
    for site in subspace.sites:
        b, owner = subspace.fixed[site.b], blocks.owners[site.name]
        part = found[:, first : first + b.size].reshape(-1, *b.shape)
        first += b.size
        entries = np.einsum("nor,or->nr", part, b)
        for j in range(policy.dim):
            along[:, j] += entries[:, owner == j].sum(1)
    return np.asarray(along @ blocks.mixing)
