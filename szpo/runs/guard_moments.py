"""Read answers of the untuned model: their scores, and the figures that guards watch.

They predict the guards (`szpo.optim.kl_limits`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from szpo import cache
from szpo.models import loading
from szpo.optim import kl_limits
from szpo.optim.kl_limits import Moments
from szpo.policies import text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_setup import SHIPPED_DTYPE
from szpo.types import Answer, Floats, Ints, Prompt

PROMPTS: Final = 64
"""Most prompts that the untuned model answers."""
ANSWERS: Final = 256
"""Fewest answers that are read; without named features six per coordinate, if that is more."""
SHIPPED: Final = Path(__file__).parents[1] / "data" / "readings"
"""Folder of the shipped readings, which `make basis` makes for the shipped coordinates."""


@dataclass(frozen=True, slots=True, eq=False)
class StartReading:
    """The start's non-empty answers, as read at the start."""

    scores: Floats
    """∂ log π(answer) / ∂z (answers, d)."""
    figures: Floats
    """(answers, 3) as in `kl_limits.FIGURES`; margins are nan with too few prompts."""
    prompts: Ints
    """(answers,): the number of each answer's prompt."""

    def moments(self, scale: float = 1.0, *, apart: bool = False) -> Moments:
        """The moments for predictions; one whitened unit is ``scale`` in coordinates.

        ``apart`` uses only the diagonal of the covariances.
        """
        scores, prompts = scale * self.scores, self.prompts.tolist()
        return kl_limits.gather_moments(scores, self.figures, prompts, apart=apart)


def measure_figures(
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
) -> Floats:
    """The guards' figures of each answer, in order: (answers, 3) as in `kl_limits.FIGURES`.

    Margins are nan with too few prompts.
    """
    asked = [prompt for prompt, row in zip(prompts, answers, strict=True) for _ in row]
    flat = [answer for row in answers for answer in row]
    margin = np.full(len(flat), np.nan)
    if len(prompts) >= text_guards.FEWEST_PROMPTS:
        margin = np.concatenate(text_guards.answer_margins(policy, prompts, answers, seed=seed))
    logprob = policy.logprob_base(asked, flat)
    return np.column_stack([logprob, [float(answer.tokens) for answer in flat], margin])


def read_start(
    policy: LoraPolicy, prompts: Sequence[Prompt], samples: int, *, seed: int
) -> StartReading:
    """Draw answers at the start and read them; empty answers are left out.

    Args:
        policy: At any θ; its start answers and reads.
        prompts: All different.
        samples: Number of answers to each prompt.
        seed: Seed of the draws.
    """
    rows = policy.sample_tokens(prompts, samples, seed=seed, base=True)
    answers = [policy.answer(row) for row in rows]
    grouped = [answers[i : i + samples] for i in range(0, len(answers), samples)]
    asked = [policy.encode(prompt) for prompt in prompts]
    scores = policy.whitened_scores([(asked[i // samples], row) for i, row in enumerate(rows)])
    figures = measure_figures(policy, prompts, grouped, seed=seed)
    there = np.array([bool(answer.text) for answer in answers])
    owner = np.arange(len(rows)) // samples
    return StartReading(scores[there], figures[there], owner[there])


def load_or_read(policy: LoraPolicy, prompts: Sequence[Prompt]) -> StartReading:
    """Take a shipped reading of this start, or one from the cache, or read the start's answers.

    With a starting adapter, whose weights the key does not cover, readings are not stored.
    """
    asked = list(dict.fromkeys(prompts))[:PROMPTS]
    each = 0 if policy.subspace.features is not None else 6
    samples = math.ceil(max(ANSWERS, each * policy.dim) / len(asked))
    if policy.loaded.adapter is not None:
        return read_start(policy, asked, samples, seed=0)
    path = cache.cache_dir() / "readings" / _file_name(policy, asked, samples)
    shipped = SHIPPED / _file_name(policy, asked, samples, dtype=SHIPPED_DTYPE)
    found = cache.read_either(shipped, path, _read, "the reading of the start is")
    if found is not None:
        return found
    made = read_start(policy, asked, samples, seed=0)

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez(file, scores=made.scores, figures=made.figures, prompts=made.prompts)

    cache.keep(path, write)
    return made


def _file_name(
    policy: LoraPolicy, prompts: Sequence[Prompt], samples: int, dtype: str | None = None
) -> str:
    loaded = policy.loaded
    ends = loading.stop_tokens(loaded)
    # Without several end tokens None keeps the names of stored and shipped files.
    named = [
        1, loaded.sha256, dtype or loaded.dtype, loaded.quantization, policy.subspace.basis_sha256,
        policy.sampling.facts(), ends if len(ends) > 1 else None,
        [prompt.turns for prompt in prompts], samples,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.npz"


def _read(path: Path) -> StartReading:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return StartReading(file["scores"], file["figures"], file["prompts"])
