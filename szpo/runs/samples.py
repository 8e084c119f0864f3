"""Answers of a run's policy after any of its steps; a check of them that pauses useless runs.

The weights are recomputed from the ledger's updates, never stored. "base" is this ledger's θ₀;
"current" is the policy after all applied steps.

Before its first sheet opens, a run for people reads the answers that were drawn for it, counts
those that nobody can judge, and records both. Shares beyond `szpo.models.answer_shares.BOUNDS`
pause the run; the operator may still go on, which is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import LeaseError, UsageError
from szpo.ledger import orders, theta
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.ledger.theta import (
    recommended_digest,
    theta_digest,
    theta_digests,
    updated_digests,
)
from szpo.models import answer_shares
from szpo.models.answer_shares import NAMES, AnswerShares
from szpo.policies import text_guards
from szpo.policies.protocol import Policy, Speaker, draw_answers, moved
from szpo.replay import replay
from szpo.runs.assemble import RunParts
from szpo.seeds import as_seed
from szpo.types import Answer, Comparison, Prompt, Row, Say
from szpo.voting import lease, pauses, step_states
from szpo.voting.panel_evaluator import Score

PROMPTS = 6
"""Default number of prompts of an order."""
COMPARISONS = 20
"""Default number of comparisons of a final order."""

SAMPLES: Final = 12
"""Most answers of the first round that are read and shown as samples."""
READ_AFTER: Final = 2
"""Other prompts after which a sample is read: with seven, reading takes longer than writing."""
DRAWN_EVENT: Final = "sample check"
ACCEPTED: Final = "samples accepted"
PAUSED_BY: Final = "the sample check"
"""Recorded as who paused a run whose samples are beyond the bounds."""
ADVICE: Final = "take a larger model, a lower temperature or longer answers"
HOW_TO_OPEN: Final = "open all the same with --accept-samples, or on the operator's page"
RECENT_ROUNDS: Final = 3
"""How many last rounds count for the shares that are shown while a run goes on."""
_SHOWN: Final = 96
"""Characters of a sample that the terminal shows."""
_IN_TERMINAL: Final = 3
"""Samples that the terminal shows: more would push the operator's link out of sight."""


def sample_answers(
    ledger: Ledger,
    parts: RunParts,
    prompts: Sequence[Prompt],
    *,
    until: int | None,
    seed: int,
) -> tuple[tuple[Answer, ...], str]:
    """One answer to each prompt with the weights after the steps < ``until``, and their digest.

    ``until`` None: after all steps. The same seed gives the same random numbers with any weights.
    """
    asked = [clean_prompt(prompt) for prompt in prompts]
    with policy_at(ledger, parts, until) as policy:
        drawn = draw_answers(policy, asked, 1, seed=seed)
        return tuple(clean_answer(row[0]) for row in drawn), policy.digest()


def typical_answers(
    ledger: Ledger, parts: RunParts, prompts: Sequence[Prompt], *, until: int | None, seed: int
) -> tuple[tuple[Answer, ...], str]:
    """As `sample_answers`, but the likeliest answers of a language model, whole for readers."""
    asked = [clean_prompt(prompt) for prompt in prompts]
    with policy_at(ledger, parts, until) as policy:
        if isinstance(policy, Speaker):
            found = policy.likeliest(asked)
            return tuple(map(clean_answer, found)), policy.digest()
    return sample_answers(ledger, parts, prompts, until=until, seed=seed)


def fulfil(ledger: Ledger, order: Order, parts: RunParts) -> None:
    """Sample the base, the policy after the order's step, and the current one on the same prompts.

    The result has "prompts" (texts) and "columns": each a "name" (base, step k or current), the
    last step applied ("step", None for the base), "theta_sha256" and "answers" ([text, end]).
    """
    asked = (parts.prompts.heldout or parts.prompts.train)[: order.body.get("prompts", PROMPTS)]
    seed = as_seed(seeds.derive(ledger.root_seed, "samples"))
    step, last = order.body.get("step"), ledger.last_applied()
    wanted: list[tuple[str, int | None, int | None]] = [("base", None, 0)]
    if step is not None:
        wanted.append((f"step {step}", step, step + 1))
    wanted.append(("current", last, None))
    columns = []
    for name, at, until in wanted:
        given, digest = typical_answers(ledger, parts, asked, until=until, seed=seed)
        column: dict[str, Any] = {"name": name, "step": at, "theta_sha256": digest}
        columns.append({**column, "answers": [[answer.text, answer.end] for answer in given]})
    body = {"prompts": [clean_prompt(prompt).text for prompt in asked], "columns": columns}
    orders.settle(ledger, order, body)


def fulfil_final(
    ledger: Ledger,
    order: Order,
    parts: RunParts,
    *,
    drawn: Sequence[Row] = (),
    score: Score | None = None,
) -> None:
    """Draw a blind final comparison's answers; store it and settle its order in one transaction.

    Plus is the tuned policy and minus the base. Unlike in a step,
    the two sides draw independent random numbers: the figure says how often an answer of one is
    preferred to an answer of the other, each drawn as a user would get it.

    ``drawn``: pairs of the policy as it is exported, taken where they are enough. ``score``: a
    simulated panel's reward, by which the result tells how many rows it decides for the policy.
    """
    if theta.is_still(ledger):
        raise UsageError("final comparison: nothing moves in this run; the two sides are the same")
    last = ledger.last_applied()
    if last is None:
        raise UsageError("final comparison: no step is applied yet; the two sides are the same")
    if not parts.prompts.heldout:
        raise UsageError(
            "final comparison: this run has no held-out prompts; mark some with split = heldout"
        )
    place = [o.id for o in orders.orders(ledger, "final")].index(order.id)
    rows = min(parts.settings.section.D, len(parts.prompts.heldout))
    count = rows * order.body.get("comparisons", COMPARISONS)
    pairs = list(drawn[:count])
    if len(pairs) < count:
        asked = draw_prompts(ledger, "final prompts", place, parts.prompts.heldout, count)
        sides = []
        for side, until in (("tuned", None), ("base", 0)):
            seed = as_seed(seeds.derive(ledger.root_seed, "final", k=place, name=side))
            sides.append(sample_answers(ledger, parts, asked, until=until, seed=seed)[0])
        pairs = [Row(*each) for each in zip(asked, *sides, strict=True)]
    made = [
        Comparison(
            seeds.derive(ledger.root_seed, "final", k=place, name=str(n)).hex(),
            -1, place, n, tuple(pairs[n * rows : (n + 1) * rows]), kind="final",
        )
        for n in range(count // rows)
    ]  # fmt: skip
    notes: dict[str, Any] = {
        "rows": rows,
        "after": last,
        "tuned_sha256": recommended_digest(ledger),
        "base_sha256": theta_digests(ledger)[0],
    }
    if score is not None:
        gaps = [score(each.prompt, each.plus) - score(each.prompt, each.minus) for each in pairs]
        notes["true"] = [sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)]
    orders.settle(ledger, order, notes, made)


def draw_prompts(
    ledger: Ledger, name: str, place: int, pool: Sequence[Prompt], count: int
) -> list[Prompt]:
    """Draw prompts in an order that ``name`` seeds; when all are used, in a new order."""
    root, size = ledger.root_seed, len(pool)
    order = seeds.endless_order(
        size, count, lambda lap: seeds.derive(root, name, step=lap * size, k=place)
    )
    return [clean_prompt(pool[i]) for i in order]


@contextmanager
def policy_at(ledger: Ledger, parts: RunParts, until: int | None) -> Iterator[Policy]:
    """Yield the policy with the weights after the steps < ``until``; move it back afterwards.

    They are the weights recommended then; ``until`` None: after all steps.
    """
    policy: Any = parts.policy
    points = [theta_digest(ledger), updated_digests(ledger)[-1]]
    points += [body["theta_sha256"] for body in theta.adopted_bodies(ledger)]
    if until is None and policy.digest() not in points:
        # Its answers would be taken for those of the new weights.
        raise LeaseError(
            f"{ledger.path.name}: another controller has moved this run on; this one stops"
        )
    if until is None and policy.digest() == recommended_digest(ledger):
        yield policy
    elif hasattr(policy, "move_to"):
        with moved(policy, replay.fold(ledger, until)):
            yield policy
    elif parts.maker is not None:
        replay.fold(ledger, until)  # raises if there is no such step
        other = parts.maker(root_seed=parts.settings.root_seed)
        replay.apply_recorded(ledger, parts.settings, other, until)
        yield other
    else:
        raise UsageError("this policy cannot be put at other weights; it has no `move_to`")


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer to a prompt."""

    prompt: str
    answer: Answer
    margin: float | None
    """As in `szpo.policies.text_guards`, nats; None where it was not measured, or the answer is
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


def check_once(
    ledger: Ledger, policy: Policy, say: Say, drawn: Sequence[tuple[Prompt, Answer]] = ()
) -> None:
    """Record and show the samples of a run for people, once; pause it while they are refused.

    ``drawn``: the answers of its first round, where they were just written; once that is over,
    nothing is checked.
    """
    if ledger.last_applied() is not None:
        return
    found = read_check(ledger)
    if found is None and drawn:
        ledger.record_event(DRAWN_EVENT, "run", _read_samples(ledger, policy, drawn[:SAMPLES]))
        found = read_check(ledger)
        assert found is not None, "it was just recorded"
        for line in describe_check(found):
            say(line)
    if found is not None and found.refusal and lease.controller(ledger)["paused_by"] != PAUSED_BY:
        say(f"{found.refusal}; {ADVICE}, or {HOW_TO_OPEN}")
        pauses.pause(ledger, PAUSED_BY, found.refusal)


def awaits_start(ledger: Ledger) -> bool:
    """Whether the operator's start is awaited: no round has opened, or the check paused it."""
    return not step_states.has_opened(ledger) or lease.controller(ledger)["paused_by"] == PAUSED_BY


def accept_samples(ledger: Ledger, by: str) -> None:
    """Allow the run to open without regard to its samples; recorded once."""
    if not list(ledger.events(ACCEPTED)):
        ledger.record_event(ACCEPTED, by, {})


def read_check(ledger: Ledger) -> SampleCheck | None:
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


def describe_check(found: SampleCheck) -> list[str]:
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


def _read_samples(
    ledger: Ledger, policy: Policy, drawn: Sequence[tuple[Prompt, Answer]]
) -> dict[str, Any]:
    """The event's body: samples and their margins."""
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "sample check"))
    asked, answers = [prompt for prompt, _ in drawn], [answer for _, answer in drawn]
    margins = text_guards.margins_in_turn(policy, asked, answers, seed, READ_AFTER)
    rows = [
        [prompt.text, answer.text, answer.end, margin]
        for (prompt, answer), margin in zip(drawn, margins, strict=True)
    ]
    return {"samples": rows, "topic": any(margin is not None for margin in margins)}
