"""Measure a run's policy on held-out prompts, before, during and after the run, without votes.

Every measurement draws the answers with the same random numbers. It is recorded as an event of
kind ``measured``, which `szpo.analysis.improvement` reads. A simulated panel's reward scores
single answers. At the end the policy is compared blind with its start (`szpo.voting.blind`): a
simulated panel and a function answer at once, people on their page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from szpo import metrics, seeds
from szpo.analysis.improvement import MEASURED, measurements
from szpo.config.schema import Config
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import (
    IntegrityError,
    LeaseError,
    ResourceError,
    StorageError,
    SzpoError,
    UsageError,
)
from szpo.ledger import orders, theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import BUDGET
from szpo.ledger.theta import recommended_digest
from szpo.policies import text_guards
from szpo.policies.protocol import BaseScorer, draw_answers, likeliest
from szpo.runs import setup_progress
from szpo.runs.assemble import RunParts
from szpo.runs.guards import HeldOut, as_row, measure_right, record_held_out, text_rows
from szpo.runs.samples import fulfil_final, policy_at
from szpo.types import Answer, Floats, Passing, Progress, Prompt, Row, Say, unseen
from szpo.voting import applied_step
from szpo.voting.applied_step import StepReport
from szpo.voting.blind import PAIRS
from szpo.voting.evaluator import Judge
from szpo.voting.panel_evaluator import FunctionPanel, Score, answer_order, enroll
from szpo.voting.service import VoteService

TEXTS: Final = 6
"""Prompts whose first answers are recorded, to be read side by side."""
PART: Final = 128
"""Answers that a model of this process writes at once; then it is told how many are written."""
WRITTEN, READ, RIGHT = "answers written", "prompts read", "counting right answers"
"""Stages of a measurement: answers are written, then read after this many prompts."""
TELL_S: Final = 5.0
"""Seconds between two lines on how far a measurement is."""


@dataclass(frozen=True)
class Base:
    """What answers of the start measure that were drawn before the run."""

    figures: text_guards.TextFigures
    """Of as many answers to each prompt as are measured at the end."""
    rewards: Floats
    """Shape (prompts, answers), of all that were drawn."""
    likeliest: tuple[Answer, ...]
    """To the first `TEXTS` prompts, for readers."""
    seed: int
    """Of the answers, before and at the end."""


@dataclass(frozen=True)
class Measuring:
    """The measurements of a run: policy, prompts, times, judges and ledger."""

    ledger: Ledger
    parts: RunParts
    """The policy, at the run's centre."""
    prompts: tuple[Prompt, ...]
    samples: int
    """Answers to each prompt at the first and the last measurement; in between there is one."""
    along: frozenset[int]
    """Numbers of applied steps after which the policy is measured during the run."""
    score: Score | None
    """The reward of a simulated panel; None where no reward is known."""
    people: bool
    say: Say
    progress: Progress = unseen
    """Told how far a measurement is."""
    base: Base | None = None
    """None where the start is drawn with the run."""


def prepare(ledger: Ledger, parts: RunParts, score: Score | None, say: Say) -> Measuring | None:
    """What ``[evaluation]`` asks for; None without held-out prompts, or if nothing moves."""
    config: Config = parts.config
    e, steps = config.evaluation, config.steps
    asked = tuple(clean_prompt(prompt) for prompt in parts.prompts.heldout[: e.prompts])
    if not asked or (config.improve.nats is None and theta.is_still(ledger)):
        return None
    times = config.measured_along
    points = {round(i * steps / (times + 1)) for i in range(1, times + 1)} - {0, steps}
    return Measuring(
        ledger, parts, asked, e.samples, frozenset(points), score,
        config.panel.kind == "people", say,
    )  # fmt: skip


def before(m: Measuring | None) -> None:
    """Measure the base, unless that was done; for people later, so that they need not wait."""
    if m is not None and not (m.people and _is_language_model(m)):
        with _telling(m) as told:  # no vote is asked of a policy that cannot answer
            _measure_start(told, _counting(told, m.samples))


def after_step(m: Measuring | None, report: StepReport) -> None:
    """Measure after a step, if it is one of `Measuring.along`."""
    if m is not None and report.step + 1 in m.along:
        _attempt(m, lambda told: _measure(told, report.step + 1, report.total_votes))


def after(m: Measuring | None, outcome: applied_step.Outcome) -> None:
    """Measure a run at its end, once; if people vote, order a blind final comparison of it."""
    if m is None or outcome.status == "paused" or not outcome.steps:
        return
    if m.people and theta.is_still(m.ledger):  # nobody waits for what is the start's own
        return
    if outcome.steps not in measurements(m.ledger):
        _attempt(m, lambda told: _compare_and_measure(told, outcome.steps, outcome.votes))
    if m.people and not is_compared(m.ledger):
        body = {"comparisons": PAIRS} if m.parts.settings.section.D == 1 else {}
        orders.place_order(m.ledger, "final", "szpo run", body)


def after_improving(m: Measuring | None, steps: int, votes: int) -> None:
    """Measure weights that the run has just adopted; its last measurement is of others."""
    if m is not None:
        _attempt(m, lambda told: _compare_and_measure(told, steps, votes))


def _compare_and_measure(m: Measuring, steps: int, votes: int) -> None:
    compare_blind(m.ledger, m.parts, m.score)
    measure_end(m, steps, votes)


def is_compared(ledger: Ledger) -> bool:
    """Whether the weights as they are were ordered to be compared."""
    # They are others after a step from added votes, and where improved ones were adopted.
    placed = orders.orders(ledger, "final")
    sql = "SELECT DISTINCT kind FROM events WHERE event > ? AND kind IN ('step', ?, ?, ?)"
    replaced = {theta.ADOPTED, theta.RETURNED}
    since = ledger.query(sql, (placed[-1].id, BUDGET, *sorted(replaced))) if placed else []
    kinds = {row["kind"] for row in since}
    return bool(placed) and not kinds & replaced and len(kinds) < 2


def _attempt(m: Measuring, measure: Callable[[Measuring], None]) -> None:
    """Measure; report an error without ending the run, unless lease, ledger or engine fail."""
    try:
        with _telling(m) as told:
            measure(told)
    except (LeaseError, StorageError, IntegrityError, ResourceError):
        raise
    except SzpoError as error:
        m.say(f"warning: held-out prompts were not measured: {error}")


@contextmanager
def _telling(m: Measuring) -> Iterator[Measuring]:
    """Yield what is measured with its progress told: beside the run's file, and in lines."""
    tell = setup_progress.telling(
        lambda line: m.say(Passing(line)), TELL_S, of="measuring on held-out prompts"
    )
    with setup_progress.writing(m.ledger.path, setup_progress.MEASURING, tell) as progress:
        yield replace(m, progress=progress)


def _counting(m: Measuring, samples: int) -> Callable[[int], None]:
    """What counts written answers, of so many to each prompt, and those to the start."""
    done, fresh = 0, m.base is None and 0 not in measurements(m.ledger)
    of = len(m.prompts) * (samples + fresh * m.samples)

    def count(more: int) -> None:
        nonlocal done
        done += more
        m.progress(WRITTEN, done, of)

    count(0)
    return count


def _measure_start(m: Measuring, count: Callable[[int], None]) -> None:
    if 0 in measurements(m.ledger):
        return
    policy: Any = m.parts.policy
    if m.base is not None:
        texts = zip(m.prompts, m.base.likeliest, strict=False)
        record(
            m.ledger, "run", 0, 0, m.base.rewards[:, : m.samples].tolist(), m.base.figures.tokens,
            0.0, [(p.text, clean_answer(a).text) for p, a in texts],
        )  # fmt: skip
    elif m.ledger.last_applied() is None:
        _record(m, 0, 0, policy, _write(m, policy, m.samples, count))
    elif _is_language_model(m):  # which can still answer as the base
        _record(m, 0, 0, policy, _write(m, policy, m.samples, count, base=True), base=True)


def _write(
    m: Measuring, policy: Any, samples: int, count: Callable[[int], None], **how: Any
) -> list[list[Answer]]:
    """`draw_answers`, of a language model in parts that are counted."""
    if not _is_language_model(m):
        return draw_answers(policy, m.prompts, samples, seed=_seed(m))
    drawn: list[list[Answer]] = []
    for places in _parts(m, samples):
        asked = [m.prompts[i] for i in places]
        drawn += policy.sample(asked, samples, seed=_seed(m), places=places, **how)
        count(len(places) * samples)
    return drawn


def _parts(m: Measuring, samples: int) -> list[range]:
    """The places of prompts that are answered at once; workers and servers get all."""
    every = range(len(m.prompts))
    each = max(1, PART // samples) if m.parts.config.engine.is_local else len(every)
    return [every[first : first + each] for first in every[::each]]


def _measure(m: Measuring, steps: int, votes: int) -> None:
    count = _counting(m, 1)
    _measure_start(m, count)
    with policy_at(m.ledger, m.parts, None) as policy:  # at the recommended point
        _record(m, steps, votes, policy, _write(m, policy, 1, count))


def measure_end(
    m: Measuring, steps: int, votes: int
) -> tuple[list[list[Answer]], tuple[float, float]]:
    """Measure with all samples; for a language model also the KL and the guards.

    Returns:
        The answers to each prompt, and the mean KL of the first ones to the start with its
        standard error, nats; nan where it is not measured.
    """
    few = text_guards.READ_AGAIN
    count = _counting(m, m.samples + few * (_is_language_model(m) and m.base is None))
    _measure_start(m, count)
    with policy_at(m.ledger, m.parts, None) as found:
        policy: Any = found
        if not _is_language_model(m):
            drawn = _write(m, policy, m.samples, count)
            _record(m, steps, votes, policy, drawn)
            return drawn, (math.nan, math.nan)
        drawn, kl = _write_with_kl(m, policy, count)
        if m.base is None:
            base = _write(m, policy, few, count, base=True)
            was, now = _read(m, policy, base, [row[:few] for row in drawn])
        else:
            was, (now,) = m.base.figures, _read(m, policy, drawn)
        digest = policy.digest()
        if m.parts.config.guards.keep:
            m.progress(RIGHT, 0, 0)
        kept = _measure_right(m, policy)
        _record(m, steps, votes, policy, drawn, kl[0])  # else a run stopped before has no guards
    rows = (*_reward_row(m, steps), *text_rows(was, now, kl), *kept[0])
    held, gap = (*text_guards.guards(was, now), *kept[1]), text_guards.topic_gap(was, now)
    record_held_out(m.ledger, HeldOut(rows, held, gap, digest))
    return drawn, kl


def _reward_row(m: Measuring, steps: int) -> list[dict[str, str]]:
    """The panel's mean reward of the start and of the policy; none where no reward is known."""
    done = measurements(m.ledger)
    first = done[0]["rewards"] if m.base is None else m.base.rewards
    if first is None or (last := done[steps]["rewards"]) is None:
        return []
    mean, low, high = metrics.gain(first, last, seed=m.ledger.root_seed)
    change = f"{mean:+.3f}, 95 % [{low:+.3f}, {high:+.3f}]"
    return [
        as_row("mean reward of the panel", float(np.mean(first)), float(np.mean(last)), change)
    ]


def _write_with_kl(
    m: Measuring, policy: Any, count: Callable[[int], None]
) -> tuple[list[list[Answer]], tuple[float, float]]:
    """`_write` of all samples; see `measure_end`."""
    drawn: list[list[Answer]] = []
    parts: list[tuple[int, float, float]] = []
    for places in _parts(m, m.samples):
        asked = [m.prompts[i] for i in places]
        more, kl = policy.sample_with_kl(asked, m.samples, seed=_seed(m), places=places)
        drawn, parts = [*drawn, *more], [*parts, (len(places), *kl)]
        count(len(places) * m.samples)
    return drawn, metrics.pool(parts)


def _read(
    m: Measuring, policy: Any, *both: Sequence[Sequence[Answer]]
) -> list[text_guards.TextFigures]:
    """The figures of two policies' answers; the prompts after which they are read are counted."""
    done, of = 0, len(both) * len(m.prompts)

    def read() -> None:
        nonlocal done
        done += 1
        m.progress(READ, done, of)

    m.progress(READ, 0, of)
    return [
        text_guards.measure(policy, m.prompts, rows, seed=_seed(m), read=read) for rows in both
    ]


def _measure_right(m: Measuring, policy: Any) -> tuple[Any, Any]:
    try:
        return measure_right(policy, m.parts.config.guards.keep)
    except UsageError as error:  # the file is gone or changed since the run began
        m.say(f"warning: right answers were not counted: {error}")
        return (), ()


def compare_blind(
    ledger: Ledger, parts: RunParts, score: Score | None, drawn: Sequence[Row] = ()
) -> None:
    """Let a simulated panel or a function compare the policy with its start, once.

    ``score``: the panel's reward. Nothing is done without one, or where it judges sets of answers.
    ``drawn``: pairs of the policy as it is exported; where they are too few, others are drawn.
    """
    judges: Sequence[Judge] = getattr(parts.panel, "judges", ())
    pairs, function = parts.settings.section.D == 1, isinstance(parts.panel, FunctionPanel)
    asked = function or (score is not None and pairs)
    if not judges or not asked or theta.is_still(ledger):
        return
    body, service = {"comparisons": PAIRS if pairs else PAIRS // 2}, VoteService(ledger)
    digest, placed = recommended_digest(ledger), orders.orders(ledger, "final")
    at_hand = [o for o in placed[-1:] if (o.result or {}).get("tuned_sha256", digest) == digest]
    if not at_hand or at_hand[0].error is not None:
        number = orders.place_order(ledger, "final", "szpo run", body)
        at_hand = [orders.get(ledger, number)]
    order = at_hand[0]
    if order.result is None:
        fulfil_final(ledger, order, parts, drawn=drawn, score=score)
        order = orders.get(ledger, order.id)
    if order.closed_us is None:
        panel = list(enroll(service, "simulated", "panel", judges).items())
        answer_order(service, order, panel)


def _is_language_model(m: Measuring) -> bool:
    return isinstance(m.parts.policy, BaseScorer) and hasattr(m.parts.policy, "sample_tokens")


def _seed(m: Measuring) -> int:
    if m.base is not None:
        return m.base.seed
    return seeds.as_seed(seeds.derive(m.ledger.root_seed, "evaluation"))


def _record(
    m: Measuring,
    steps: int,
    votes: int,
    policy: Any,
    drawn: Sequence[Sequence[Answer]],
    kl: float | None = None,
    *,
    base: bool = False,
) -> None:
    """Record what a policy's answers measure; ``base``: they are its start's."""
    rows = [[clean_answer(answer) for answer in row] for row in drawn]
    score, every = m.score, [answer for row in rows for answer in row]
    rewards = None
    if score is not None:
        pairs = zip(m.prompts, rows, strict=True)
        rewards = [[float(score(prompt, answer)) for answer in row] for prompt, row in pairs]
    asked, first = m.prompts[:TEXTS], [row[0] for row in rows[:TEXTS]]
    shown = likeliest(policy, asked, first, base=base)
    texts = [(p.text, clean_answer(a).text) for p, a in zip(asked, shown, strict=True)]
    tokens = sum(answer.tokens for answer in every) / len(every)
    record(m.ledger, "run", steps, votes, rewards, tokens, kl, texts)


def record(
    ledger: Ledger,
    by: str,
    steps: int,
    votes: int,
    rewards: Sequence[Sequence[float]] | None,
    tokens: float,
    kl: float | None,
    texts: Sequence[tuple[str, str]],
) -> None:
    """Record what somebody measured of one policy after some applied steps; 0 is the base.

    ``rewards`` are (prompts, samples), ``tokens`` the mean answer length, ``kl`` nats an answer to
    the start. Of ``texts`` (prompts and answers) the first `TEXTS` are recorded: a language
    model's likeliest, else the first drawn.
    """
    body = {
        "steps": steps, "votes": votes, "rewards": rewards, "tokens": tokens, "kl": kl,
        "texts": [list(pair) for pair in texts[:TEXTS]],
    }  # fmt: skip
    ledger.record_event(MEASURED, by, applied_step.plain(body))
