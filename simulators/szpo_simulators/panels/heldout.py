"""Held-out measurement of a policy, paired by prompt; the base, measured once for all demos.

A measurement answers every held-out prompt several times, with seeds that do not depend on the
policy. So the same call before and after tuning uses common random numbers. The base's `SAMPLES`
answers and fewer after tuning share theirs at the first prompt alone: each row of a call has its
own.

The base's answers and figures depend on the model, the sampling and the prompts, not on a run;
those of the demo are shipped. `SAMPLES` answers to each prompt reduce the sampling error of gains.
Figures that depend on the number of answers use only as many as are measured after tuning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from szpo import cache
from szpo.analysis.features import Score
from szpo.analysis.measuring import TEXTS
from szpo.policies import text_guards
from szpo.policies.text_guards import TextFigures
from szpo.types import Answer, Floats, Prompt

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


SAMPLES: Final = 8
"""Answers of the base to each prompt."""
SEED: Final = 0
"""Seed of the answers, before and after tuning."""
SHIPPED: Final = Path(__file__).parents[1] / "data" / "base"
"""Folder of the shipped files; ``index.json`` there has the digest of each file by name."""


@dataclass(frozen=True, kw_only=True)
class Measurement(TextFigures):
    """The measurement of one policy on the held-out prompts."""

    rewards: Floats
    """Shape (prompts, samples)."""
    texts: tuple[tuple[str, ...], ...]
    kl: float
    kl_stderr: float


def measure(
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    score: Score,
    *,
    samples: int,
    seed: int,
    moved: bool = True,
) -> Measurement:
    """Answer every prompt ``samples`` times and score the answers.

    ``moved`` false means that the policy is at its start; its KL is then 0 and not measured.
    """
    if moved:
        drawn, kl = policy.sample_with_kl(prompts, samples, seed=seed)
    else:
        drawn, kl = policy.sample(prompts, samples, seed=seed), (0.0, 0.0)
    rewards = [[score(p, a) for a in row] for p, row in zip(prompts, drawn, strict=True)]
    return Measurement(
        rewards=np.array(rewards),
        texts=tuple(tuple(answer.text for answer in row) for row in drawn),
        **asdict(text_guards.measure(policy, prompts, drawn, seed=seed)),
        kl=kl[0],
        kl_stderr=kl[1],
    )


@dataclass(frozen=True, slots=True)
class BaseLevel:
    """Answers of the base and their figures."""

    answers: tuple[tuple[Answer, ...], ...]
    """Shape (prompts, `SAMPLES`)."""
    figures: TextFigures
    """Figures of the first ``compared`` answers to each prompt."""
    likeliest: tuple[Answer, ...]
    """To the first `szpo.analysis.measuring.TEXTS` prompts, for readers."""


def load_or_read(policy: LoraPolicy, prompts: Sequence[Prompt], compared: int) -> BaseLevel:
    """Load the shipped or cached level of this base, or make one and cache it.

    ``compared``: number of answers to each prompt measured after tuning.
    """
    from szpo.policies.subspace_setup import SHIPPED_DTYPE

    shipped = SHIPPED / file_name(policy, prompts, compared, dtype=SHIPPED_DTYPE)
    path = cache.cache_dir() / "base" / file_name(policy, prompts, compared)
    found = cache.read_either(shipped, path, from_file, "the reading of the base is")
    if found is None:
        found = read_base(policy, prompts, compared)
        cache.keep(path, partial(to_file, found))
    return found


def read_base(policy: LoraPolicy, prompts: Sequence[Prompt], compared: int) -> BaseLevel:
    """Draw the base's answers and measure their figures; the policy must be at its start."""
    drawn = policy.sample(prompts, SAMPLES, seed=SEED)
    figures = text_guards.measure(policy, prompts, [row[:compared] for row in drawn], seed=SEED)
    likeliest = policy.likeliest(prompts[:TEXTS], base=True)
    return BaseLevel(tuple(map(tuple, drawn)), figures, tuple(likeliest))


def file_name(
    policy: LoraPolicy, prompts: Sequence[Prompt], compared: int, dtype: str | None = None
) -> str:
    """The file name of a base: a digest of everything that it depends on."""
    loaded = policy.loaded
    named = [
        loaded.sha256, dtype or loaded.dtype, policy.sampling.facts(),
        [prompt.turns for prompt in prompts], SAMPLES, compared,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.json"


def to_file(found: BaseLevel, path: Path) -> None:
    """Write a base level as JSON."""
    *answers, likeliest = (
        [astuple(answer) for answer in row] for row in (*found.answers, found.likeliest)
    )
    body = {"answers": answers, "figures": asdict(found.figures), "likeliest": likeliest}
    path.write_text(json.dumps(body), encoding="utf-8")


def from_file(path: Path) -> BaseLevel:
    """Read what `to_file` wrote."""
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    *rows, likeliest = (
        tuple(Answer(*answer) for answer in row) for row in (*body["answers"], body["likeliest"])
    )
    return BaseLevel(tuple(rows), TextFigures(**body["figures"]), likeliest)
