"""Measure a run's policy on held-out prompts, before, during and after the run, without votes.

Every measurement draws the answers with the same random numbers. It is recorded as an event of
kind ``measured``, which `szpo.analysis.improvement` reads. A simulated panel's reward scores
single answers. A voting function compares batches with the base's, as it does in the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from szpo import seeds
from szpo.analysis import improvement
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
from szpo.runs.samples import draw_pairs, policy_at
from szpo.types import Answer, Comparison, Prompt, Row, Say
from szpo.voting import step_record
from szpo.voting.counting import verdict
from szpo.voting.evaluator import Judge
from szpo.voting.finals import PAIRS, planned_sides
from szpo.voting.panel_evaluator import FunctionPanel, Score
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
    function: FunctionPanel | None = None
    """The function that votes in the run."""
    rows: int = 1
    """Prompts in each batch that the function compares."""

    @cached_property
    def base(self) -> list[list[Answer]]:
        """The base's answers, ``samples`` to each prompt; drawn once in a process."""
        with policy_at(self.ledger, self.parts, 0) as policy:
            drawn = draw_answers(policy, self.prompts, self.samples, seed=_seed(self))
        return [[clean_answer(answer) for answer in row] for row in drawn]


def prepare(ledger: Ledger, parts: RunParts, score: Score | None, say: Say) -> Measuring | None:
    """What ``[evaluation]`` asks for; None without held-out prompts, or if nothing moves."""
    config: Config = parts.config
    e, steps = config.evaluation, config.steps
    asked = tuple(clean_prompt(prompt) for prompt in parts.prompts.heldout[: e.prompts])
    if not asked or (config.improve.nats is None and theta.is_still(ledger)):
        return None
    times = config.measured_along
    points = {round(i * steps / (times + 1)) for i in range(1, times + 1)} - {0, steps}
    function = parts.panel if isinstance(parts.panel, FunctionPanel) else None
    return Measuring(
        ledger, parts, asked, e.samples, frozenset(points), score,
        config.panel.kind == "people", say, function, config.optimizer.D,
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
    judge_last_pairs(m.ledger, m.parts, m.score)
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


def judge_last_pairs(
    ledger: Ledger, parts: RunParts, score: Score | None, drawn: Sequence[Row] = ()
) -> None:
    """Let a simulated panel judge pairs of the policy and its start; see `LastPairs`.

    ``score``: its reward. Nothing is done without one, or where verdicts are on batches.
    ``drawn``: pairs of the policy as it is exported; where they are too few, others are drawn.
    """
    judges: Sequence[Judge] = getattr(parts.panel, "judges", ())
    if score is None or not judges or parts.settings.section.D > 1 or theta.is_still(ledger):
        return
    rows, digest = list(drawn[:PAIRS]), recommended_digest(ledger)
    if len(rows) < PAIRS:
        rows, digest, _ = draw_pairs(ledger, parts, improvement.LAST_PAIRS, 0, PAIRS)
    asked = [row for row in rows if not row.identical]
    sides = planned_sides(ledger.root_seed, 0, max(1, len(asked)), 0)
    cast, gaps = Counter[str](), []
    for i, (row, side) in enumerate(zip(asked, sides, strict=False)):
        key, who = seeds.derive(ledger.root_seed, improvement.LAST_PAIRS, k=i), i % len(judges)
        shown = Comparison(key.hex(), -1, 0, i, (row,), kind="final")
        choice = judges[who].judge(shown, panelist=f"panel-{who}", plus_side=side, key=key)
        cast[verdict(choice, side)] += 1
        gaps.append(score(row.prompt, row.plus) - score(row.prompt, row.minus))
    new, start = cast["plus"], cast["minus"]
    body = {
        "theta_sha256": digest, "pairs": len(rows), "new": new, "start": start,
        "same": len(rows) - new - start,
        "true": [sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)],
    }  # fmt: skip
    ledger.record_event(improvement.LAST_PAIRS, "run", body)


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
    # What a function has judged is on record as it was judged.
    shown = first if m.function else likeliest(policy, asked, first, base=base)
    texts = [(p.text, clean_answer(a).text) for p, a in zip(asked, shown, strict=True)]
    tokens = sum(answer.tokens for answer in every) / len(every)
    wins = _compare(m, m.function, rows) if steps and m.function is not None else None
    record(m.ledger, "run", steps, votes, rewards, tokens, kl, texts, wins)


def _compare(
    m: Measuring, function: FunctionPanel, rows: Sequence[Sequence[Answer]]
) -> list[list[float]]:
    """The function's votes between tuned and base batches of the run's size, for `record`."""
    found = []
    for i, start in enumerate(range(0, len(m.prompts), m.rows)):
        batch = slice(start, start + m.rows)
        pairs = zip(zip(*rows[batch], strict=True), zip(*m.base[batch], strict=True), strict=False)
        found.append([
            function.compare(m.prompts[batch], tuned, base, side="B" if (i + j) % 2 else "A")
            for j, (tuned, base) in enumerate(pairs)
        ])  # fmt: skip
    return found


def record(
    ledger: Ledger,
    by: str,
    steps: int,
    votes: int,
    rewards: Sequence[Sequence[float]] | None,
    tokens: float,
    kl: float | None,
    texts: Sequence[tuple[str, str]],
    wins: Sequence[Sequence[float]] | None = None,
) -> None:
    """Record what somebody measured of one policy after some applied steps; 0 is the base.

    ``rewards`` are (prompts, samples), ``tokens`` the mean answer length, ``kl`` nats an answer to
    the start. Of ``texts`` (prompts and answers) the first `TEXTS` are recorded: a language
    model's likeliest, else the first drawn, as judged. ``wins`` (batches, samples): the share of
    the voting function's vote that the tuned batch gets.
    """
    body = {
        "steps": steps, "votes": votes, "rewards": rewards, "tokens": tokens, "kl": kl,
        "texts": [list(pair) for pair in texts[:TEXTS]],
    }  # fmt: skip
    if wins is not None:
        body["wins"] = wins
    ledger.record_event(MEASURED, by, step_record.plain(body))
