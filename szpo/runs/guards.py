"""Guards of a run: bands that pause it, and what held-out prompts show before and after.

Answers of the untuned model are read at the start, their scores and the figures that guards watch:
they predict the guards (`szpo.optim.kl_limits`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from szpo import metrics
from szpo.config.tables import Guards
from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.models.answer_shares import is_cut
from szpo.optim import kl_limits
from szpo.optim.kl_limits import Moments
from szpo.policies import text_guards
from szpo.policies.protocol import Speaker
from szpo.policies.text_guards import Guard, TextFigures
from szpo.types import Answer, Comparison, Floats, Ints, Prompt

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bands:
    """Closed intervals for a step's figures; a figure whose band is None is not watched.

    ``kl`` is in nats per completion, ``length`` in the unit of `mean_length`. ``repetition`` (mean
    of `szpo.metrics.repetition` over answers) and ``identical`` are shares. ``norm`` is |θ|.

    >>> Bands(kl=(0, 15)).broken({"kl": 16.2, "length": 20.0})
    ('kl', 'kl is 16.2, outside 0 … 15')
    """

    kl: Band | None = None
    length: Band | None = None
    repetition: Band | None = None
    identical: Band | None = None
    norm: Band | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            band = getattr(self, name)
            if band is not None and not band[0] <= band[1]:
                raise UsageError(
                    f"band {name}: {band[0]} … {band[1]} is empty; give the lower end first"
                )

    def outside(self, figures: Mapping[str, float | None]) -> tuple[str, ...]:
        """Names of the figures outside their band; a non-finite figure is outside any band."""
        found = []
        for name in self.__slots__:
            band, value = getattr(self, name), figures.get(name)
            if band is None or value is None:
                continue
            if not (math.isfinite(value) and band[0] <= value <= band[1]):
                found.append(name)
        return tuple(found)

    def broken(self, figures: Mapping[str, float | None]) -> tuple[str, str] | None:
        """Name and sentence of the first figure outside its band, or None."""
        for name in self.outside(figures):
            low, high = getattr(self, name)
            return name, f"{name} is {figures[name]:.4g}, outside {low:g} … {high:g}"
        return None

    def not_finite(self, figures: Mapping[str, float | None]) -> tuple[str, ...]:
        """Names of watched figures that are not finite, which JSON cannot hold."""
        return tuple(
            name for name in self.outside(figures) if not math.isfinite(figures[name] or 0.0)
        )


def bands(chosen: Guards) -> Bands:
    """The bands of a run's settings."""
    return Bands(
        kl=None if chosen.kl is None else (-math.inf, chosen.kl),
        length=None if chosen.length is None else (chosen.length[0], chosen.length[1]),
        repetition=None if chosen.repetition is None else (0.0, chosen.repetition),
    )


def mean_length(answers: Sequence[Answer]) -> float:
    """Mean tokens per answer; mean words if there are no token counts."""
    if not answers:
        return 0.0
    if all(answer.tokens == 0 for answer in answers):
        return sum(len(answer.text.split()) for answer in answers) / len(answers)
    return sum(answer.tokens for answer in answers) / len(answers)


def figures(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Figures of a step's texts without a model: lengths, repetition, shares of equal rows."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    plus, minus = [row.plus for row in rows], [row.minus for row in rows]
    both = [*plus, *minus]
    return {
        "length": mean_length(both),
        "length_plus": mean_length(plus),
        "length_minus": mean_length(minus),
        "repetition": sum(metrics.repetition(a.text) for a in both) / max(len(both), 1),
        "identical": sum(row.identical for row in rows) / max(len(rows), 1),
        "identical_comparisons": float(sum(c.identical for c in comparisons)),
        "truncated": sum(map(is_cut, both)) / max(len(both), 1),
        "tokens": float(sum(answer.tokens for answer in both)),
    }


def as_row(
    name: str, before: float, after: float, change: str = "", form: str = ".3f"
) -> dict[str, str]:
    """One figure of a measurement as texts; ``change`` in place of the difference."""
    return {
        "name": name,
        "before": f"{before:{form}}",
        "after": f"{after:{form}}",
        "change": change or f"{after - before:+{form}}",
    }


def text_rows(
    before: TextFigures, after: TextFigures, kl: float, change: str = ""
) -> list[dict[str, str]]:
    """Figures of the answers of a policy's start and of the policy, ``kl`` nats away."""
    return [
        as_row(text_guards.FLUENCY, before.logprob, after.logprob),
        as_row("distinct-2", before.distinct2, after.distinct2),
        as_row("tokens per answer", before.tokens, after.tokens),
        as_row("KL to the start, nats per answer", 0.0, kl, change),
    ]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A measurement: rows of a table as texts, and the guards."""

    rows: tuple[Mapping[str, str], ...]
    """Each is of `as_row`."""
    guards: tuple[Guard, ...] = ()
    gap: str | None = None
    """Why the topic's guard is missing; None if it is there."""
    theta_sha256: str | None = None
    """Digest of the measured weights; None where these are not the run's."""

    @property
    def verdict(self) -> str:
        """How many guards hold, in words."""
        return self.failure or f"all {len(self.guards)} hold"

    @property
    def failure(self) -> str:
        """Which guards fail, in words; "" if none does."""
        failed = [guard.name for guard in self.guards if not guard.ok]
        return f"{len(failed)} of {len(self.guards)} fail: {'; '.join(failed)}" if failed else ""


def read_questions(file: str | None) -> tuple[tuple[Prompt, Answer], ...]:
    """The questions of ``guards.keep`` with their right answers; none without a file."""
    return () if file is None else preference_files.read_examples(file)


def measure_right(
    policy: Speaker, file: str | None
) -> tuple[tuple[Mapping[str, str], ...], tuple[Guard, ...]]:
    """Right answers of a policy's start and of the policy as it is: a row, and its guard."""
    questions = read_questions(file)
    if not questions:
        return (), ()
    before, after = (text_guards.count_right(policy, questions, base=b) for b in (True, False))
    name = f"right answers to {len(questions)} questions"
    row = as_row(name, before, after, form="d")
    return (row,), (text_guards.keep_right(before, after),)


def record_held_out(ledger: Ledger, by: str, found: HeldOut) -> None:
    """Record a measurement as an event of kind ``evaluation``."""
    body: dict[str, Any] = {
        "rows": [dict(row) for row in found.rows],
        "guards": [asdict(guard) for guard in found.guards],
        "topic": found.gap,
        "theta_sha256": found.theta_sha256,
    }
    ledger.record_event("evaluation", by, body)


def read_held_out(ledger: Ledger) -> HeldOut | None:
    """The last measurement that the ledger records; None without one."""
    events = list(ledger.events("evaluation"))
    if not events:
        return None
    body = events[-1]["body"]
    return HeldOut(
        tuple(body["rows"]),
        tuple(Guard(**guard) for guard in body["guards"]),
        body["topic"],
        body["theta_sha256"],
    )


START_PROMPTS: Final = 64
"""Most prompts that the untuned model answers."""
START_ANSWERS: Final = 256
"""Fewest answers that are read; without named features six per coordinate, if that is more."""
READINGS: Final = Path(__file__).parents[1] / "data" / "readings"
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

    The policy may be at any θ: its start answers and reads. The prompts are all different.
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


def load_or_read_start(policy: LoraPolicy, prompts: Sequence[Prompt]) -> StartReading:
    """Take a shipped reading of this start, or one from the cache, or read the start's answers."""
    from szpo import cache
    from szpo.policies.subspace_setup import SHIPPED_DTYPE  # loads torch

    asked = list(dict.fromkeys(prompts))[:START_PROMPTS]
    each = 0 if policy.subspace.features is not None else 6
    samples = math.ceil(max(START_ANSWERS, each * policy.dim) / len(asked))
    path = cache.cache_dir() / "readings" / _file_name(policy, asked, samples)
    shipped = READINGS / _file_name(policy, asked, samples, dtype=SHIPPED_DTYPE)
    found = cache.read_either(shipped, path, _read_file, "the reading of the start is")
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
    named = [
        loaded.sha256, dtype or loaded.dtype, policy.subspace.basis_sha256,
        policy.sampling.facts(), [prompt.turns for prompt in prompts], samples,
    ]  # fmt: skip
    return f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()}.npz"


def _read_file(path: Path) -> StartReading:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return StartReading(file["scores"], file["figures"], file["prompts"])
