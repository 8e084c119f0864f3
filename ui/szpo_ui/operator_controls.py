"""An operator's controls of a run, one function each: validate, record, report in one sentence.

No control rewrites a vote or an applied update. Each change is an event with the operator's name.
The page checks that the sender is an operator before it calls anything here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from szpo.errors import StorageError, UsageError
from szpo.files import quoted
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.runs import budget, samples
from szpo.runs.budget import Limits
from szpo.voting import pauses, seats, step_states
from szpo.voting.counting import StepVotes
from szpo_ui import credentials
from szpo_ui.credentials import Invitation
from szpo_ui.request_rules import Body
from szpo_ui.site import Site

MOST_MINUTES: Final = 10.0
"""Reading time of a vote above which starting a run needs a typed confirmation."""
QUORUM: Final = 0.5
"""Share of a round's votes that an operator needs to close it, if the settings name none."""
LIVE: Final = "live view"
EXCLUDE: Final = "exclude from now on"

Do = Literal[
    "look", "start", "pause", "pause-after", "resume", "close", "limits", "more", "live",
    "invite", "revoke", "erase", "exclude", "final", "samples", "close-final",
]  # fmt: skip
Text = Annotated[str, Field(max_length=500)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Command(Body):
    """A request from the operator's page."""

    do: Do
    reason: Text = ""
    name: Text = ""
    typed: Text = ""
    step: Count | None = None
    count: Annotated[int, Field(ge=1, le=20)] = 1
    comparisons: Annotated[int, Field(ge=1, le=1000)] = 20
    prompts: Annotated[int, Field(ge=1, le=64)] = 6
    order: Count | None = None
    on: bool = False
    anyway: bool = False
    """Open the first round even if the sample answers are out of bounds."""
    steps: Count | None = None
    votes: Count | None = None
    hours: Annotated[float, Field(ge=0, le=1e6)] | None = None
    until: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d$")] | None = None
    """When the run ends, in UTC."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a command in one sentence, with invitations to show."""

    text: str
    invitations: tuple[Invitation, ...] = ()


def act(site: Site, by: str, command: Command) -> Reply | None:
    """Carry out an operator's command; None if there is nothing to report.

    Raises:
        SzpoError: the command was refused and changed nothing; only an erasure may be half done,
            and then the error says so.
    """
    if command.do == "look":
        return None
    controls = {
        "start": _start,
        "pause": _pause,
        "pause-after": _pause,
        "resume": _resume,
        "close": _close,
        "limits": _limits,
        "more": _more,
        "live": _live,
        "final": _order,
        "samples": _order,
        "close-final": _close_final,
        "invite": _invite,
        "revoke": _revoke,
        "erase": _erase,
        "exclude": _exclude,
    }
    return controls[command.do](site, by, command)


def is_live(ledger: Ledger) -> bool:
    """Whether operators see the votes of the open round."""
    found = list(ledger.events(LIVE))[-1:]
    return bool(found) and found[0]["body"].get("on") is True


def list_excluded(ledger: Ledger) -> set[str]:
    """The pseudonyms of panelists who were excluded and not invited again since."""
    last: dict[str, str] = {}
    for event in ledger.query(
        "SELECT e.kind, p.pseudonym FROM events e JOIN panelists p "
        "ON p.panelist = json_extract(e.body, '$.panelist') "
        "WHERE e.kind IN (?, 'invite') ORDER BY e.event",
        (EXCLUDE,),
    ):
        last[event["pseudonym"]] = event["kind"]
    return {name for name, kind in last.items() if kind == EXCLUDE}


# ---- the run ----


def _start(site: Site, by: str, command: Command) -> Reply:
    panel = site.config.panel
    if not panel.question.strip() or not panel.guideline.strip():
        raise UsageError(
            "start: panel.question or panel.guideline is empty; set both in a new run"
        )
    minutes = reading_minutes(site)
    if minutes > MOST_MINUTES and command.typed.strip() != f"{minutes:.0f}":
        raise UsageError(
            f"start: reading takes {minutes:.0f} minutes a vote; type that number to confirm"
        )
    _open_or_refuse(site, by, command)
    pauses.unpause(site.ledger, by)
    return Reply("The first round opens as soon as its answers are written.")


def _open_or_refuse(site: Site, by: str, command: Command) -> None:
    """Record that an operator accepts sample answers that are out of bounds."""
    found = samples.read_check(site.ledger)
    if found is None or not found.refusal:
        return
    if not command.anyway:
        raise UsageError(f"start: {found.refusal}; tick the box to open the run all the same")
    samples.accept_samples(site.ledger, by)


def reading_minutes(site: Site) -> float:
    """Minutes to read one comparison: from the answers so far, else from the settings."""
    found = site.ledger.query(
        "SELECT avg(n) AS words FROM (SELECT sum(length(plus) - length(replace(plus, ' ', '')) "
        "+ length(minus) - length(replace(minus, ' ', '')) + 2) AS n FROM comparisons c "
        "JOIN answers a USING (comparison) WHERE c.kind = 'train' AND plus <> minus "
        "GROUP BY c.comparison)"
    )[0]["words"]
    return float(found or site.config.words_per_vote) / budget.WORDS_PER_MINUTE


def _pause(site: Site, by: str, command: Command) -> Reply:
    now = command.do == "pause"
    pauses.pause(site.ledger, by, command.reason.strip(), now=now)
    if now:
        return Reply("Paused. The round and its votes are kept; panelists are told.")
    return Reply("The run pauses once the round at hand is applied.")


def _resume(site: Site, by: str, command: Command) -> Reply:
    pauses.unpause(site.ledger, by)
    return Reply("The run goes on.")


def _close(site: Site, by: str, command: Command) -> Reply:
    ledger = site.ledger
    at_hand = [row["step"] for row in ledger.steps() if row["state"] == "open"]
    if not at_hand:
        raise UsageError("close: no round is open")
    step = at_hand[0]
    if not command.reason.strip():
        raise UsageError("close: give a reason; it stays in the record")
    if not step_states.close(
        ledger,
        step,
        "operator",
        actor=by,
        reason=command.reason.strip(),
        quorum=QUORUM,
    ):
        votes = StepVotes(ledger, step)
        have = len(votes.counted)
        need = have + votes.missing
        raise UsageError(
            f"close: round {step + 1} has {have} of {need} votes; its quorum is {QUORUM:.0%}"
        )
    return Reply(f"Round {step + 1} is closed with the votes it has.")


def _limits(site: Site, by: str, command: Command) -> Reply:
    at_us = None
    if command.until is not None:
        try:
            when = datetime.strptime(command.until, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
        except ValueError:
            raise UsageError(
                f"limits: {command.until.replace('T', ' ')} is not a date and time; give another"
            ) from None
        at_us = max(0, round(when.timestamp() * 1e6))
    found = Limits(
        step=command.steps, votes=command.votes, at_us=at_us, person_hours=command.hours,
    )  # fmt: skip
    budget.set_limits(site.ledger, by, found)
    return Reply("Limits withdrawn." if found == Limits() else "Limits set.")


def _more(site: Site, by: str, command: Command) -> Reply:
    if command.votes is None:
        raise UsageError("more votes: give their number")
    end = f"{budget.add_votes(site.ledger, by, command.votes).run.votes:,} votes"
    return Reply(f"The run ends after {end} now.")


def _live(site: Site, by: str, command: Command) -> Reply:
    site.ledger.record_event(LIVE, by, {"on": command.on})
    return Reply("Votes of the open round are shown." if command.on else "They are hidden again.")


def _order(site: Site, by: str, command: Command) -> Reply:
    if command.do == "final":
        orders.place_order(site.ledger, "final", by, {"comparisons": command.comparisons})
        return Reply(
            f"{command.comparisons} blind comparisons are ordered. Panelists are offered them "
            "while they wait, once the answers are written."
        )
    orders.place_order(
        site.ledger, "samples", by, {"prompts": command.prompts, "step": command.step}
    )
    return Reply("Samples are ordered; they appear here once they are written.")


def _close_final(site: Site, by: str, command: Command) -> Reply:
    if command.order is None:
        raise UsageError("final comparison: choose which one to close")
    closed = orders.close(site.ledger, command.order, by)
    return Reply("It takes no more votes." if closed else "It was closed before.")


# ---- people ----


def _invite(site: Site, by: str, command: Command) -> Reply:
    name = command.name.strip() or None
    if name is not None and command.count != 1:
        raise UsageError("invite: a name is for one person; leave it out to invite several")
    made = tuple(credentials.invite(site.ledger, "panelist", name) for _ in range(command.count))
    return Reply("Give each person their link or code; neither is shown again.", invitations=made)


def _revoke(site: Site, by: str, command: Command) -> Reply:
    ended = credentials.revoke(site.ledger, command.name, by)
    return Reply(f"{command.name} is out: {ended} links, codes and sessions ended.")


def _erase(site: Site, by: str, command: Command) -> Reply:
    if command.typed.strip() != command.name:
        raise UsageError(f"erase: type {command.name} to confirm")
    try:
        credentials.erase(site.ledger, command.name, by, wait_s=credentials.ERASE_WAIT_S)
    except StorageError as error:  # an erased operator is no longer on the page
        again = f"szpo invite {quoted(site.ledger.path)} --erase {command.name}"
        raise StorageError(f"{error}; from a terminal: {again}") from None
    return Reply(
        f"What was personal of {command.name} is deleted. The votes stay, by pseudonym; "
        f"{credentials.copies(site.ledger)}."
    )


def _exclude(site: Site, by: str, command: Command) -> Reply:
    if not command.reason.strip():
        raise UsageError("exclude: give a reason; it stays in the record")
    found = site.ledger.query(
        "SELECT panelist FROM panelists WHERE pseudonym = ?", (command.name,)
    )
    if not found:
        raise UsageError(f"exclude: nobody is called {command.name}")
    body = {"panelist": found[0]["panelist"], "reason": command.reason.strip()}
    with site.ledger.transaction(by):
        seats.give_back(site.ledger, body["panelist"])  # so that others get them at once
        credentials.revoke(site.ledger, command.name, by)
        site.ledger.record_event(EXCLUDE, by, body)
    return Reply(f"{command.name} takes no part from now on. Past rounds stay as they are.")
