"""A Prolific study: who came by the open link, under which pseudonym, and the way back.

Prolific's identifiers are personal data. The record has a keyed pseudonym alone: HMAC-SHA256 of
the identifier under a key of this run. Identifiers and key stand among the credentials and
contacts, in tables that can be erased and that no export reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from szpo.config.run_sections import Prolific
from szpo.errors import SzpoError
from szpo.ledger.database import Ledger
from szpo.training.status import RoundStatus
from szpo.voting import seats
from szpo_ui.web import credential_rows, credentials, login
from szpo_ui.web.credentials import Contact, Identity
from szpo_ui.web.markup import entrance
from szpo_ui.web.rate import Buckets, network
from szpo_ui.web.requests import Body, read, refuse
from szpo_ui.web.site import Site

BY: Final = "prolific"
"""How an arrival is marked in the record."""
FINISHED: Final = "participant finished"
"""Kind of the event by which a participant went back with the completion code."""
PSEUDONYM_LETTERS: Final = 12
"""Of a pseudonym, five random bits each."""
GRACE_US: Final = 24 * 3600 * 1_000_000
"""For so long after their time somebody who has finished still gets the code."""

Refused = Literal["other_study", "time_over", "full", "ended"]


class ArrivalError(SzpoError):
    """Somebody who came by the open link is not let in; ``code`` says why."""

    exit_code = 2

    def __init__(self, code: Refused, message: str):
        super().__init__(message)
        self.code: Final = code


@dataclass(frozen=True, slots=True)
class Arrival:
    """What Prolific adds to the address of a study."""

    participant: str
    study: str
    submission: str
    """Prolific calls it the session."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a participant is."""

    votes: int
    needed: int
    over: bool
    """The run asks for no more votes."""

    @property
    def finished(self) -> bool:
        """Whether the completion code is theirs."""
        return self.over or self.votes >= self.needed


def arrive(
    ledger: Ledger, chosen: Prolific, arrival: Arrival, status: RoundStatus
) -> tuple[str, Identity]:
    """Let a participant in, or in again at the same place; returns the session's secret, and who.

    Raises:
        ArrivalError: another study, no place left, their time is over, or their access was ended.
    """
    if arrival.study != chosen.study:
        raise ArrivalError("other_study", "this link belongs to another study")
    with ledger.transaction("access"):
        name = pseudonym(ledger, arrival.participant)
        now, first = ledger.clock(), _arrived_us(ledger, name)
        if any(row["revoked_us"] is not None for row in credential_rows.all_of(ledger, name)):
            raise ArrivalError("ended", "your part in this study has ended")
        if first is None:
            if len(_places(ledger, chosen, now)) >= chosen.places:
                raise ArrivalError("full", "all places of this study are taken")
            until = now + round(chosen.minutes * 60e6)
        else:
            until = first + round(chosen.minutes * 60e6)
            if _finished(ledger, name, chosen, status):
                until = max(until, now) + GRACE_US
            elif until <= now:
                _give_back(ledger, name)
                raise ArrivalError("time_over", "the time for this study is over")
        contact = Contact(
            f"Prolific {arrival.participant}",
            note=json.dumps({"study": arrival.study, "submission": arrival.submission}),
        )
        return credentials.admit(ledger, name, until_us=until, contact=contact, by=BY)


def pseudonym(ledger: Ledger, participant: str) -> str:
    """The name of a participant in this run's record; without the key it tells nothing."""
    digest = hmac.new(_key(ledger), participant.encode(), hashlib.sha256).digest()
    letters = "".join(credential_rows.ALPHABET[byte % 32] for byte in digest[:PSEUDONYM_LETTERS])
    return f"PR-{letters}"


def standing(
    ledger: Ledger, panelist: str, chosen: Prolific, status: RoundStatus
) -> Standing | None:
    """How far a participant is; None for a panelist who did not come by the open link."""
    if chosen.study is None or not _is_participant(ledger, panelist):
        return None
    return Standing(_votes(ledger, panelist), chosen.votes, status.state == "finished")


def record_finish(ledger: Ledger, panelist: str, found: Standing) -> None:
    """Record that a participant went back with the completion code, once."""
    with ledger.transaction("access"):
        known = ledger.query(
            "SELECT 1 FROM events WHERE kind = ? AND json_extract(body, '$.panelist') = ?",
            (FINISHED, panelist),
        )
        if not known:
            body = {"panelist": panelist, "votes": found.votes}
            ledger.record_event(FINISHED, "access", body)


def release_late(ledger: Ledger, chosen: Prolific) -> None:
    """Give back the comparisons of participants whose time is over."""
    now = ledger.clock()
    for row in ledger.query(
        "SELECT DISTINCT p.pseudonym FROM assignments a JOIN panelists p USING (panelist) "
        "LEFT JOIN votes v USING (assignment) "
        "WHERE v.vote IS NULL AND a.expires_us > ? AND a.released_us IS NULL",
        (now,),
    ):
        first = _arrived_us(ledger, row["pseudonym"])
        if first is not None and first + round(chosen.minutes * 60e6) <= now:
            _give_back(ledger, row["pseudonym"])


# ---- internals ----


def _key(ledger: Ledger) -> bytes:
    """The key of this run's pseudonyms, made at the first arrival."""
    rows = credential_rows.under(ledger, "key:prolific")
    if not rows:
        who = credential_rows.Holder("operator", "prolific", None)
        credential_rows.add_key(ledger, who, ledger.clock())
        rows = credential_rows.under(ledger, "key:prolific")
    return bytes.fromhex(rows[0]["secret_sha256"])


def _arrived_us(ledger: Ledger, name: str) -> int | None:
    found = ledger.query(
        "SELECT min(e.at_us) AS at_us FROM panelists p JOIN events e ON e.kind = 'invite' "
        "AND json_extract(e.body, '$.panelist') = p.panelist "
        "AND json_extract(e.body, '$.by') = ? WHERE p.pseudonym = ?",
        (BY, name),
    )
    at_us: int | None = found[0]["at_us"]
    return at_us


def _is_participant(ledger: Ledger, panelist: str) -> bool:
    return bool(
        ledger.query(
            "SELECT 1 FROM events WHERE kind = 'invite' AND json_extract(body, '$.panelist') = ? "
            "AND json_extract(body, '$.by') = ? LIMIT 1",
            (panelist, BY),
        )
    )


def _votes(ledger: Ledger, panelist: str) -> int:
    """Comparisons of rounds that somebody has judged; a skip is an answer too."""
    sql = (
        "SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison) "
        "JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        "WHERE a.panelist = ? AND c.kind = 'train'"
    )
    return int(ledger.query(sql, (panelist,))[0]["n"])


def _finished(ledger: Ledger, name: str, chosen: Prolific, status: RoundStatus) -> bool:
    found = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
    if not found:
        return False
    there = standing(ledger, found[0]["panelist"], chosen, status)
    return there is not None and there.finished


def _places(ledger: Ledger, chosen: Prolific, now: int) -> list[str]:
    """The panelists who have a place: their time is not over, or they have given their votes."""
    since = now - round(chosen.minutes * 60e6)
    return [
        row["panelist"]
        for row in ledger.query(
            "SELECT json_extract(body, '$.panelist') AS panelist, min(at_us) AS at_us FROM events "
            "WHERE kind = 'invite' AND json_extract(body, '$.by') = ? GROUP BY 1",
            (BY,),
        )
        if row["at_us"] > since or _votes(ledger, row["panelist"]) >= chosen.votes
    ]


def _give_back(ledger: Ledger, name: str) -> None:
    for row in ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,)):
        seats.give_back(ledger, row["panelist"])


ARRIVALS_PER_SECOND, ARRIVALS_AT_ONCE = 1.0, 60
"""Rate limit of the open link for one network: a university may come by one address."""
STATUS: Final = {"other_study": 403, "time_over": 410, "full": 409, "ended": 403}


class Join(Body):
    """What the page of the open link sends: the identifiers of its own address."""

    participant: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    study: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    submission: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")


def router(site: Site) -> APIRouter:
    """GET and POST /join; /panel-api/finish and /panel-api/decline. Nothing without a study."""
    made, chosen = APIRouter(), site.config.prolific
    if chosen.study is None:
        return made
    arrivals = Buckets(site.clock, rate=ARRIVALS_PER_SECOND, burst=ARRIVALS_AT_ONCE)

    @made.get("/join")
    def page(request: Request) -> Response:
        return HTMLResponse(entrance("join", login.preferred_language(request).code))

    @made.post("/join")
    async def join(request: Request) -> Response:
        if wait := arrivals.take(network(request.client.host if request.client else "")):
            return refuse(429, "too_many", "too many people come at once", retry_after=wait)
        given = await read(Join, request)
        try:
            secret = await run_in_threadpool(_arrive, given)
        except ArrivalError as error:
            return refuse(STATUS[error.code], error.code, str(error))
        answer = JSONResponse({"go": login.home_of(site, "panelist")})
        login.set_session(answer, site, secret)
        return answer

    def _arrive(given: Join) -> str:
        release_late(site.ledger, chosen)
        arrival = Arrival(given.participant, given.study, given.submission)
        return arrive(site.ledger, chosen, arrival, site.status.read())[0]

    @made.get("/panel-api/finish")
    def finish(request: Request) -> Response:
        """Back to Prolific with the completion code, for who has given the votes."""
        who = login.identity(site, request, "panelist")
        found = standing(site.ledger, str(who.panelist), chosen, site.status.read())
        if found is None or not found.finished:
            return RedirectResponse(login.home_of(site, "panelist"), 303)
        record_finish(site.ledger, str(who.panelist), found)
        return _back(chosen.completion_code)

    @made.get("/panel-api/decline")
    def decline(request: Request) -> Response:
        """Back to Prolific without taking part, for who has not agreed; their access ends."""
        who = login.identity(site, request, "panelist")
        panelist = str(who.panelist)
        agreed = site.ledger.query(
            "SELECT 1 FROM events WHERE kind = 'consent' AND actor = ? LIMIT 1", (panelist,)
        )
        found = standing(site.ledger, panelist, chosen, site.status.read())
        if found is None or agreed:
            return RedirectResponse(login.home_of(site, "panelist"), 303)
        credentials.revoke(site.ledger, who.name, "prolific")
        return _back(chosen.declined_code)

    def _back(code: str | None) -> Response:
        if code is None:
            return RedirectResponse(f"{site.prefix}/join#declined", 303)
        joint = "&" if urlsplit(chosen.return_url).query else "?"
        return RedirectResponse(f"{chosen.return_url}{joint}{urlencode({'cc': code})}", 303)

    return made
