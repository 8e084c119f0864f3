"""What a run may spend: limits that an operator sets or removes, and votes that are added.

A limit prevents the next step from opening; a step that people are voting on is finished.
The run's own budget (`run.votes`, `run.steps`) applies too; `add_votes` raises it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import BUDGET, read_budget, recorded_config, with_budget
from szpo.optim.settings import Settings
from szpo.voting import lease, panelists, pauses, shown_features
from szpo.voting.step_report import read_steps

WORDS_PER_MINUTE = 238
"""Silent reading speed of adults in English prose; used to compute minutes of reading."""


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


MOST_SHEETS: Final = 8
"""Most sheets of a round, however many panelists are present."""
USUAL_VOTES_ADDED: Final = 40
"""Default number of votes that are offered on top of a run's budget."""
MAX_VOTES_ADDED: Final = 1_000_000
"""Most votes that can be added at once."""


def add_votes(ledger: Ledger, by: str, more: int) -> Config:
    """Let a run, finished or not, end ``more`` votes later; recorded as an event.

    Returns the settings with the new end. A run that ends after a number of steps gets the steps
    that ``more`` votes pay for.
    """
    with ledger.transaction(by):
        config = recorded_config(ledger)
        if config is None:
            raise UsageError(
                f"{ledger.path.name} was not made by szpo run; add votes in your own program"
            )
        each, run = config.votes_per_step, config.run
        if more < each:
            raise UsageError(
                f"+{more} votes are less than one step, which takes {each}; add {each} or more"
            )
        if more > MAX_VOTES_ADDED:
            raise UsageError(f"+{more:,} votes are too many; add {MAX_VOTES_ADDED:,} or fewer")
        ends = {
            "votes": None if run.votes is None else run.votes + more,
            "steps": None if run.steps is None else run.steps + more // each,
        }
        ledger.record_event(BUDGET, by, ends)
    return with_budget(config, ledger)


def usual_more(config: Config) -> int:
    """Votes offered on top of a run's budget: `USUAL_VOTES_ADDED`, or those of a step if more."""
    return max(USUAL_VOTES_ADDED, config.votes_per_step)


def describe_more(ledger: Ledger) -> str:
    """How to give a run more votes, in words; "" where it is impossible."""
    config = recorded_config(ledger)
    if config is None:
        return ""
    more, again = usual_more(config), shown_features.to_give_again(ledger)
    if config.panel.kind == "function":
        features = f", features={again}" if again else ""
        return f'szpo.Tuner.resume("{ledger.path}", better, more_votes={more}{features})'
    options = shown_features.as_options(again)
    if config.panel.kind == "people":
        return f'"More votes" on the operator\'s page: szpo serve {ledger.path}{options}'
    return f"szpo run --resume {ledger.path} --votes +{more}{options}"


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

    Args:
        ledger: The run.
        settings: Its settings; N of a round is a multiple of theirs.
        sheet: Rows of a sheet; None: rounds keep the settings' N.
        most: The votes of the run; None: it ends after a number of rounds, which keep their N.
        votes: Votes counted in finished rounds.
    """
    most = read_budget(ledger).get("votes", most)
    if sheet is None or most is None:
        return settings.section.N
    people = ledger.query("SELECT panelist FROM panelists WHERE kind = 'person'")
    present = panelists.find_present(ledger, ledger.clock()) & {row["panelist"] for row in people}
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
        steps = [step for row in live for step in read_steps(ledger, row["step"])]
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
