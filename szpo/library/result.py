"""What came of a run: how it ended, whether it helped, which guards hold, what votes taught."""

from __future__ import annotations

from dataclasses import dataclass, replace

from szpo.analysis import improvement, taught
from szpo.analysis.improvement import Improvement
from szpo.analysis.taught import Lesson
from szpo.intervals import Share
from szpo.ledger.database import Ledger
from szpo.policies.text_guards import Guard
from szpo.training import held_out
from szpo.training.step_report import Outcome


@dataclass(frozen=True, slots=True)
class Result(Outcome):
    """An outcome with what was found; ``print(result)`` shows all of it."""

    improvement: Improvement
    """The tuned policy against the base, as far as it was measured."""
    guards: tuple[Guard, ...]
    """On held-out prompts; empty where nothing was measured at the end."""
    taught: Lesson | None
    """What the votes are about; None where coordinates are not named features."""

    @property
    def verdict(self) -> str:
        """better, worse, unclear, or unknown where nobody measured or compared."""
        return self.improvement.verdict

    @property
    def gain(self) -> Share | None:
        """Held-out comparisons that the tuned policy won, with a 95 % interval."""
        return self.improvement.share

    def __str__(self) -> str:
        found = [f"{self.status}: {self.reason}", self.improvement.sentence]
        found += [guard.line() for guard in self.guards]
        found += [] if self.taught is None else [str(self.taught)]
        return "\n".join(found)


def read_result(outcome: Outcome, ledger: Ledger, measurable: bool = True) -> Result:
    """Read what the record says of a run that has ended so.

    ``measurable``: prompts are held out.
    """
    measured, helped = held_out.read(ledger), improvement.read(ledger)
    if not any(point.steps for point in helped.points):
        how = "run(measure=True) does that" if measurable else "no prompt is held out"
        helped = replace(helped, lack=f"it was not measured; {how}")
    return Result(
        outcome.status, outcome.reason, outcome.steps, outcome.votes,
        helped,
        () if measured is None else measured.guards,
        taught.read(ledger),
    )  # fmt: skip
