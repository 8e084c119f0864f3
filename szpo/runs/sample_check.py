"""A check of sample answers while people read the first ones; it pauses a run of useless ones.

Behind its first sheet, or before it while the run waits for its operator, a run for people draws
`SAMPLES` answers to its own prompts, counts those that nobody can judge, and records both. Shares
beyond `szpo.generation.answer_shares.BOUNDS` pause the run; the operator may still go on, which is
recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from szpo import seeds
from szpo.generation import answer_shares
from szpo.generation.answer_shares import NAMES, AnswerShares
from szpo.ledger.database import Ledger
from szpo.policies import own_prompt
from szpo.runs import samples
from szpo.runs.assemble import RunParts
from szpo.types import Answer, Say
from szpo.voting import lease, pauses, steps

SAMPLES: Final = 20
DRAWN_EVENT: Final = "sample check"
ACCEPTED: Final = "samples accepted"
PAUSED_BY: Final = "the sample check"
"""Recorded as who paused a run whose samples are beyond the bounds."""
ADVICE: Final = "take a larger model, a lower temperature or longer answers (docs/hardware.md)"
HOW_TO_OPEN: Final = "open all the same with --accept-samples, or on the operator's page"
RECENT_ROUNDS: Final = 3
"""How many last rounds count for the shares that are shown while a run goes on."""
_SHOWN: Final = 96
"""Characters of a sample that the terminal shows."""
_IN_TERMINAL: Final = 3
"""Samples that the terminal shows: more would push the operator's link out of sight."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer to a prompt."""

    prompt: str
    answer: Answer
    margin: float | None
    """As in `szpo.policies.own_prompt`, nats; None where it was not measured, or the answer is
    empty."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Keys of the shares in which this sample is counted."""
        own = answer_shares.measure([self.answer], None if self.margin is None else [self.margin])
        return tuple(name for name, value in own.list_shares() if value.hits)


@dataclass(frozen=True, slots=True)
class SampleCheck:
    """The samples of a run and their shares."""

    samples: tuple[Sample, ...]
    shares: AnswerShares
    accepted: str | None
    """Who opened the run without regard to the samples; None where nobody did."""

    @property
    def refusal(self) -> str:
        """Why the run is paused; "" where it goes on."""
        beyond = self.shares.beyond()
        if not beyond or self.accepted is not None:
            return ""
        return f"people could not judge these answers: {'; '.join(beyond)}"


def check_once(ledger: Ledger, parts: RunParts, say: Say) -> None:
    """Draw, show and record the samples of a run for people, once; pause it if they are refused.

    Nothing is drawn once its first round is over. ``panel.poor_samples = "open"`` never pauses.
    """
    if ledger.last_applied() is not None:
        return
    found = read(ledger)
    if found is None:
        ledger.record_event(DRAWN_EVENT, "run", _draw(ledger, parts))
        found = read(ledger)
        assert found is not None, "it was just recorded"
        for line in describe(found):
            say(line)
    if not found.refusal:
        return
    if parts.config.panel.poor_samples == "open":
        accept(ledger, "panel.poor_samples")
        say(f"warning: {found.refusal}; panel.poor_samples opens the run anyway")
    elif lease.controller(ledger)["paused_by"] != PAUSED_BY:
        say(f"{found.refusal}; {ADVICE}, or {HOW_TO_OPEN}")
        pauses.pause(ledger, PAUSED_BY, found.refusal)


def awaits_start(ledger: Ledger) -> bool:
    """Whether the operator's start is awaited: no round has opened, or the check paused it."""
    return not steps.has_opened(ledger) or lease.controller(ledger)["paused_by"] == PAUSED_BY


def accept(ledger: Ledger, by: str) -> None:
    """Allow the run to open without regard to its samples; recorded once."""
    if not list(ledger.events(ACCEPTED)):
        ledger.record_event(ACCEPTED, by, {})


def read(ledger: Ledger) -> SampleCheck | None:
    """The recorded samples; None in a run without."""
    drawn = list(ledger.events(DRAWN_EVENT))
    if not drawn:
        return None
    found = tuple(
        Sample(prompt, Answer(text, end), margin)
        for prompt, text, end, margin in drawn[-1]["body"]["samples"]
    )
    measured = drawn[-1]["body"]["topic"]
    shares = answer_shares.measure(
        [each.answer for each in found],
        [math.nan if s.margin is None else s.margin for s in found] if measured else None,
        [each.prompt for each in found],
    )
    accepted = [event["actor"] for event in ledger.events(ACCEPTED)]
    return SampleCheck(found, shares, accepted[0] if accepted else None)


def recent_shares(ledger: Ledger) -> AnswerShares | None:
    """The shares of the answers of the last `RECENT_ROUNDS` rounds; None before there are any."""
    rows = ledger.query(
        "SELECT plus, plus_end, minus, minus_end FROM answers JOIN comparisons USING (comparison) "
        "WHERE run = ? AND kind = 'train' AND step > (SELECT max(step) FROM comparisons "
        "WHERE run = ? AND kind = 'train') - ?",
        (ledger.run, ledger.run, RECENT_ROUNDS),
    )
    if not rows:
        return None
    sides = ("plus", "minus")
    return answer_shares.measure([Answer(r[s], r[f"{s}_end"]) for r in rows for s in sides])


def describe(found: SampleCheck) -> list[str]:
    """Lines for a terminal: the first samples, then the shares of all."""
    lines = []
    for each in found.samples[:_IN_TERMINAL]:
        faults = ", ".join(NAMES[name] for name in each.faults)
        text = " ".join(f"{each.prompt} → {each.answer.text}".split())
        short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        lines.append(f"sample{f' ({faults})' if faults else ''}: {short}")
    shares = ", ".join(f"{NAMES[name]} {s.hits:g}" for name, s in found.shares.list_shares())
    many = len(found.samples)
    return [*lines, f"{many} sample answers: {shares}; read all of them on the operator's page"]


def _draw(ledger: Ledger, parts: RunParts) -> dict[str, Any]:
    """Draw sample answers and measure their margins; returns the event's body."""
    key = seeds.derive(ledger.root_seed, "sample check")
    pool, seed = parts.prompts.train, seeds.as_seed(key)
    asked = [pool[i] for i in seeds.endless_order(len(pool), SAMPLES, lambda lap: key)]
    answers, _ = samples.sample_answers(ledger, parts, asked, until=None, seed=seed)
    margins = own_prompt.margins_in_turn(parts.policy, asked, answers, seed)
    rows = [
        [prompt.text, answer.text, answer.end, margin]
        for prompt, answer, margin in zip(asked, answers, margins, strict=True)
    ]
    return {"samples": rows, "topic": any(margin is not None for margin in margins)}
