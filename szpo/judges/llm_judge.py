"""A language model as a judge, and judges as panelists: several are asked at once."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import KW_ONLY, dataclass, field, replace
from statistics import fmean
from typing import Any, Final, Literal, NoReturn, Protocol, TypeAlias

from szpo import seeds
from szpo.config.tables import Judge
from szpo.errors import RunError
from szpo.judges import prompting, round_progress
from szpo.judges.prompting import Backend, JudgeError, Labels, Preferred, Question, Reply
from szpo.judges.round_progress import Heard
from szpo.ledger.database import Ledger
from szpo.types import Assignment, Choice, Comparison, Passing, Prompt, Row, Say, silent
from szpo.voting import panel_evaluator, step_states
from szpo.voting.casting import VoteConflictError
from szpo.voting.evaluator import NobodyLeftError
from szpo.voting.seats import Letter
from szpo.voting.service import VoteService

Maker: TypeAlias = Callable[[bool], Prompt]
"""Writes a question; the argument is True if the last reply to it could not be read."""

RETRIES = 2
"""How often a question is repeated after an unreadable reply."""
REPLY_CHARACTERS: Final = 2000
"""Of each reply, this many characters from its end are kept in the vote's details."""
SHOWN_CHARACTERS: Final = 80
"""Of a reply in a message."""
UNREADABLE: Final = "no clear verdict in the reply"
Sides: TypeAlias = tuple[Choice, Choice]
"""The answer in each order, as letters on screen."""
Seat: TypeAlias = tuple[Comparison, str, Assignment]


@dataclass(frozen=True, slots=True)
class Opinion:
    """A judge's choice by letters as on screen, with its reasons."""

    choice: Choice
    details: Mapping[str, Any] = field(default_factory=dict)


class Opinionated(Protocol):
    """A judge that gives reasons for its choice; they are stored with the vote."""

    def opinion(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Opinion:
        """As `szpo.voting.evaluator.Judge.judge`, with the reasons."""


@dataclass(frozen=True)
class LanguageJudge:
    """Asks a language model about both orders and makes one vote of the replies.

    ``principles`` replace ``criterion``: each vote's key draws one. ``references`` maps a
    request's text to a good answer; ``labels`` are the names of the two sets.
    """

    backend: Backend
    settings: Judge
    criterion: str
    principles: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    labels: Labels = prompting.LETTERS
    heard: Heard = field(default_factory=Heard, repr=False, compare=False)

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """See `szpo.voting.evaluator.Judge`."""
        return self.opinion(comparison, panelist=panelist, plus_side=plus_side, key=key).choice

    def opinion(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Opinion:
        """One vote from both orders, with both raw replies in its details."""
        if comparison.identical:
            return Opinion("tie")
        at = seeds.integer(key, 0, len(self.principles)) if self.principles else None
        criterion = self.criterion if at is None else self.principles[at]
        rows = [row for row in comparison.rows if not row.identical]
        read = self._ask(rows, criterion, plus_side, key)
        details: dict[str, Any] = {
            "judge": self.backend.name,
            "ask": self.settings.ask,
            "replies": [_raw(each) for each in read],
            "tokens": [
                sum(r.tokens_in for r in read),
                sum(r.tokens_out for r in read),
            ],
        }
        if at is not None:
            details["principle"] = at
        failed = next((r for r in read if r.value is None), None)
        if failed is not None:
            self._refuse(failed)
        pair, logit = _part(self.settings.ask, *read)
        details["orders"] = [pair]
        if logit is not None:
            details["p"] = p = probability(logit)  # of A on screen; a bias for a position cancels
            if self.settings.decide == "draw":
                drawn = seeds.uniform(_derive_key(key, "draw"), 1)[0] < p
                return Opinion("A" if drawn else "B", details)
            if self.settings.decide == "debias":
                return Opinion(by_sign(logit), details)
        return Opinion(combine_orders(pair), details)

    def _ask(
        self, rows: Sequence[Row], criterion: str, plus_side: Letter, key: bytes
    ) -> list[Reply]:
        """Two replies: A first and B first, or the grades of A and of B."""
        orders: tuple[Literal["plus", "minus"], ...]
        orders = ("plus", "minus") if plus_side == "A" else ("minus", "plus")
        makers = [self._maker(rows, first, criterion) for first in orders]
        return self._ask_all(makers, key)

    def rate(self, shown: Sequence[tuple[Prompt, str]]) -> list[Reply]:
        """How far the criterion holds of each answer by itself: a grade, or the odds of yes."""
        given = prompting.Instructions(self.criterion, {}, self.backend.reserved)
        kind: Literal["soft_rating", "rating"]
        kind = "soft_rating" if self.settings.ask == "soft" else "rating"

        def maker(one: tuple[Prompt, str]) -> Maker:
            return lambda again: prompting.ask_grade([one], given, again=again, template=kind)

        text = "\0".join(f"{prompt.text}\0{answer}" for prompt, answer in shown)
        key = seeds.derive(0, "judge rating", name=f"{self.criterion}\0{text}")
        replies = self._ask_all([maker(one) for one in shown], key)
        for each in replies:
            if each.value is None:
                self._refuse(each)
        return replies

    def _ask_all(self, makers: Sequence[Maker], key: bytes) -> list[Reply]:
        """The replies to all questions; those that cannot be read are asked again."""
        outcomes = [Reply()] * len(makers)
        waiting = list(range(len(makers)))
        for attempt in range(RETRIES + 1):
            questions = [
                Question(makers[i](attempt > 0), _derive_key(key, f"{i}/{attempt}"))
                for i in waiting
            ]
            replies = (
                self.backend.weigh(questions, self.labels)
                if self.settings.ask == "soft"
                else self.backend.write(questions)
            )
            for i, reply in zip(waiting, replies, strict=True):
                outcomes[i] = self._read(_add_cost(reply, outcomes[i]))
                self.heard.note(_wrong(outcomes[i]) if outcomes[i].value is None else None)
            waiting = [i for i in waiting if outcomes[i].value is None and not outcomes[i].final]
            if not waiting or (attempt and self.heard.hopeless):
                break
        return outcomes

    def _maker(
        self, rows: Sequence[Row], first: Literal["plus", "minus"], criterion: str
    ) -> Maker:
        shown = prompting.rows_of(rows, first)
        given = prompting.Instructions(criterion, self.references, self.backend.reserved)
        if self.settings.ask == "grades":
            one = [(prompt, answer) for prompt, answer, _ in shown]
            return lambda again: prompting.ask_grade(one, given, again=again)
        template: Literal["soft", "verdict"] = "soft" if self.settings.ask == "soft" else "verdict"
        return lambda again: prompting.ask_verdict(
            template, shown, given, labels=self.labels, again=again
        )

    def _read(self, reply: Reply) -> Reply:
        if reply.failure is not None:
            return reply
        if reply.odds is not None:
            if not all(map(math.isfinite, reply.odds)):
                return replace(reply, odds=None, failure="a log-probability is not finite")
            return replace(reply, value=reply.odds[0] - reply.odds[1])
        whole = reply.ended
        text = reply.text if whole else reply.text.rpartition("\n")[0]  # the last line is cut
        if self.settings.ask == "grades":
            return replace(reply, value=prompting.read_grade(text, whole=whole))
        return replace(reply, value=prompting.read_verdict(text, self.labels, whole=whole))

    def _refuse(self, reply: Reply) -> NoReturn:
        """Stop at a question without an answer; what was cast before is kept."""
        wrong = reply.failure or UNREADABLE
        if reply.failure is None and not reply.ended:
            wrong += f", which was cut at judge.max_tokens ({self.settings.max_tokens}: raise it)"
        if self.heard.hopeless:
            wrong += f", as in each of {self.heard.replies} replies"
        elif not reply.final:
            wrong += f", asked {RETRIES + 1} times"
        if reply.text and reply.failure is None:
            wrong += f" ({_wrong(reply)})"
        raise JudgeError(
            f"judge {self.backend.name}: {wrong}; all votes cast are stored. Correct it and "
            "resume, or answer this step with another: szpo judge RUN --once --set judge.model=…"
        )


def _wrong(reply: Reply) -> str:
    """What cannot be read: a part of it, or what went wrong."""
    return reply.failure or f"one: {shorten(reply.text)!r}"


def shorten(text: str) -> str:
    """The end of a reply, for a message of one line."""
    return " ".join(text.split())[-SHOWN_CHARACTERS:]


def combine_orders(orders: Sides) -> Choice:
    """The side that both orders name, else a tie.

    >>> combine_orders(("A", "A")), combine_orders(("A", "B")), combine_orders(("A", "tie"))
    ('A', 'tie', 'tie')
    """
    return orders[0] if orders[0] == orders[1] else "tie"


def probability(logit: float) -> float:
    """e^a / (e^a + e^b) with logit = a − b, for logits of any size.

    >>> probability(0.0), probability(-1e4), round(probability(2.0), 5)
    (0.5, 0.0, 0.8808)
    """
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))


def _part(ask: str, one: Reply, other: Reply) -> tuple[Sides, float | None]:
    """The answers of two replies as sides on screen, and the mean of their logits.

    A bias b for the first position adds to both: l₁ = Δ + b, l₂ = −Δ + b, so (l₁ − l₂)/2 = Δ.
    """
    if ask == "grades":
        side = by_sign(one.value - other.value)
        return (side, side), None
    if ask == "soft":
        a, b = one.value, other.value
        return (by_sign(a), by_sign(-b)), (a - b) / 2
    first: dict[Preferred, Choice] = {"first": "A", "second": "B", "tie": "tie"}
    second: dict[Preferred, Choice] = {"first": "B", "second": "A", "tie": "tie"}
    return (first[one.value], second[other.value]), None


def by_sign(value: float) -> Choice:
    """A where the value is above 0, B where it is below."""
    return "tie" if value == 0 else "A" if value > 0 else "B"


def _raw(reply: Reply) -> dict[str, Any]:
    if reply.odds is not None:
        return {"odds": list(reply.odds)}
    return {"text": reply.text[-REPLY_CHARACTERS:]} | (
        {"failure": reply.failure} if reply.failure else {}
    )


def _add_cost(reply: Reply, before: Reply) -> Reply:
    """The reply with the tokens of the tries before it added."""
    return replace(
        reply,
        tokens_in=reply.tokens_in + before.tokens_in,
        tokens_out=reply.tokens_out + before.tokens_out,
    )


def _derive_key(key: bytes, name: str) -> bytes:
    return seeds.derive(0, "judge question", name=f"{key.hex()}/{name}")


@dataclass(eq=False)
class JudgeEvaluator:
    """Panelists of kind judge, named ``name``-0, ``name``-1, …; an `Evaluator`.

    Up to ``concurrency`` comparisons are judged at once. Without ``complete``, others may vote in
    the same run, and seats that these judges cannot fill are left to them.
    """

    service: VoteService
    judges: Sequence[Opinionated]
    _: KW_ONLY
    name: str = "judge"
    concurrency: int = 1
    complete: bool = True
    say: Say = silent
    _times: list[float] = field(default_factory=list, init=False)
    """Seconds of each pair judged."""
    _panel: dict[str, Opinionated] = field(default_factory=dict, init=False)

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Judge these comparisons; those that all judges skip are left out of the step.

        Raises:
            UsageError: M is larger than the panel, or it is empty.
            RunError: a judge stopped the run, or all of them skipped a whole step. Votes cast
                before are kept.
        """
        service = self.service
        self._panel = self._panel or panel_evaluator.enroll(
            service, "judge", self.name, self.judges
        )
        try:
            while seats := panel_evaluator.open_seats(
                service, list(self._panel), comparisons, complete=self.complete
            ):
                self._round(seats)
            if not self.complete or service.counted(comparisons[0].step):
                return
        except NobodyLeftError:
            pass
        self._close(comparisons[0].step)

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has stored every answer."""

    def _round(self, seats: Sequence[Seat]) -> None:
        """Ask about every seat; raise the first error after storing all answers."""
        failed: BaseException | None = None
        left, ended = {seat.id for _, _, seat in seats}, threading.Event()

        def ask(comparison: Comparison, panelist: str, seat: Assignment) -> Opinion | None:
            if ended.is_set():
                return None
            key = panel_evaluator.judge_key(self.service.ledger.root_seed, comparison, panelist)
            began = time.monotonic()
            opinion = self._panel[panelist].opinion(
                comparison, panelist=panelist, plus_side=seat.plus_side, key=key
            )
            self._times.append(time.monotonic() - began)
            return opinion

        tell = self._teller(len(seats))
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(ask, *seat): seat for seat in seats}
            waiting = set(asked)
            try:
                while waiting:
                    done, waiting = wait(waiting, tell(), FIRST_COMPLETED)
                    for future in done:
                        if (error := future.exception()) is not None:
                            failed = failed or error
                            ended.set()
                        elif (opinion := future.result()) is not None:
                            self._cast(asked[future], opinion)
                            left.discard(asked[future][2].id)
            finally:
                ended.set()  # an interrupt waits only for questions under way
        if failed is not None:
            with self.service.ledger.transaction("votes"):
                for seat in left:
                    self.service.release(seat)
            raise failed

    def _teller(self, of: int) -> Callable[[], float]:
        """What says how far a round is where a line is due; returns seconds until the next."""
        began = told = time.monotonic()
        before = len(self._times)
        first = self.judges[0]  # the others are copies
        heard = first.heard if isinstance(first, LanguageJudge) else Heard()
        replies, unread = heard.replies, heard.unread

        def tell() -> float:
            nonlocal told
            now, wrong = time.monotonic(), ""
            if now >= told + round_progress.TELL_S:
                told = now
                if bad := heard.unread - unread:
                    wrong = f"{bad} of {heard.replies - replies} replies not read ({heard.one})"
                done, usual = len(self._times) - before, self._times[-of:]
                each = fmean(usual) if usual else None
                line = round_progress.describe(
                    done, of, now - began, each, self.concurrency, wrong
                )
                self.say(Passing(line))
            return max(0.0, told + round_progress.TELL_S - now)

        return tell

    def _cast(self, seat: Seat, opinion: Opinion) -> None:
        comparison, panelist, assignment = seat
        # Another process of this judge was faster, or the step closed: keep the stored vote.
        with contextlib.suppress(VoteConflictError):
            self.service.cast(
                assignment.id,
                opinion.choice,
                idem=panel_evaluator.idem_key(self.service.ledger.root_seed, comparison, panelist),
                details=opinion.details,
            )

    def _close(self, step: int) -> None:
        """Close a step with the votes there are."""
        ledger = self.service.ledger
        if not self.service.counted(step):
            # A skipped single row is not asked again.
            over = step_states.close(ledger, step, "rule")
            again = "let it answer as new panelists: szpo judge RUN --name NEW"
            raise RunError(
                f"step {step}: no comparison was judged (nobody is left to ask); correct the "
                f"judge, then {'resume' if over else again}"
            )
        step_states.close(ledger, step, "operator", actor="judge", reason="nobody is left to ask")


def tokens(ledger: Ledger) -> Mapping[str, tuple[int, int]]:
    """Tokens read and written by each judge of a run so far, by panelist's name."""
    rows = ledger.query(
        "SELECT p.pseudonym AS name, sum(json_extract(v.details, '$.tokens[0]')) AS read, "
        "sum(json_extract(v.details, '$.tokens[1]')) AS written "
        "FROM votes v JOIN assignments a USING (assignment) JOIN panelists p USING (panelist) "
        "WHERE p.kind = 'judge' GROUP BY p.pseudonym ORDER BY p.pseudonym"
    )
    return {row["name"]: (int(row["read"] or 0), int(row["written"] or 0)) for row in rows}
