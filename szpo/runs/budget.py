"""What a run may spend, by limits that an operator sets; what it will cost before it starts.

A limit prevents the next step from opening; a step that people are voting on is finished.
The run's own budget (`run.votes`) applies too; `add_votes` raises it.

Costs are estimates. Reading and disk follow from the settings. The time of generation is known
only if a few answers of the model were timed on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from szpo.config.schema import CURVE_ANSWERS, KL_SAMPLES, NAMED, Config
from szpo.errors import UsageError
from szpo.files import quoted
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import BUDGET, read_budget, recorded_config, with_budget
from szpo.metrics import Z
from szpo.optim.guided_directions import EVERY
from szpo.optim.optimizer import RULES, equations, step_votes
from szpo.optim.sample_directions import NORMALISE_UP_TO
from szpo.optim.settings import Settings
from szpo.runs import pair_choice, start_features
from szpo.voting import lease, pauses, seats, shown_features
from szpo.voting.applied_step import read_reports
from szpo.voting.blind import PAIRS

WORDS_PER_MINUTE = 238
"""Silent reading speed of adults in English prose; used to compute minutes of reading."""

MOST_SHEETS: Final = 8
"""Most sheets of a round, however many panelists are present."""
USUAL_VOTES_ADDED: Final = 40
"""Default number of votes that are offered on top of a run's budget."""
MAX_VOTES_ADDED: Final = 1_000_000
"""Most votes that can be added at once."""
SHARPNESS_ANSWERS = 384
"""Base answers to which the β of a simulated panel is fitted."""
PROPOSED_ANSWERS: Final = 240
"""Answers of the policy for a proposal that guides directions, and to measure it, roughly."""
IMPROVING_STEPS: Final = 16
"""Of a round of improving, about."""
DRAWN, CHECKED = 32, 64
"""Answers of a step of improving, and of a reading by fresh ones."""
PLACES: Final = 8
"""Readings beside its steps: of where it may begin and where it ends."""
KL_PROMPTS = 32
"""Most prompts on which a step's KL is measured; each is answered once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the run stops; None: no limit."""

    step: int | None = None
    """This step is not opened."""
    votes: int | None = None
    """No step is opened that would take the counted votes above this."""
    at_us: int | None = None
    """No step is opened from this time on, µs since 1970."""
    person_hours: float | None = None
    """No step is opened after this much reading, at 238 words a minute."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"limit {name} is {value}; give a number of at least 0")


def add_votes(ledger: Ledger, by: str, more: int) -> Config:
    """Let a run, finished or not, end ``more`` votes later; recorded as an event.

    Returns the settings with the new end.
    """
    with ledger.transaction(by):
        config = recorded_config(ledger)
        if config is None:
            raise UsageError(
                f"{ledger.path.name} was not made by szpo run; add votes in your own program"
            )
        each = config.votes_per_step
        if more < each:
            raise UsageError(
                f"{more:+} votes are less than one step, which takes {each}; add {each} or more"
            )
        if more > MAX_VOTES_ADDED:
            raise UsageError(f"+{more:,} votes are too many; add {MAX_VOTES_ADDED:,} or fewer")
        ledger.record_event(BUDGET, by, {"votes": config.run.votes + more})
    return with_budget(config, ledger)


def usual_more(config: Config) -> int:
    """Votes offered on top of a run's budget: `USUAL_VOTES_ADDED`, or those of a step if more."""
    return max(USUAL_VOTES_ADDED, config.votes_per_step)


def describe_more(ledger: Ledger) -> str:
    """How a run gets more votes, in words: those it has left, or added ones; "": it gets none."""
    config = recorded_config(ledger)
    if config is None:
        return ""
    more = usual_more(config) if config.is_spent(int(ledger.votes_applied())) else 0
    again = shown_features.to_give_again(ledger)
    if config.panel.kind == "function":
        added = f", more_votes={more}" if more else ""
        features = f", features={again}" if again else ""
        return f'szpo.Tuner.resume("{ledger.path}", better{added}{features})'
    added, options = f" --votes +{more}" if more else "", shown_features.as_options(again)
    begin = "vote" if config.panel.kind == "people" else "run --resume"
    return f"szpo {begin} {quoted(ledger.path)}{added}{options}"


def set_limits(ledger: Ledger, by: str, limits: Limits) -> None:
    """Replace the run's limits; recorded as events."""
    with ledger.transaction(by):
        if lease.controller(ledger)["stop_at"] != limits.step:
            pauses.stop_at(ledger, limits.step, by)
        body = {name: value for name, value in asdict(limits).items() if name != "step"}
        ledger.record_event("limits", by, body)


def read_limits(ledger: Ledger) -> Limits:
    """The limits in force."""
    found = list(ledger.events("limits"))[-1:]
    rest = found[0]["body"] if found else {}
    return Limits(step=lease.controller(ledger)["stop_at"], **rest)


def reason_to_stop(ledger: Ledger, *, step: int, votes: int, per_step: int) -> str | None:
    """Why ``step`` must not be opened; None if no limit forbids it.

    ``votes`` are counted so far, and the step needs ``per_step`` more.
    """
    found = read_limits(ledger)
    if found.step is not None and step >= found.step:
        return f"asked to stop before step {found.step}"
    if found.votes is not None and votes + per_step > found.votes:
        return f"asked to stop at {found.votes} votes: {votes} are spent, a step takes {per_step}"
    if found.at_us is not None and ledger.clock() >= found.at_us:
        when = datetime.fromtimestamp(found.at_us / 1e6, UTC)
        return f"asked to stop at {when:%Y-%m-%d %H:%M} UTC"
    most = found.person_hours
    if most is not None and (hours := read_so_far(ledger)[1] / 60) >= most:
        return f"asked to stop at {most:g} person-hours: reading took {hours:.2f}"
    return None


def comparisons_of_round(
    ledger: Ledger, settings: Settings, sheet: int | None, most: int | None, votes: int
) -> int:
    """N of the next round: each panelist who is present gets a sheet, as far as votes are left.

    It is a multiple of the settings' N, and that itself without a ``sheet`` (rows) or without
    ``most`` (the run's votes). ``votes`` were counted in finished rounds.
    """
    most = read_budget(ledger).get("votes", most)
    if sheet is None or most is None:
        return settings.section.N
    people = ledger.query("SELECT panelist FROM panelists WHERE kind = 'person'")
    present = seats.find_present(ledger, ledger.clock()) & {row["panelist"] for row in people}
    each = settings.section.K * settings.section.N * settings.section.M
    wanted = math.ceil(min(len(present), MOST_SHEETS) * sheet / each)
    asked: int = ledger.query(
        "SELECT coalesce(sum(k * n * m), 0) AS votes FROM steps "
        "WHERE run = ? AND state IN ('open', 'closed')", (ledger.run,),
    )[0]["votes"]  # fmt: skip
    return settings.section.N * max(1, min(wanted, (most - votes - asked) // each))


def read_so_far(ledger: Ledger) -> tuple[int, float]:
    """The answers of the voted comparisons, and minutes to read them at 238 words a minute."""
    with ledger.snapshot():  # so no step is applied between the two
        done = ledger.query(
            "SELECT total(json_extract(body, '$.answers_read')) AS answers, "
            "total(json_extract(body, '$.words_read')) AS words FROM events WHERE kind = 'step'"
        )[0]
        live = ledger.query("SELECT step FROM steps WHERE state IN ('open', 'closed')")
        steps = [step for row in live for step in read_reports(ledger, row["step"])]
    words = done["words"] + sum(step.words_read for step in steps)
    answers = int(done["answers"]) + sum(step.answers_read for step in steps)
    return answers, words / WORDS_PER_MINUTE


def most_read(config: Config, votes: int) -> tuple[int, float]:
    """Most answers that voters read for so many votes, and the minutes that takes."""
    minutes = votes * config.words_per_vote / WORDS_PER_MINUTE
    return votes * 2 * config.optimizer.D, minutes


def describe_read(answers: int, minutes: float) -> str:
    """How much is read, in words; from two hours on in hours.

    >>> describe_read(640, 48.4), describe_read(38_400, 2904)
    ('640 answers, 48 minutes of reading', '38,400 answers, 48.4 hours of reading')
    """
    takes = f"{minutes:.0f} minute{'s' * (round(minutes) != 1)}"
    if minutes >= 120:
        takes = f"{minutes / 60:.1f} hours"
    return f"{answers:,} answers, {takes} of reading"


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
    improving_rounds: int = 0
    """Most of them; the votes decide how many there are."""
    improving_answers: int = 0
    """About how many answers so many rounds draw and read."""
    improving_minutes: float | None = None
    first_answers: int = 0
    """Answers that are drawn before the first question."""
    second_answers: int = 0
    """Answers that are drawn behind it, before the first question of the second round."""
    answer_seconds: float | None = None
    """Measured on this machine."""


def estimate_cost(
    config: Config,
    *,
    basis_is_stored: bool = False,
    heldout: int | None = None,
    answer_seconds: float | None = None,
    train: int | None = None,
) -> CostPlan:
    """Estimate what these settings cost on a machine.

    With ``basis_is_stored`` the set-up generates no answers for the coordinates. ``heldout`` is
    the number of held-out prompts; None: enough. ``answer_seconds`` is the measured time of an
    answer, ``train`` the number of training prompts.

    Reading is counted for a simulated panel too: the same votes would cost people that time.

    >>> plan = estimate_cost(Config())
    >>> plan.steps, plan.votes, plan.answers_to_read
    (30, 240, 480)
    """
    o = config.optimizer
    votes = config.steps * config.votes_per_step
    rows = config.steps * o.K * o.N * o.D
    still = config.coordinates == "none"
    setup = 0
    if not basis_is_stored:  # adapters' files may be gone where it is
        setup = start_features.ANSWERS if still else coordinate_answers(config)
    fits = config.coordinates in NAMED and RULES[config.optimizer.rule].two_points
    points = config.steps * KL_PROMPTS if fits else 0
    simulated = config.panel.kind not in ("people", "judge", "function")
    setup += start_features.ANSWERS if config.guides else 0
    setup += SHARPNESS_ANSWERS if simulated and config.panel.beta is None else 0
    e = config.evaluation
    asked = e.prompts if heldout is None else min(e.prompts, heldout)
    asked = 0 if still and config.improve.nats is None else asked
    measured = asked * (2 * e.samples + config.measured_along)
    measured += 2 * PAIRS if asked and simulated and o.D == 1 else 0
    # A gradient pass costs about as much as sampling the answer.
    made = config.steps * step_answers(config)
    opening = o.K * o.N * pair_choice.FEWER if still else step_answers(config)
    answers = made + 2 * (setup + points) + measured
    tokens = answers * config.generation.max_new_tokens
    read, read_minutes = most_read(config, votes)
    minutes = None if answer_seconds is None else answers * answer_seconds / 60
    rounds, improving = improving_cost(config)
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
        improving_rounds=rounds,
        improving_answers=improving,
        improving_minutes=None if answer_seconds is None else improving * answer_seconds / 60,
        first_answers=opening if still else opening + setup,
        second_answers=opening + setup if still else opening,
        answer_seconds=answer_seconds,
    )


def improving_cost(config: Config) -> tuple[int, int]:
    """Most rounds of improving, and about how many answers these draw and read.

    >>> improving_cost(Config()), improving_cost(Config(improve={"nats": 3, "when": "end"}))
    ((0, 0), (1, 1024))
    """
    if not config.improves:
        return 0, 0
    rounds = 1
    if config.improve.when == "doubling":
        # In which the votes show a taste, then at each doubling of them, and when they are spent.
        rounds = 2 + math.floor(math.log2(max(1, config.steps)))
    return rounds, rounds * (PLACES * CHECKED + IMPROVING_STEPS * DRAWN)


def _describe_minutes(minutes: float | None) -> str:
    if minutes is None:
        return ""
    takes = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return f", about {takes} on this machine, measured"


def coordinate_answers(config: Config) -> int:
    """Base answers from which a run's coordinates are made, where none are stored."""
    found = KL_SAMPLES + (config.samples if config.coordinates in NAMED else 0)
    if config.coordinates == "adapters":
        from szpo.models import adapters  # loads torch

        found += 4 * CURVE_ANSWERS * len(adapters.find(config.subspace.adapters))
    return found


def _describe_questions(votes: int, config: Config) -> str:
    """How much a judge is asked for so many votes, and what it reads and writes at most."""
    shown, judge = config.optimizer.D, config.judge
    alone = judge.ask == "grades"
    questions = 2 * votes
    read = questions * (1 if alone else 2) * shown * config.generation.max_new_tokens
    wrote = questions * (1 if judge.ask == "soft" else judge.max_tokens)
    what = "one pair" if shown == 1 else f"{shown} pairs"
    return (
        f"{questions:,} questions to {judge.model}, each about {what}, "
        f"{'one side alone' if alone else 'in one of the two orders'}: besides instructions and "
        f"prompts at most {read:,} tokens to read, {wrote:,} to write"
    )


def step_answers(config: Config) -> int:
    """Most answers that are generated for a step's comparisons."""
    o = config.optimizer
    for_each = pair_choice.ANSWERS if config.picks_pairs else 2 * o.D
    return o.K * o.N * for_each


def describe_cost(plan: CostPlan, config: Config) -> Iterator[tuple[str, str]]:
    """Describe the plan as pairs of a name and a sentence."""
    o = config.optimizer
    votes = step_votes(o.K, o.N, o.M, o.D, own=config.shows_own)
    yield "steps", f"{plan.steps}, each of {votes}"
    if not RULES[config.optimizer.rule].two_points:
        wide = NORMALISE_UP_TO + 1 if config.coordinates == "full" else 1
        yield "a step", equations(config.optimizer_settings((("z", (wide,)),), 1.0))
    kind = config.panel.kind
    people = "" if kind in ("people", "judge") else "simulated "
    sheets = f", on about {math.ceil(plan.votes / config.sheet)} sheets of {config.sheet} pairs"
    on = sheets if kind == "people" and config.sheet > 1 else ""
    yield "votes", f"{plan.votes} from {config.panel.size} {people}panelists ({kind}){on}"
    yield (
        "reading",
        ("nobody's; people would read " if people else "")
        + f"at most {describe_read(plan.answers_to_read, 60 * plan.person_hours)} "
        f"at {WORDS_PER_MINUTE} words a minute",
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
    yield "generation", made + _describe_minutes(plan.generation_minutes)
    if kind == "people":
        pace = None if plan.answer_seconds is None else plan.answer_seconds / 60
        first, behind = (
            f"{count:,} answers{_describe_minutes(pace and pace * count)}"
            for count in (plan.first_answers, plan.second_answers)
        )
        second = f"for the second round {behind}, while people read"
        yield "waiting", f"for the first pair {first}; {second}"
    if config.guides and (count := plan.votes // EVERY):
        drawn = count * PROPOSED_ANSWERS
        yield "guiding", f"besides, {count} proposals by about {drawn:,} answers that nobody reads"
    if plan.improving_rounds:
        when = "when the votes are spent"
        if plan.improving_rounds > 1:
            when = "once votes show a taste, at each doubling of them and when they are spent"
        yield (
            "improving",
            f"besides, {when}: at most {plan.improving_rounds} "
            f"round{'s' * (plan.improving_rounds != 1)}, about "
            f"{plan.improving_answers:,} answers that nobody reads"
            + _describe_minutes(plan.improving_minutes),
        )
    elif config.improve.nats is not None:
        yield (
            "improving",
            "none: improve.nats goes with optimizer.rule regression and subspace.kind features, "
            "adapters or none",
        )
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
