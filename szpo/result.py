"""The result of a run: how it ended, whether it helped, which guards hold, what votes taught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape

from szpo.analysis import improvement, taught
from szpo.analysis.improvement import Improvement
from szpo.analysis.taught import Lesson
from szpo.intervals import Share
from szpo.ledger.database import Ledger
from szpo.policies.text_guards import Guard
from szpo.training import held_out
from szpo.types import Assignment, Comparison
from szpo.voting.step_report import Outcome


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two answers to a prompt, or two batches to the same prompts, to be judged as wholes.

    Rows with equal answers are left out, and the sides are drawn for each pair, as on the panel's
    page. ``print(pair)`` shows the pair as text; notebooks show a table.
    """

    prompts: tuple[str, ...]
    """The last turn of each prompt."""
    a: tuple[str, ...]
    """One answer to each prompt, in order."""
    b: tuple[str, ...]

    @property
    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(prompt, answer of a, answer of b) in order."""
        return zip(self.prompts, self.a, self.b, strict=True)

    def __str__(self) -> str:
        return "\n\n".join(f"> {p}\nA: {a}\nB: {b}" for p, a, b in self.rows)

    def _repr_html_(self) -> str:
        return _table(("Prompt", "A", "B"), self.rows)


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers of the base and of the tuned model, drawn with the same random numbers."""

    prompt: str
    base: str
    tuned: str

    def __str__(self) -> str:
        return f"> {self.prompt}\nbase:  {self.base}\ntuned: {self.tuned}"

    def _repr_html_(self) -> str:
        return _table(("Prompt", "Base", "Tuned"), iter([(self.prompt, self.base, self.tuned)]))


def make_pair(comparison: Comparison, seat: Assignment) -> TextPair:
    """A comparison as the panelist with this assignment sees it."""
    shown = [row for i in seat.prompt_order if not (row := comparison.rows[i]).identical]
    sides = [seat.sides(row) for row in shown]
    return TextPair(
        tuple(row.prompt.text for row in shown),
        tuple(a.text for a, _ in sides),
        tuple(b.text for _, b in sides),
    )


def _table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, slots=True)
class Result(Outcome):
    """An outcome with its findings; ``print(result)`` shows them all."""

    improvement: Improvement
    """The tuned policy against the base, as far as it was measured."""
    guards: tuple[Guard, ...]
    """The guards on held-out prompts; empty if nothing was measured at the end."""
    taught: Lesson | None
    """What the votes are about, or why they show no taste; None if nothing can be said."""
    more_votes: str = ""
    """How to continue the run; empty if it is not finished, or more votes would not help."""

    @property
    def verdict(self) -> str:
        """better, worse, unclear, or unknown if nothing was measured or compared."""
        return self.improvement.verdict

    @property
    def gain(self) -> Share | None:
        """Held-out comparisons that the tuned policy won, with a 95 % interval."""
        return self.improvement.share

    def __str__(self) -> str:
        helped = self.improvement
        found = [f"{self.status}: {self.reason}", helped.sentence]
        found += [guard.line() for guard in self.guards]
        found += [] if self.taught is None else [str(self.taught)]
        found += [f"for more votes: {self.more_votes}"] if self.more_votes else []
        found += [] if helped.last is None else [helped.last.line]
        return "\n".join(found)


def read_result(outcome: Outcome, ledger: Ledger, measurable: bool = True) -> Result:
    """Read the result of a run with this outcome from its ledger.

    ``measurable``: the run has held-out prompts.
    """
    measured, helped = held_out.read(ledger), improvement.read(ledger)
    if not any(point.steps for point in helped.points):
        how = "run(measure=True) does that" if measurable else "no prompt is held out"
        helped = replace(helped, lack=f"it was not measured; {how}")
    lesson = taught.read(ledger)
    return Result(
        outcome.status, outcome.reason, outcome.steps, outcome.votes,
        helped,
        () if measured is None else measured.guards,
        lesson,
        taught.more_votes(ledger, lesson) if outcome.status == "finished" else "",
    )  # fmt: skip
