"""The base on held-out prompts, measured once for all demos of a model; the demo's is shipped.

Its answers and figures depend on the model, the sampling and the prompts, not on a run. `SAMPLES`
answers to each prompt reduce the sampling error of gains. Figures that depend on the number of
answers use only as many answers as are measured after tuning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import cache
from szpo.models import loading
from szpo.policies import text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_cache import SHIPPED_DTYPE
from szpo.policies.text_guards import TextFigures
from szpo.types import Answer, Prompt
from szpo_simulators.panels.heldout import Measurement

SAMPLES: Final = 8
"""Answers of the base to each prompt."""
SEED: Final = 0
"""Seed of the answers; answers after tuning use it too, so both share their random numbers."""
SHIPPED: Final = Path(__file__).parents[1] / "data" / "base"
"""Folder of the shipped files; ``index.json`` there has the digest of each file by name."""


@dataclass(frozen=True, slots=True)
class BaseLevel:
    """Answers of the base and their figures."""

    answers: tuple[tuple[Answer, ...], ...]
    """Shape (prompts, `SAMPLES`)."""
    figures: TextFigures
    """Figures of the first ``compared`` answers to each prompt."""

    def measurement(
        self, prompts: Sequence[Prompt], score: Callable[[Prompt, Answer], float]
    ) -> Measurement:
        """The same as a measurement of the policy at its start, scored by ``score``."""
        rows = zip(prompts, self.answers, strict=True)
        return Measurement(
            rewards=np.array([[score(p, answer) for answer in row] for p, row in rows]),
            texts=tuple(tuple(answer.text for answer in row) for row in self.answers),
            **asdict(self.figures),
            kl=0.0,
            kl_stderr=0.0,
        )


def load_or_read(policy: LoraPolicy, prompts: Sequence[Prompt], compared: int) -> BaseLevel:
    """Load the shipped or cached level of this base, or make one and cache it.

    ``compared``: number of answers to each prompt measured after tuning. With a starting adapter
    nothing is cached, since the file's name does not depend on the adapter's weights.
    """
    if policy.loaded.adapter is not None:
        return read(policy, prompts, compared)
    shipped = SHIPPED / file_name(policy, prompts, compared, dtype=SHIPPED_DTYPE)
    path = cache.cache_dir() / "base" / file_name(policy, prompts, compared)
    found = cache.read_either(shipped, path, from_file, "the reading of the base is")
    if found is None:
        found = read(policy, prompts, compared)
        cache.keep(path, partial(to_file, found))
    return found


def read(policy: LoraPolicy, prompts: Sequence[Prompt], compared: int) -> BaseLevel:
    """Draw the base's answers and measure their figures; the policy must be at its start."""
    drawn = policy.sample(prompts, SAMPLES, seed=SEED)
    figures = text_guards.measure(policy, prompts, [row[:compared] for row in drawn], seed=SEED)
    return BaseLevel(tuple(map(tuple, drawn)), figures)


def file_name(
    policy: LoraPolicy, prompts: Sequence[Prompt], compared: int, dtype: str | None = None
) -> str:
    """The file name of a base: a digest of everything that it depends on."""
    loaded = policy.loaded
    ends = loading.stop_tokens(loaded)
    # Without several end tokens None keeps the names of existing files.
    named = [
        1, loaded.sha256, dtype or loaded.dtype, loaded.quantization, policy.sampling.facts(),
        ends if len(ends) > 1 else None, [prompt.turns for prompt in prompts], SAMPLES, compared,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.json"


def to_file(found: BaseLevel, path: Path) -> None:
    """Write a base level as JSON."""
    answers = [[astuple(answer) for answer in row] for row in found.answers]
    body = {"answers": answers, "figures": asdict(found.figures)}
    path.write_text(json.dumps(body), encoding="utf-8")


def from_file(path: Path) -> BaseLevel:
    """Read what `to_file` wrote."""
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(tuple(Answer(*answer) for answer in row) for row in body["answers"])
    return BaseLevel(rows, TextFigures(**body["figures"]))
