"""What a run will cost, before anything starts: votes, reading, generation, disk.

All figures are estimates. Reading and disk follow from the settings. The time of generation is
known only if a few answers of the model were timed on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from szpo.config.schema import CURVE_ANSWERS, KL_SAMPLES, SCORED, Config
from szpo.intervals import Z
from szpo.optim.optimizer import equations, step_votes
from szpo.optim.rules.registry import RULES
from szpo.training import answer_pool, budget, start_features
from szpo.voting.finals import PAIRS

SHARPNESS_ANSWERS = 384
"""Base answers to which the β of a simulated panel is fitted."""
GUARD_ANSWERS = 256
"""Fewest base answers from which guards are predicted; they are stored with the coordinates."""
KL_PROMPTS = 32
"""Most prompts on which a step's KL is measured; each is answered once."""


@dataclass(frozen=True)
class CostPlan:
    """The costs of a run; None where they cannot be known yet."""

    steps: int
    votes: int
    answers_to_read: int
    person_hours: float
    answers_to_generate: int
    setup_answers: int
    heldout: int
    """Most held-out prompts on which the result is measured."""
    heldout_answers: int
    point_answers: int
    """To measure the KL of recommended points, counted once a step; a step has 0 to 3."""
    tokens: int
    generation_minutes: float | None
    disk_mib: float
    ratings: int = 0
    """Most answers that the judge rates, for each feature that it rates."""


def estimate(
    config: Config,
    *,
    basis_is_stored: bool = False,
    heldout: int | None = None,
    answer_seconds: float | None = None,
) -> CostPlan:
    """Estimate what these settings cost on a machine.

    With ``basis_is_stored`` the set-up generates no answers for the coordinates. ``heldout`` is
    the number of held-out prompts; None: enough. ``answer_seconds`` is the measured time of an
    answer.

    Reading is counted for a simulated panel too: the same votes would cost people that time.

    >>> plan = estimate(Config())
    >>> plan.steps, plan.votes, plan.answers_to_read
    (30, 240, 480)
    """
    o = config.optimizer
    votes = config.steps * config.votes_per_step
    rows = config.steps * o.K * o.N * o.D
    still = config.coordinates == "none"
    setup = start_features.ANSWERS if still else coordinate_answers(config)
    setup = 0 if basis_is_stored else setup
    predicts = config.coordinates in SCORED and RULES[config.optimizer.rule].two_points
    points = config.steps * KL_PROMPTS if predicts else 0
    if predicts and config.optimizer.guarded is not False and not basis_is_stored:
        setup += GUARD_ANSWERS
    simulated = config.panel.kind not in ("people", "judge", "function")
    setup += SHARPNESS_ANSWERS if simulated and config.panel.beta is None else 0
    e = config.evaluation
    asked = e.prompts if heldout is None else min(e.prompts, heldout)
    asked = 0 if still else asked
    measured = asked * (2 * e.samples + e.along)
    measured += 2 * PAIRS if asked and simulated and o.D == 1 else 0
    # A gradient pass costs about as much as sampling the answer.
    made = config.steps * step_answers(config)
    answers = made + 2 * (setup + points) + measured
    tokens = answers * config.generation.max_new_tokens
    read, read_minutes = budget.most_read(config, votes)
    minutes = None if answer_seconds is None else answers * answer_seconds / 60
    answer_bytes = config.generation.max_new_tokens * 4.5 + 60
    disk = rows * (2 * answer_bytes + 250) + votes * 1_500 + config.steps * 4_000
    return CostPlan(
        steps=config.steps,
        votes=votes,
        answers_to_read=read,
        person_hours=read_minutes / 60,
        answers_to_generate=made,
        setup_answers=setup,
        heldout=asked,
        heldout_answers=measured,
        point_answers=points,
        tokens=tokens,
        generation_minutes=minutes,
        disk_mib=disk / 2**20,
        ratings=2 * rows
        + (0 if basis_is_stored else start_features.ANSWERS if still else config.samples)
        if config.features.judged
        else 0,
    )


def coordinate_answers(config: Config) -> int:
    """Base answers from which a run's coordinates are made, where none are stored."""
    found = KL_SAMPLES + (config.samples if config.coordinates in SCORED else 0)
    if config.coordinates == "adapters":
        from szpo.models import adapter_sources  # loads torch

        found += 4 * CURVE_ANSWERS * len(adapter_sources.find(config.subspace.adapters))
    return found


def _describe_questions(votes: int, config: Config) -> str:
    """How much a judge is asked for so many votes, and what it reads and writes at most."""
    shown, judge = config.optimizer.D, config.judge
    alone = judge.ask == "grades"
    questions = 2 * votes
    read = questions * (1 if alone else 2) * shown * config.generation.max_new_tokens
    wrote = questions * (1 if judge.ask == "soft" else judge.max_tokens)
    what = "one row" if shown == 1 else f"{shown} rows"
    return (
        f"{questions:,} questions to {judge.model}, each about {what}, "
        f"{'one side alone' if alone else 'in one of the two orders'}: besides instructions and "
        f"prompts at most {read:,} tokens to read, {wrote:,} to write"
    )


def step_answers(config: Config) -> int:
    """Most answers that are generated for a step's comparisons."""
    o = config.optimizer
    for_each = answer_pool.ANSWERS if config.picks_pairs else 2 * o.D
    return o.K * o.N * for_each


def describe(plan: CostPlan, config: Config) -> Iterator[tuple[str, str]]:
    """Describe the plan as pairs of a name and a sentence."""
    o = config.optimizer
    votes = step_votes(o.K, o.N, o.M, o.D, own=config.shows_own)
    yield "steps", f"{plan.steps}, each of {votes}"
    if not RULES[config.optimizer.rule].two_points:
        yield "a step", equations(config.optimizer_settings((("z", (1,)),), 1.0))
    kind = config.panel.kind
    people = "" if kind in ("people", "judge") else "simulated "
    sheets = f", on about {math.ceil(plan.votes / config.sheet)} sheets of {config.sheet} rows"
    on = sheets if kind == "people" and config.sheet > 1 else ""
    yield "votes", f"{plan.votes} from {config.panel.size} {people}panelists ({kind}){on}"
    yield (
        "reading",
        ("nobody's; people would read " if people else "")
        + f"at most {budget.describe_read(plan.answers_to_read, 60 * plan.person_hours)} "
        f"at {budget.WORDS_PER_MINUTE} words a minute",
    )
    if config.panel.kind == "judge" and config.judge.kind != "scorer":
        yield "judge", _describe_questions(plan.votes, config)
    if judged := config.features.judged:
        where = f" at {config.judge.base_url}" if config.judge.kind == "endpoint" else ""
        each = f" for each of {len(judged)} features" if len(judged) > 1 else ""
        yield (
            "ratings",
            f"at most {plan.ratings:,} answers{each}, read by {config.judge.model}{where}",
        )
    made = (
        f"{plan.answers_to_generate:,} answers, about {plan.setup_answers:,} for set-up, "
        f"{plan.point_answers:,} for KL and {plan.heldout_answers:,} for measuring; "
        f"at most {plan.tokens:,} tokens"
    )
    if (minutes := plan.generation_minutes) is not None:
        takes = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        made += f", about {takes} on this machine, measured"
    yield "generation", made
    if people and plan.heldout:
        # The widest interval of a mean of n numbers from 0 to 1: z · ½ / √n.
        widest = 100 * Z / 2 / math.sqrt(plan.heldout)
        yield (
            "measuring",
            f"on {plan.heldout} held-out prompt{'s' * (plan.heldout > 1)}: the share won "
            f"to ± {widest:.0f} points or less"
            + "; 100 held-out prompts make it ± 10"
            * (plan.heldout < 50),
        )
    yield "disk", f"about {plan.disk_mib:.1f} MiB in {config.run.folder}"
