"""What a step came to, as one frozen value: what is written of it, and what everybody reads.

A run makes an `AppliedStep` of a closed step's votes; its rows of `updates` and its event "step"
follow from it. `verify` makes the same value of the recorded votes and compares it with them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

import numpy as np

from szpo.ledger.database import Ledger, Record
from szpo.types import Comparison, Floats, Info, Layout, Tally, Theta, Update
from szpo.voting.counting import StepVotes
from szpo.voting.recorded_step import Step, read_steps

T = TypeVar("T")

OWN_PAIRS: Final = ("pool", "mixed")
"""What `steps.pairing` is where some pairs or all are the policy's own, without directions."""
ROW: Final = (
    "step", "state", "pairing", "mu", "k", "n", "m", "opened_us", "closed_us", "closed_by"
)  # fmt: skip
"""The fields of a report that are columns of the step's row."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """A planned step: its plan, its times, its counted votes and, once applied, its figures.

    The loop records it with the step's update (`body`), everybody reads it by `read_reports`.
    ``kl`` is in nats per completion, ``norm`` is |θ|, ``length`` is in tokens (else words).
    """

    step: int
    state: str
    pairing: str
    mu: float
    k: int
    n: int
    m: int
    opened_us: int | None = None
    closed_us: int | None = None
    closed_by: str | None = None
    applied_us: int | None = None
    votes: int = 0
    """Counted votes; until the step is applied they are those so far."""
    plus: int = 0
    minus: int = 0
    ties: int = 0
    skips: int = 0
    automatic_ties: int = 0
    """Comparisons that were tied without asking."""
    answers_read: int = 0
    """Answers in the rows shown for votes and skips, and their words."""
    words_read: int = 0
    total_votes: int = 0
    """Counted votes of this step and those before."""
    delta: tuple[float | None, ...] = ()
    """For each direction Δ̂, in units of the link, and its standard error."""
    stderr: tuple[float | None, ...] = ()
    alpha: float | None = None
    """Step size of this step; None in a warm-up and under ``regression``."""
    capped: bool = False
    warmup: bool = False
    kl: float | None = None
    length: float | None = None
    repetition: float | None = None
    identical: float | None = None
    norm: float | None = None
    moved: float | None = None
    """|θ after − θ before|."""
    not_finite: tuple[str, ...] = ()
    """Watched figures that were not finite; their fields are None."""
    theta_sha256: str | None = None
    votes_sha256: str | None = None
    reach: Mapping[str, Any] | None = None
    """The KL measured of the point that the votes proposed (`Step.reach`), as recorded."""
    distinct: float | None = None
    """Share of different word pairs among all of the answers; see `szpo.analysis.vote_rows`."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures recorded with the answers, ``generation_s`` among them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of generation (the policy's rollout), evaluation (asking and waiting) and other."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def perturbed(self) -> bool:
        """Each direction has two policies, so that votes on its comparisons are alike."""
        return self.pairing not in OWN_PAIRS

    @property
    def win_rate(self) -> float | None:
        """Share of votes for plus, with a tie as half a vote; None without votes."""
        return (self.plus + self.ties / 2) / self.votes if self.votes else None

    @property
    def estimate(self) -> tuple[float | None, float | None]:
        """Δ̂ as a mean over directions, and its standard error."""
        values, errors = ([x for x in of if x is not None] for of in (self.delta, self.stderr))
        return (
            sum(values) / len(values) if values else None,
            sum(e * e for e in errors) ** 0.5 / len(errors) if errors else None,
        )

    @property
    def body(self) -> dict[str, Any]:
        """The body of the event "step", without the step's row."""
        given = {name: getattr(self, name) for name in RECORDED}
        strange = {"not_finite": self.not_finite} if self.not_finite else {}
        body: dict[str, Any] = plain({**self.figures, **given, **strange, **self.seconds})
        return body


@dataclass(frozen=True, slots=True, eq=False)
class AppliedStep:
    """What a rule made of a step's votes, ready to be written."""

    rule: str
    tally: Tally
    updates: tuple[Update, ...]
    """The updates to record: one per direction, or one per point."""
    report: StepReport
    centre_sha256: str
    """The digest of the centre after the step; the report has the recommended point's."""

    @property
    def rows(self) -> tuple[Record, ...]:
        """The rows of `updates`, without the columns of the chain and of the time."""
        return tuple(
            {
                "step": self.report.step,
                "k": update.k,
                "coef": update.coef,
                "vector": None
                if update.vector is None
                else np.asarray(update.vector, dtype="<f4").tobytes(),
                "rule": self.rule,
                "estimate": of_direction(self.report.delta, update.k),
                "stderr": of_direction(self.report.stderr, update.k),
                "n_votes": self._votes_of(update),
                "votes_sha256": self.report.votes_sha256,
                "theta_sha256": self.centre_sha256 if update.k else self.report.theta_sha256,
            }
            for update in self.updates
        )

    def _votes_of(self, update: Update) -> float:
        """An only row has all of the step's votes; of several vectors the first, others none."""
        counts = self.tally.plus + self.tally.minus + self.tally.tie
        if update.vector is not None and update.k:
            return 0.0
        every = len(self.updates) == 1 or update.vector is not None
        return float((counts if every else counts[update.k]).sum()) + 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why `run` returned, and the run's applied steps and counted votes."""

    status: Literal["finished", "paused", "stopped"]
    reason: str
    steps: int
    votes: int


class Stopwatch:
    """Measures the seconds of one step: generation, evaluation (asking and waiting), and other."""

    PARTS: Final = ("generation_s", "evaluation_s", "other_s")

    def __init__(self, timer: Callable[[], float]):
        self._timer: Final = timer
        self._started: Final = timer()
        self._spent = dict.fromkeys(self.PARTS[:2], 0.0)

    def time(
        self, part: Literal["generation_s", "evaluation_s"], act: Callable[[], T]
    ) -> tuple[T, float]:
        """Call ``act`` and add its seconds to a part; returns its result and the seconds."""
        started = self._timer()
        found = act()
        seconds = self._timer() - started
        self._spent[part] += seconds
        return found, seconds

    def seconds(self) -> dict[str, float]:
        """Seconds so far, by part."""
        total = self._timer() - self._started
        return {**self._spent, "other_s": max(0.0, total - sum(self._spent.values()))}


def finite(value: float | None) -> float | None:
    """The number, with −0.0 as 0.0; None where it is not finite (a spread of one value)."""
    return None if value is None or not np.isfinite(value) else float(value) + 0.0


def of_direction(values: Sequence[float | None], k: int) -> float | None:
    """The value of direction k, as `finite`; None where there is no such direction."""
    return finite(values[k]) if k < len(values) else None


def report_of(
    row: Record, info: Info, counts: Mapping[str, int], *, votes_sha256: str, theta_sha256: str,
    before: Floats, after: Floats, findings: Mapping[str, Any] | None,
) -> StepReport:  # fmt: skip
    """The report of an applied step, as far as its votes and weights give it.

    ``row``: the step's row. ``counts``: of `count`, and ``total_votes``. ``before`` and ``after``:
    θ as vectors. ``findings``: of a rule that has some, as JSON.
    """
    extra = {**(info.extra or {}), **({} if findings is None else {"findings": findings})}
    plan_and_counts: dict[str, Any] = {**{name: row[name] for name in ROW}, **counts}
    return StepReport(
        **plan_and_counts,
        delta=info.delta,
        stderr=tuple(finite(value) for value in info.stderr),
        alpha=extra.get("alpha"),
        capped=info.capped,
        warmup=info.warmup,
        norm=float(np.linalg.norm(after)),
        moved=float(np.linalg.norm(after - before)),
        theta_sha256=theta_sha256,
        votes_sha256=votes_sha256,
        extra=extra,
    )


def flatten(theta: Theta, layout: Layout) -> Floats:
    """θ as one float64 vector, in layout order."""
    return np.concatenate([np.asarray(theta[name], np.float64).ravel() for name, _ in layout])


def plain(value: Any) -> Any:
    """The value for JSON: arrays become lists, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def read_reports(ledger: Ledger, step: int | None = None) -> tuple[StepReport, ...]:
    """All planned steps, or one, in order, without ``distinct``."""
    ends = "SELECT step, applied_us FROM updates WHERE ? IS NULL OR step = ? ORDER BY step, k"
    applied_us = {row["step"]: row["applied_us"] for row in ledger.query(ends, (step, step))}
    found: list[StepReport] = []
    for each in read_steps(ledger, step):
        row, done = each.row, dict(each.body("step"))
        if row["state"] != "applied":
            votes = StepVotes(ledger, each.number)
            done = {**count(votes, ledger.comparisons(each.number))}
            done["total_votes"] = done["votes"] + (found[-1].total_votes if found else 0)
        figures = figures_of(each)
        noted = {**row, **figures, **done, "applied_us": applied_us.get(each.number)}
        given = {name: noted[name] for name in _FIELDS if noted.get(name) is not None}
        times = {name: done[name] for name in Stopwatch.PARTS if name in done}
        lists = {name: tuple(given.get(name, ())) for name in ("delta", "stderr", "not_finite")}
        found.append(StepReport(**{**given, **lists, "figures": figures, "seconds": times}))
    return tuple(found)


def figures_of(step: Step) -> dict[str, float]:
    """The figures recorded with a step's answers, since texts are stored without token counts."""
    return {
        name: value
        for name, value in step.body("generated").items()
        if isinstance(value, int | float) and name != "step"
    }


def count(votes: StepVotes, comparisons: Sequence[Comparison]) -> dict[str, int]:
    """The counts of a step's report, from its votes and training comparisons."""
    verdicts = Counter(vote.verdict for vote in votes.counted)
    skips = [vote for vote in votes.standing if vote.verdict == "skip"]
    shown = {c.id: [row for row in c.rows if not row.identical] for c in comparisons}
    read = [row for vote in (*votes.counted, *skips) for row in shown[vote.comparison]]
    words = (len(answer.text.split()) for row in read for answer in (row.plus, row.minus))
    return {
        "votes": len(votes.counted), "plus": verdicts["plus"], "minus": verdicts["minus"],
        "ties": verdicts["tie"], "skips": len(skips),
        "automatic_ties": sum(c.identical for c in comparisons),
        "answers_read": 2 * len(read), "words_read": sum(words),
    }  # fmt: skip


_FIELDS: Final = {field.name for field in fields(StepReport)} - {"figures", "seconds"}
RECORDED: Final = sorted(
    _FIELDS - {*ROW, "applied_us", "distinct", "not_finite", "length", "repetition", "identical"}
    | {"step"}
)
"""Those that are entries of the event "step"; the figures of the answers stand beside them."""
