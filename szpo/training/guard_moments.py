"""Read answers of the untuned model: their scores, and the figures that guards look at.

They predict the guards (`szpo.optim.rules.guard_geometry`) and give the usual distance between two
such answers: beyond it a score of a warm start's pairs is clipped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from szpo import cache
from szpo.optim.rules import guard_geometry
from szpo.optim.rules.guard_geometry import Moments
from szpo.policies import own_prompt
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_cache import SHIPPED_DTYPE
from szpo.types import Answer, Floats, Ints, Prompt

PROMPTS: Final = 64
"""Prompts put to the untuned model, at most."""
ANSWERS: Final = 256
"""Answers that are read, at least; six for each coordinate if that is more, except where
coordinates are taken one by one, as with named features."""
SHIPPED: Final = Path(__file__).parents[1] / "data" / "readings"
"""Folder of the readings that ship, as `make basis` makes them for the coordinates that do."""
FAR_PERCENTILE: Final = 99.0
"""Percentile of the distance between two of the start's answers that counts as far."""


@dataclass(frozen=True, slots=True, eq=False)
class StartReading:
    """Answers of the start that have a text, as read there."""

    scores: Floats
    """∂ log π(answer) / ∂z (answers, d)."""
    figures: Floats
    """(answers, 3) as `guard_geometry.FIGURES`; a margin is nan with too few prompts for one."""
    prompts: Ints
    """(answers,): the number of the prompt."""

    def moments(self, scale: float = 1.0, *, apart: bool = False) -> Moments:
        """What predictions rest on, in whitened units of ``scale`` coordinates.

        ``apart`` takes coordinates one by one.

        Raises:
            UsageError: there are too few answers for the coordinates.
        """
        scores, prompts = scale * self.scores, self.prompts.tolist()
        return guard_geometry.gather(scores, self.figures, prompts, apart=apart)

    def far(self) -> Floats:
        """How far apart two answers to one prompt are at most, nearly always: (d,) of scores."""
        first, second = np.triu_indices(len(self.prompts), 1)
        same = self.prompts[first] == self.prompts[second]
        apart = np.abs(self.scores[first[same]] - self.scores[second[same]])
        found = np.percentile(apart if len(apart) else np.abs(self.scores), FAR_PERCENTILE, axis=0)
        return np.asarray(np.maximum(found, 1e-9))


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


def read_start(
    policy: LoraPolicy, prompts: Sequence[Prompt], samples: int, *, seed: int
) -> StartReading:
    """Draw answers at the start and read them; empty answers are left out.

    Args:
        policy: Anywhere; it is asked and read at its start, by whoever holds the model.
        prompts: All different.
        samples: Answers to each.
        seed: Names the draws.

    Raises:
        UsageError: the coordinates are the weights themselves, or the temperature is 0.
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
    """Read the start's answers, or take a reading that ships, or an earlier run's of this start.

    A starting adapter's are not stored: its weights would have to be part of the key.
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
    # The None was a number of rows once; with it, files that are stored and ship are found.
    named = [
        1, loaded.sha256, dtype or loaded.dtype, loaded.quantization, policy.subspace.basis_sha256,
        asdict(policy.sampling), None, [prompt.turns for prompt in prompts], samples,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.npz"


def _read(path: Path) -> StartReading:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return StartReading(file["scores"], file["figures"], file["prompts"])
