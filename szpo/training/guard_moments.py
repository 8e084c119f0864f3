"""Read the start's answers for `szpo.optim.rules.guard_geometry`: scores and guards' figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.models.logprobs import Sample
from szpo.models.scores import score_vectors
from szpo.optim.rules import guard_geometry
from szpo.optim.rules.guard_geometry import Moments
from szpo.policies import own_prompt
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Floats, Prompt


def project(subspace: Subspace, vectors: NDArray[np.floating[Any]]) -> Floats:
    """Scores in a subspace's coordinates: ∂ log π / ∂z at the start.

    Args:
        subspace: One that moves B by a basis.
        vectors: Scores of all weights of B (answers, Σ out·r), in the order of the sites.

    Returns:
        (answers, d).

    Raises:
        UsageError: the coordinates are the weights themselves.
    """
    if not subspace.basis:
        raise UsageError(f"subspace {subspace.kind} has no basis to take scores in")
    basis = [subspace.basis[site.b].reshape(-1, subspace.dim) for site in subspace.sites]
    found: Floats = np.asarray(vectors, np.float64) @ np.concatenate(basis).astype(np.float64)
    return found


def measure_figures(
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
) -> Floats:
    """What guards look at, per answer in order: (answers, 3) as `guard_geometry.FIGURES`.

    The margin is nan where there are too few prompts for one.
    """
    asked = [prompt for prompt, row in zip(prompts, answers, strict=True) for _ in row]
    flat = [answer for row in answers for answer in row]
    margin = np.full(len(flat), np.nan)
    if len(prompts) >= own_prompt.FEWEST_PROMPTS:
        margin = np.concatenate(own_prompt.answer_margins(policy, prompts, answers, seed=seed))
    logprob = policy.logprob_base(asked, flat)
    return np.column_stack([logprob, [float(answer.tokens) for answer in flat], margin])


def measure_moments(
    policy: LoraPolicy, prompts: Sequence[Prompt], samples: int, *, seed: int
) -> Moments:
    """Draw answers at the start and sum up scores and figures; empty answers are left out.

    Args:
        policy: Anywhere; it is asked and read at its start.
        prompts: All different.
        samples: Answers to each.
        seed: Names the draws.

    Raises:
        UsageError: too few answers for the coordinates, or no basis.
    """
    rows = policy.sample_tokens(prompts, samples, seed=seed, base=True)
    answers = [policy.answer(row) for row in rows]
    grouped = [answers[i : i + samples] for i in range(0, len(answers), samples)]
    read = [
        Sample(policy.encode(prompts[i // samples]), row, i // samples)
        for i, row in enumerate(rows)
    ]
    vectors = score_vectors(
        policy.responder.adapted,
        {**policy.subspace.fixed, **policy.subspace.start},
        read,
        temperature=policy.answering.sampling.temperature or 1.0,
    )
    scores = project(policy.subspace, vectors)
    figures = measure_figures(policy, prompts, grouped, seed=seed)
    there = np.array([bool(answer.text) for answer in answers])
    owner = np.arange(len(rows)) // samples
    return guard_geometry.gather(scores[there], figures[there], owner[there].tolist())
