"""Feedback for gradient methods: scores, judges, comparisons, or a run's recorded votes.

A run's recorded votes as pairs: verdicts on rows, notes on rows, and batch verdicts row by row.

The verdict on a comparison is the majority of its counted votes. That on a single row (D = 1) is
a pair marked ``pair``. Of a batch, each row with different answers becomes a pair marked
``batch``, weaker evidence than a vote of its own. A row with panelists' notes becomes a pair
marked ``note`` instead, or none if the notes are balanced.

Also what all gradient methods share: settings, costs and results. A method is one file with
``train(actor, source, recipe, **shared) -> Trained``. It learns from pairs (`Pair`), from an
annotator that it asks (`Ask`) or from a score (`Score`). Its recipe is a frozen section of
settings of the same kind as a run's: texts are converted to the type of the field, so values may
come from a command line. No tensor library is needed here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from szpo import seeds
from szpo.data.preference_formats import Pair, Preferences, Source
from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger, Record
from szpo.seeds import as_seed
from szpo.types import Answer, Comparison, Prompt, Row, Verdict
from szpo.voting import withdrawals
from szpo.voting.counting import verdict
from szpo.voting.evaluator import Judge
from szpo.voting.seats import Letter

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


import time
from collections.abc import Mapping
from dataclasses import field
from typing import Required, TypedDict

from szpo import memory

Ask: TypeAlias = Callable[[Sequence[tuple[Row, ...]], bool, bytes], Sequence[Verdict]]
"""An annotator or panel: gives one vote on each question, where plus is the first answer.

Its arguments: questions with different answers (rows of a prompt and two answers), whether they
are single pairs and not batches, and the key for all its randomness.
"""
Score: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""One number per answer: a learned reward, or a verifier (1 right, 0 wrong)."""
Sides: TypeAlias = Callable[[bytes, int, int], Sequence[tuple[bytes, Letter]]]
"""(key, questions, judges) → for each question, its own key and the side of the first answer."""
OnStep: TypeAlias = "Callable[[Moment], None]"
"""Called after each step; the actor may be sampled and measured inside it (on no clock)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of a method; votes and answers read are counted as in an szpo run."""

    votes: int = 0
    """Votes A, B or tie on comparisons with different answers."""
    answers_read: int = 0
    """Answers shown: two for each row whose answers differ."""
    tokens_generated: int = 0
    """Tokens of all answers that the method drew, whether read or not."""
    seconds: float = 0.0
    """Wall-clock time without measurements."""
    peak_bytes: int = 0
    """Largest resident memory of the process so far."""


@dataclass
class Meter:
    """Adds up a method's costs; the clock runs inside ``with meter:``."""

    votes: int = 0
    answers_read: int = 0
    tokens_generated: int = 0
    seconds: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def charge_tokens(self, answers: Sequence[Answer]) -> None:
        """Add the tokens of these answers."""
        self.tokens_generated += sum(answer.tokens for answer in answers)

    def charge_votes(self, rows: Sequence[tuple[Answer, Answer]], votes: int = 1) -> None:
        """Add votes on one comparison of these rows; identical rows are not read."""
        self.votes += votes
        self.answers_read += 2 * votes * sum(a.text != b.text for a, b in rows)

    def __enter__(self) -> Meter:
        """Start the clock."""
        self._since = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clock."""
        self.seconds = self.cost().seconds
        self._since = None

    def report(self, on_step: OnStep, step: int, of: int, figures: Mapping[str, float]) -> None:
        """Call ``on_step`` with the clock stopped, so that measurements are not counted."""
        ran = self._since is not None
        self.__exit__()
        on_step(Moment(step, of, self.cost(), figures))
        if ran:
            self.__enter__()

    def cost(self) -> Cost:
        """The costs so far."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return Cost(
            self.votes,
            self.answers_read,
            self.tokens_generated,
            self.seconds + running,
            memory.peak_bytes(),
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """One finished step of training, reported while the actor has the weights after it."""

    step: int
    """Counted from 1."""
    of: int
    cost: Cost
    figures: Mapping[str, float]
    """Logged figures of the step: loss, reward, KL, …"""


class Shared(TypedDict, total=False):
    """The arguments that all methods share."""

    seed: Required[int]
    """Root seed of all draws; the same seed gives the same weights."""
    on_step: OnStep
    meter: Meter
    """A meter with earlier costs; by default a new one."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training run; the actor now has the trained weights."""

    cost: Cost
    log: tuple[Mapping[str, float], ...]
    """The figures of each step."""
    pairs: int = 0
    """Pairs in the training set; in supervised fine-tuning, examples."""
    ties: int = 0
    """Questions that gave no pair."""
    remark: str = ""
    """A warning about the result; "" for none."""


def ignore_step(_: Moment) -> None:
    """Do nothing after a step."""


def pair_of(row: Row, verdict: Verdict, *, source: Source = "pair", votes: int = 1) -> Pair | None:
    """Make a pair from a row and the verdict on it; None for a tie, a skip or equal texts.

    >>> pair_of(Row(Prompt.user("Hello?"), Answer("Hi."), Answer("No.")), "minus").chosen.text
    'No.'
    """
    if verdict in ("tie", "skip") or row.identical:
        return None
    chosen, rejected = (row.plus, row.minus) if verdict == "plus" else (row.minus, row.plus)
    return Pair(row.prompt, chosen, rejected, source, votes)


def draw_sides(key: bytes, questions: int, judges: int) -> list[tuple[bytes, Letter]]:
    """Draw a side for each question, from a key of its own."""
    keys = [seeds.derive(as_seed(key), "baseline vote", k=i) for i in range(questions)]
    return [(own, "B" if seeds.integer(own, 1, 2) == 0 else "A") for own in keys]


@dataclass(frozen=True)
class JudgesAsk:
    """The judges of a panel as an `Ask`: one vote on each question, by the judges in turn."""

    judges: tuple[Judge, ...]
    of_pairs: tuple[Judge, ...] | None = None
    """Judges for single pairs, if another panel is fitted to these; None: the same judges."""
    sides: Sides = draw_sides

    def __post_init__(self) -> None:
        """Refuse an empty panel."""
        if not self.judges:
            raise UsageError("panel: no judges; give at least one")

    def __call__(
        self, questions: Sequence[tuple[Row, ...]], single: bool, key: bytes
    ) -> list[Verdict]:
        """See `szpo.baselines.asking.Ask`."""
        verdicts: list[Verdict] = []
        judges = self.of_pairs if single and self.of_pairs else self.judges
        sides = self.sides(key, len(questions), len(judges))
        for i, (rows, (own, plus)) in enumerate(zip(questions, sides, strict=True)):
            member = i % len(judges)
            choice = judges[member].judge(
                Comparison(own.hex(), 0, 0, i, rows),
                panelist=f"panel-{member}",
                plus_side=plus,
                key=own,
            )
            verdicts.append(verdict(choice, plus))
        return verdicts


@dataclass(frozen=True)
class Survey:
    """Rounds of comparisons between a policy's own answers, two to each prompt."""

    prompts: Sequence[Prompt]
    """The prompts, used in a seeded order over all rounds."""
    ask: Ask
    questions: int
    """Votes in a round."""
    rows: int | None
    """D, the rows of a batch to vote on; None: votes on single pairs."""
    seed: int
    """Root seed of the draws of prompts, answers and votes."""
    purpose: str = "baseline"
    """Name of the draws of answers and votes, used with the seed."""
    drawn: int = 1
    """Rows drawn for each that is asked about; 1: all are."""
    sure: Callable[[Sequence[Row]], Sequence[float]] | None = None
    """How sure the policy is of each row; of those drawn it is asked about the least sure."""


def ask_round(survey: Survey, actor: LoraPolicy, meter: Meter, i: int = 0) -> Preferences:
    """Run round ``i`` of a survey: draw answers of the current actor and ask which are better.

    The meter is charged with answers and votes; nobody is asked about equal answers. The verdict
    on a batch holds for each row whose answers differ. Such pairs are marked ``batch``, since each
    is weaker evidence than a vote of its own.
    """
    size = survey.rows or 1
    need = survey.questions * size
    many = need * survey.drawn
    order = draw_order(len(survey.prompts), many, survey.seed, first=i * many)
    prompts = [survey.prompts[j] for j in order]
    key = seeds.derive(survey.seed, f"{survey.purpose} answers", step=i)
    answers = actor.sample(prompts, 2, seed=as_seed(key))
    meter.charge_tokens([answer for two in answers for answer in two])
    rows = [Row(prompt, *two) for prompt, two in zip(prompts, answers, strict=True)]
    if survey.sure is not None and many > need:
        sure = survey.sure(rows)
        unsure = sorted(range(many), key=lambda j: (rows[j].identical, sure[j]))[:need]
        rows = [rows[j] for j in sorted(unsure)]
    questions = [tuple(rows[n * size : (n + 1) * size]) for n in range(survey.questions)]
    differ = [asked for asked in questions if not all(row.identical for row in asked)]
    vote = seeds.derive(survey.seed, f"{survey.purpose} votes", step=i)
    single = survey.rows is None
    chosen: list[Pair] = []
    ties = 0
    for asked, said in zip(differ, survey.ask(differ, single, vote), strict=True):
        meter.charge_votes([(row.plus, row.minus) for row in asked], votes=int(said != "skip"))
        ties += said in ("tie", "skip")
        pairs = [pair_of(row, said, source="pair" if single else "batch") for row in asked]
        chosen += [pair for pair in pairs if pair is not None]
    return Preferences(tuple(chosen), ties)


def draw_order(
    count: int, need: int, seed: int, first: int = 0, purpose: str = "baseline prompts"
) -> list[int]:
    """``need`` entries, from ``first`` on, of an endless seeded order of 0 … count − 1."""
    return seeds.endless_order(
        count, need, lambda lap: seeds.derive(seed, purpose, step=lap), first=first
    )


def read_recorded_pairs(
    ledger: Ledger, meter: Meter | None = None, *, rows_of_batches: bool = True
) -> Preferences:
    """Read the pairs of closed steps from their counted votes, in the order of the steps.

    Votes that were withdrawn since are left out.
    Votes and answers read are added to the meter, as the run counted them. Without
    ``rows_of_batches``, rows that nobody judged singly are left out, and their votes are counted.
    """
    pairs: list[Pair] = []
    ties = comparisons = unused = 0
    meter = meter or Meter()
    stands = withdrawals.left(ledger)
    every = ledger.query("SELECT * FROM counted_votes ORDER BY step, k, n, place")
    cast = [vote for vote in every if stands(vote["panelist"], vote["step"])]
    for shown, own in groupby(cast, key=lambda vote: vote["comparison"]):
        comparison, votes = ledger.comparison(shown), list(own)
        if comparison is None:
            raise IntegrityError(f"{ledger.path.name}: comparison {shown} is missing")
        meter.charge_votes([(r.plus, r.minus) for r in comparison.rows], votes=len(votes))
        made = _make_pairs(comparison, votes)
        ties += not made
        comparisons += 1
        kept = [pair for pair in made if rows_of_batches or pair.source != "batch"]
        unused += len(votes) if len(kept) < len(made) else 0
        pairs += kept
    return Preferences(tuple(pairs), ties, comparisons, unused=unused)


def _make_pairs(comparison: Comparison, votes: list[Record]) -> list[Pair]:
    """The pairs of one comparison."""
    lead = sum({"plus": 1, "minus": -1}.get(vote["verdict"], 0) for vote in votes)
    own: dict[int, list[int]] = defaultdict(list)
    for vote in votes:
        for i, value in _notes(vote).items():
            own[i].append(value)
    pairs = []
    whole: Source = "pair" if len(comparison.rows) == 1 else "batch"
    for i, row in enumerate(comparison.rows):
        if i in own and whole == "batch":
            pair = pair_of(row, _verdict(sum(own[i])), source="note", votes=len(own[i]))
        else:
            pair = pair_of(row, _verdict(lead), source=whole, votes=len(votes))
        pairs += [] if pair is None else [pair]
    return pairs


def _verdict(lead: int) -> Verdict:
    return "plus" if lead > 0 else "minus" if lead < 0 else "tie"


def _notes(vote: Record) -> dict[int, int]:
    """The notes of a vote by row: 1 for plus, −1 for minus, 0 for a tie; malformed ones are not.

    A note has the letter that the panelist saw on screen.
    """
    details = json.loads(vote["details"]) if vote["details"] else {}
    given = details.get("notes") if isinstance(details, dict) else None
    plus = vote["plus_side"]
    values = {"tie": 0, plus: 1, "B" if plus == "A" else "A": -1}
    return {
        int(i): values[letter]
        for i, letter in (given.items() if isinstance(given, dict) else ())
        if i.isdigit() and isinstance(letter, str) and letter in values
    }
