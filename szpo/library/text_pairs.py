"""What `szpo.Tuner` shows of a language model: pairs of batches to compare, and samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from szpo.types import Assignment, Comparison


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two batches of answers to the same prompts, to be judged as wholes.

    Rows in which both answers are equal are left out, and the sides are drawn for each pair, as
    on the panel's page. ``print(pair)`` shows it; notebooks show a table.
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
    """A comparison as the panelist of a seat sees it."""
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
