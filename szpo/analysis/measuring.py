"""Measure a run's policy on held-out prompts, before, during and after the run, without votes.

Every measurement draws the answers with the same random numbers. It is recorded as an event of
kind ``measured``, which `szpo.analysis.improvement` reads. A simulated panel's reward scores
single answers. At the end the policy is compared blind with its start (`szpo.voting.blind`): a
simulated panel and a function answer at once, people on their page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from szpo import seeds
from szpo.analysis.improvement import MEASURED, mean_reward, measurements
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
from szpo.runs.assemble import RunParts
from szpo.runs.guards import HeldOut, as_row, measure_right, record_held_out, text_rows
from szpo.runs.samples import fulfil_final, policy_at
from szpo.types import Answer, Prompt, Row, Say
from szpo.voting import step_record
from szpo.voting.blind import PAIRS
from szpo.voting.evaluator import Judge
from szpo.voting.panel_evaluator import FunctionPanel, Score, answer_order, enroll
from szpo.voting.service import VoteService
from szpo.voting.step_record import StepReport

TEXTS: Final = 6
"""Prompts whose first answers are recorded, to be read side by side."""


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
        _measure_start(m)  # no vote is asked of a policy that cannot answer


def after_step(m: Measuring | None, report: StepReport) -> None:
    """Measure after a step, if it is one of `Measuring.along`."""
    if m is not None and report.step + 1 in m.along:
        _attempt(m, lambda: _measure(m, report.step + 1, report.total_votes))


def after(m: Measuring | None, outcome: step_record.Outcome) -> None:
    """Measure a run at its end, once; if people vote, order a blind final comparison of it."""
    if m is None or outcome.status == "paused" or not outcome.steps:
        return
    if m.people and theta.is_still(m.ledger):  # nobody waits for what is the start's own
        return
    if outcome.steps not in measurements(m.ledger):
        _attempt(m, lambda: _measure_end(m, outcome.steps, outcome.votes))
    if m.people and not _is_compared(m.ledger):
        body = {"comparisons": PAIRS} if m.parts.settings.section.D == 1 else {}
        orders.place_order(m.ledger, "final", "szpo run", body)


def after_improving(m: Measuring | None, steps: int, votes: int) -> None:
    """Measure weights that the run has just adopted; its last measurement is of others."""
    if m is not None:
        _attempt(m, lambda: _measure_end(m, steps, votes))


def _is_compared(ledger: Ledger) -> bool:
    """Whether the weights as they are were ordered to be compared."""
    # They are others after a step from added votes, and where improved ones were adopted.
    placed = orders.orders(ledger, "final")
    sql = "SELECT DISTINCT kind FROM events WHERE event > ? AND kind IN ('step', ?, ?, ?)"
    replaced = {theta.ADOPTED, theta.RETURNED}
    since = ledger.query(sql, (placed[-1].id, BUDGET, *sorted(replaced))) if placed else []
    kinds = {row["kind"] for row in since}
    return bool(placed) and not kinds & replaced and len(kinds) < 2


def _attempt(m: Measuring, measure: Callable[[], None]) -> None:
    """Measure; report an error without ending the run, unless lease, ledger or engine fail."""
    try:
        measure()
    except (LeaseError, StorageError, IntegrityError, ResourceError):
        raise
    except SzpoError as error:
        m.say(f"warning: held-out prompts were not measured: {error}")


def _measure_start(m: Measuring) -> None:
    if 0 in measurements(m.ledger):
        return
    policy: Any = m.parts.policy
    if m.ledger.last_applied() is None:
        _record(m, 0, 0, policy, draw_answers(policy, m.prompts, m.samples, seed=_seed(m)))
    elif _is_language_model(m):  # which can still answer as the base
        drawn = policy.sample(m.prompts, m.samples, seed=_seed(m), base=True)
        _record(m, 0, 0, policy, drawn, base=True)


def _measure(m: Measuring, steps: int, votes: int) -> None:
    _measure_start(m)
    with policy_at(m.ledger, m.parts, None) as policy:  # at the recommended point
        _record(m, steps, votes, policy, draw_answers(policy, m.prompts, 1, seed=_seed(m)))


def _measure_end(m: Measuring, steps: int, votes: int) -> None:
    """Measure with all samples; for a language model also the KL and the guards."""
    _measure_start(m)
    compare_blind(m.ledger, m.parts, m.score)
    with policy_at(m.ledger, m.parts, None) as found:
        policy: Any = found
        if not _is_language_model(m):
            drawn = draw_answers(policy, m.prompts, m.samples, seed=_seed(m))
            _record(m, steps, votes, policy, drawn)
            return
        drawn, kl = policy.sample_with_kl(m.prompts, m.samples, seed=_seed(m))
        _record(m, steps, votes, policy, drawn, kl[0])
        few = text_guards.READ_AGAIN
        base = policy.sample(m.prompts, few, seed=_seed(m), base=True)
        was, now = (
            text_guards.measure(policy, m.prompts, rows, seed=_seed(m))
            for rows in (base, [row[:few] for row in drawn])
        )
        digest = policy.digest()
        kept = _measure_right(m, policy)
    done = measurements(m.ledger)
    first, last = (mean_reward(done[i]["rewards"]) for i in (0, steps))
    rows = text_rows(was, now, kl[0])
    if first is not None and last is not None:
        rows.insert(0, as_row("mean reward of the panel", first, last))
    guards, gap = text_guards.guards(was, now), text_guards.topic_gap(was, now)
    held = HeldOut((*rows, *kept[0]), (*guards, *kept[1]), gap, digest)
    record_held_out(m.ledger, "szpo run", held)


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
    ledger.record_event(MEASURED, by, step_record.plain(body))
