"""A language model as a judge: it sees every comparison in both orders and casts one vote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeAlias

from szpo import seeds
from szpo.config.judge import Judge
from szpo.judges import prompting
from szpo.judges.backends import Backend, JudgeError, Question, Reply
from szpo.judges.prompting import Labels, Preferred
from szpo.types import Choice, Comparison, Prompt, Row
from szpo.voting.seats import Letter

Maker: TypeAlias = Callable[[bool], Prompt]
"""Writes a question; the argument is True if the last reply to it could not be read."""

RETRIES = 2
"""How often a question is repeated after an unreadable reply."""
REPLY_CHARACTERS: Final = 2000
"""Of each reply, this many characters from its end are kept in the vote's details."""
SHOWN_CHARACTERS: Final = 80
"""Of a reply in a message."""
UNREADABLE: Final = "no clear verdict in the reply"


@dataclass(frozen=True, slots=True)
class Opinion:
    """A judge's choice by letters as on screen, with its reasons."""

    choice: Choice
    details: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    """Why it was skipped."""


class Opinionated(Protocol):
    """A judge that gives reasons for its choice; they are stored with the vote."""

    def opinion(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Opinion:
        """As `szpo.evaluators.protocol.Judge.judge`, with the reasons."""


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

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """See `szpo.evaluators.protocol.Judge`."""
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
            return self._resolve_failure(failed, details)
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
        found = self._ask_all([maker(one) for one in shown], key)
        for each in found:
            if each.value is None:
                self._resolve_failure(each, {})
        return found

    def _ask_all(self, makers: Sequence[Maker], key: bytes) -> list[Reply]:
        """The replies to all questions; those that cannot be read are asked again."""
        found = [Reply()] * len(makers)
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
                found[i] = self._read(_add_cost(reply, found[i]))
            waiting = [i for i in waiting if found[i].value is None and not found[i].final]
            if not waiting:
                break
        return found

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

    def _resolve_failure(self, reply: Reply, details: Mapping[str, Any]) -> Opinion:
        wrong = reply.failure or UNREADABLE
        if not reply.final:
            wrong += f", asked {RETRIES + 1} times"
        shown = {**details, "error": wrong}
        if self.settings.on_error == "skip":
            return Opinion("skip", shown, f"judge: {wrong}")
        if self.settings.on_error == "tie":
            return Opinion("tie", shown)
        if reply.text and reply.failure is None:
            wrong += f" (one: {shorten(reply.text)!r})"
        raise JudgeError(
            f"judge {self.backend.name}: {wrong}; all votes cast are stored. Correct it and "
            "resume, or answer this step by: szpo judge RUN --once --set judge.on_error=skip"
        )


def shorten(text: str) -> str:
    """The end of a reply, for a message of one line."""
    return " ".join(text.split())[-SHOWN_CHARACTERS:]


Sides: TypeAlias = tuple[Choice, Choice]
"""The answer in each order, as letters on screen."""


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
