"""The base on held-out prompts, measured once for all demos of a model; that of the demo ships.

Its answers and figures depend on the model, the sampling and the prompts, not on a run. There are
`SAMPLES` to each prompt, so that no gain is counted from a lucky draw; figures that depend on how
many answers there are come from as many as are measured after tuning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import cache
from szpo.policies import text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_cache import SHIPPED_DTYPE
from szpo.policies.text_guards import TextFigures
from szpo.types import Answer, Prompt
from szpo_simulators.panels.heldout import Measurement

SAMPLES: Final = 8
"""Answers of the base to each prompt."""
SEED: Final = 0
"""Of the draws; answers after tuning that take it too share their random numbers."""
SHIPPED: Final = Path(__file__).parents[1] / "data" / "base"
"""Folder of what ships; ``index.json`` there has the digest of each file by its name."""


@dataclass(frozen=True, slots=True)
class BaseLevel:
    """Answers of the base and their figures."""

    answers: tuple[tuple[Answer, ...], ...]
    """(prompts, `SAMPLES`)."""
    figures: TextFigures
    """Of the first answers to each prompt, as many as are compared with them."""

    def measurement(
        self, prompts: Sequence[Prompt], score: Callable[[Prompt, Answer], float]
    ) -> Measurement:
        """As a measurement of the policy at its start."""
        rows = zip(prompts, self.answers, strict=True)
        return Measurement(
            rewards=np.array([[score(p, answer) for answer in row] for p, row in rows]),
            texts=tuple(tuple(answer.text for answer in row) for row in self.answers),
            **asdict(self.figures),
            kl=0.0,
            kl_stderr=0.0,
        )


def load_or_read(policy: LoraPolicy, prompts: Sequence[Prompt], compared: int) -> BaseLevel:
    """Read what ships or an earlier reading of this base, or make one and store it.

    ``compared``: answers to each prompt that are measured after tuning. A starting adapter's are
    not stored: its weights would have to be part of the key.
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
    """Draw the base's answers and read their figures; the policy stands at its start."""
    drawn = policy.sample(prompts, SAMPLES, seed=SEED)
    figures = text_guards.measure(policy, prompts, [row[:compared] for row in drawn], seed=SEED)
    return BaseLevel(tuple(map(tuple, drawn)), figures)


def file_name(
    policy: LoraPolicy, prompts: Sequence[Prompt], compared: int, dtype: str | None = None
) -> str:
    """The name of the file of a base: a digest of all that it depends on."""
    loaded = policy.loaded
    # The None was a number of rows once; with it, files that are stored and ship are found.
    named = [
        1, loaded.sha256, dtype or loaded.dtype, loaded.quantization, asdict(policy.sampling),
        None, [prompt.turns for prompt in prompts], SAMPLES, compared,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.json"


def to_file(found: BaseLevel, path: Path) -> None:
    """Write it as JSON."""
    answers = [[(a.text, a.end, a.tokens) for a in row] for row in found.answers]
    body = {"answers": answers, "figures": asdict(found.figures)}
    path.write_text(json.dumps(body), encoding="utf-8")


def from_file(path: Path) -> BaseLevel:
    """Read what `to_file` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: The file is not one of a base.
    """
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(tuple(Answer(*answer) for answer in row) for row in body["answers"])
    return BaseLevel(rows, TextFigures(**body["figures"]))
