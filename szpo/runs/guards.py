"""Guards of a run: bands that pause it, and what held-out prompts show before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from szpo import metrics
from szpo.config.tables import Guards
from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.models.answer_shares import is_cut
from szpo.policies import text_guards
from szpo.policies.protocol import Speaker
from szpo.policies.text_guards import Guard, TextFigures
from szpo.types import Answer, Comparison, Prompt

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
    before: TextFigures, after: TextFigures, kl: tuple[float, float]
) -> list[dict[str, str]]:
    """Figures of the answers of a policy's start and of the policy.

    ``kl``: between them, nats an answer, and its standard error; nan where it is not known.
    """
    found = [
        as_row("log-probability per token under the base", before.logprob, after.logprob),
        as_row("distinct-2", before.distinct2, after.distinct2),
        as_row("tokens per answer", before.tokens, after.tokens),
        as_row(
            "KL to the start, nats per answer", 0.0, kl[0],
            "" if math.isnan(kl[1]) else f"± {kl[1]:.2f}",
        ),
    ]  # fmt: skip
    if before.margin is not None and after.margin is not None:
        name = f"own prompt over the best of {after.others} others, nats (median)"
        share = f"{after.margin / before.margin:.0%} of the base's" if before.margin > 0 else ""
        found.append(as_row(name, before.margin, after.margin, share))
    return found


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
    def missing(self) -> str:
        """That the topic's guard is missing, and why; "" if it is there."""
        return "" if self.gap is None else f"no guard of the topic: {self.gap}"

    @property
    def lines(self) -> list[str]:
        """The guards, one a line, and which is missing."""
        return [*(guard.line() for guard in self.guards), *filter(None, [self.missing])]

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


def record_held_out(ledger: Ledger, found: HeldOut) -> None:
    """Record a measurement as an event of kind ``evaluation``."""
    body: dict[str, Any] = {
        "rows": [dict(row) for row in found.rows],
        "guards": [asdict(guard) for guard in found.guards],
        "topic": found.gap,
        "theta_sha256": found.theta_sha256,
    }
    ledger.record_event("evaluation", "szpo run", body)


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
