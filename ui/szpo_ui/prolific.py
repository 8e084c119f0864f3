"""A Prolific study: its participants' arrivals, pseudonyms, progress and way back.

Prolific's identifiers are personal data. The record has only a keyed pseudonym: HMAC-SHA256 of the
identifier with a key of this run. The key and the identifiers are in the tables of credentials and
contacts, which can be erased and which no export reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from szpo.config.run_sections import Prolific
from szpo.ledger.database import Ledger
from szpo.training.status import RoundStatus
from szpo.voting.service import VoteService
from szpo_ui.web import credential_rows, credentials, login
from szpo_ui.web.credential_rows import Identity
from szpo_ui.web.credentials import AccessError, Contact
from szpo_ui.web.markup import entrance
from szpo_ui.web.rate import Buckets
from szpo_ui.web.requests import Body, read, refuse
from szpo_ui.web.site import Site

RETURN_URL = "https://app.prolific.com/submissions/complete"
"""The address to which participants return, with their code."""
BY: Final = "prolific"
"""The mark of an arrival in the record."""
FINISHED: Final = "participant finished"
"""Kind of the event that a participant returned with the completion code."""
PSEUDONYM_LETTERS: Final = 12
"""Number of characters in a pseudonym, with five random bits each."""
GRACE_US: Final = 24 * 3600 * 1_000_000
"""How long after their time a finished participant can still get the code, µs."""


class Arrival(Body):
    """The identifiers that Prolific adds to a study's link, as the link's page posts them."""

    participant: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    study: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    submission: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    """Prolific's session id."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A participant's progress."""

    votes: int
    needed: int
    over: bool
    """The run has finished, so it asks for no more votes."""

    @property
    def finished(self) -> bool:
        """Whether the participant may have the completion code."""
        return self.over or self.votes >= self.needed


def arrive(
    ledger: Ledger, chosen: Prolific, arrival: Arrival, status: RoundStatus
) -> tuple[str, Identity]:
    """Let a participant in, for the first time or again; returns the session's secret and owner.

    Raises:
        AccessError: another study, no place left, their time is over, or their access was revoked.
    """
    if arrival.study != chosen.study:
        raise AccessError("other_study", "this link belongs to another study")
    with ledger.transaction("access"):
        name = pseudonym(ledger, arrival.participant)
        if any(row["revoked_us"] is not None for row in credential_rows.all_of(ledger, name)):
            raise AccessError("ended", "your part in this study has ended")
        now, span, came = ledger.clock(), round(chosen.minutes * 60e6), _arrivals(ledger)
        known = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
        panelist = known[0]["panelist"] if known else ""
        until = came.get(panelist, now) + span
        if panelist not in came:
            if _places(ledger, chosen, came, now) >= chosen.places:
                raise AccessError("full", "all places of this study are taken")
        elif _standing(ledger, panelist, chosen, status).finished:
            until = max(until, now) + GRACE_US
        elif until <= now:
            raise AccessError("time_over", "the time for this study is over")
        contact = Contact(
            f"Prolific {arrival.participant}",
            note=json.dumps({"study": arrival.study, "submission": arrival.submission}),
        )
        return credentials.admit(ledger, name, until_us=until, contact=contact, by=BY)


def pseudonym(ledger: Ledger, participant: str) -> str:
    """A participant's name in this run's record; without the key it reveals nothing."""
    digest = hmac.new(_key(ledger), participant.encode(), hashlib.sha256).digest()
    letters = "".join(credential_rows.ALPHABET[byte % 32] for byte in digest[:PSEUDONYM_LETTERS])
    return f"PR-{letters}"


def standing(
    ledger: Ledger, panelist: str, chosen: Prolific, status: RoundStatus
) -> Standing | None:
    """A participant's progress; None for a panelist who did not come by the open link."""
    if chosen.study is None or panelist not in _arrivals(ledger):
        return None
    return _standing(ledger, panelist, chosen, status)


def record_finish(ledger: Ledger, panelist: str, found: Standing) -> None:
    """Record that a participant returned with the completion code, but only the first time."""
    with ledger.transaction("access"):
        known = ledger.query(
            "SELECT 1 FROM events WHERE kind = ? AND json_extract(body, '$.panelist') = ?",
            (FINISHED, panelist),
        )
        if not known:
            body = {"panelist": panelist, "votes": found.votes}
            ledger.record_event(FINISHED, "access", body)


def release_late(service: VoteService, chosen: Prolific) -> None:
    """Release the seats of participants whose time is over."""
    ledger = service.ledger
    now, span = ledger.clock(), round(chosen.minutes * 60e6)
    late = {panelist for panelist, at_us in _arrivals(ledger).items() if at_us + span <= now}
    with ledger.transaction("votes"):  # so that no vote comes in between
        for row in ledger.query(
            "SELECT a.assignment, a.panelist FROM assignments a LEFT JOIN votes v "
            "USING (assignment) "
            "WHERE v.vote IS NULL AND a.expires_us > ? AND a.released_us IS NULL",
            (now,),
        ):
            if row["panelist"] in late:
                service.release(row["assignment"])


# ---- internals ----


def _key(ledger: Ledger) -> bytes:
    """The key of this run's pseudonyms, made at the first arrival."""
    rows = credential_rows.under(ledger, "key:prolific")
    if not rows:  # the key is the hash of a forgotten secret, so it gives no access
        who, now = Identity("operator", "prolific", None), ledger.clock()
        credential_rows.add(ledger, "key", who, secrets.token_urlsafe(32), now, now)
        rows = credential_rows.under(ledger, "key:prolific")
    return bytes.fromhex(rows[0]["secret_sha256"])


def _arrivals(ledger: Ledger) -> dict[str, int]:
    """Each participant's first arrival, µs since 1970, by panelist's id."""
    found = ledger.query(
        "SELECT json_extract(body, '$.panelist') AS panelist, min(at_us) AS at_us FROM events "
        "WHERE kind = 'invite' AND json_extract(body, '$.by') = ? GROUP BY 1",
        (BY,),
    )
    return {row["panelist"]: row["at_us"] for row in found}


def _standing(ledger: Ledger, panelist: str, chosen: Prolific, status: RoundStatus) -> Standing:
    return Standing(_votes(ledger, panelist), chosen.votes, status.state == "finished")


def _votes(ledger: Ledger, panelist: str) -> int:
    """How many training comparisons a panelist has answered, skips included."""
    sql = (
        "SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison) "
        "JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        "WHERE a.panelist = ? AND c.kind = 'train'"
    )
    return int(ledger.query(sql, (panelist,))[0]["n"])


def _places(ledger: Ledger, chosen: Prolific, came: Mapping[str, int], now: int) -> int:
    """How many places are taken, by people whose time is not over or who gave all their votes."""
    since = now - round(chosen.minutes * 60e6)
    return sum(
        at_us > since or _votes(ledger, panelist) >= chosen.votes
        for panelist, at_us in came.items()
    )


ARRIVALS_PER_SECOND, ARRIVALS_AT_ONCE = 1.0, 60
"""Rate limit of the open link per network; a whole university may share one address."""


def router(site: Site) -> APIRouter:
    """The routes /join, /panel-api/finish and /panel-api/decline; none without a study."""
    made, chosen = APIRouter(), site.config.prolific
    if chosen.study is None:
        return made
    arrivals = Buckets(site.ledger.clock, rate=ARRIVALS_PER_SECOND, burst=ARRIVALS_AT_ONCE)

    @made.get("/join")
    def page(request: Request) -> Response:
        return HTMLResponse(entrance("join", login.preferred_language(request).code))

    @made.post("/join")
    async def join(request: Request) -> Response:
        if wait := arrivals.take(login.network_of(request)):
            return refuse(429, "too_many", "too many people come at once; wait", retry_after=wait)
        secret = await run_in_threadpool(_arrive, await read(Arrival, request))
        answer = JSONResponse({"go": login.home_of("panelist")})
        login.set_session(answer, site, secret)
        return answer

    def _arrive(arrival: Arrival) -> str:
        release_late(site.service, chosen)
        return arrive(site.ledger, chosen, arrival, site.status.read())[0]

    @made.get("/panel-api/finish")
    def finish(request: Request) -> Response:
        """Send a participant who has finished back to Prolific, with the completion code."""
        who = login.identity(request, "panelist")
        found = standing(site.ledger, str(who.panelist), chosen, site.status.read())
        if found is None or not found.finished:
            return RedirectResponse(login.home_of("panelist"), 303)
        record_finish(site.ledger, str(who.panelist), found)
        return _back(chosen.completion_code)

    @made.get("/panel-api/decline")
    def decline(request: Request) -> Response:
        """Send a participant who has not agreed back to Prolific, and end their access."""
        who = login.identity(request, "panelist")
        panelist = str(who.panelist)
        agreed = site.ledger.query(
            "SELECT 1 FROM events WHERE kind = 'consent' AND actor = ? LIMIT 1", (panelist,)
        )
        found = standing(site.ledger, panelist, chosen, site.status.read())
        if found is None or agreed:
            return RedirectResponse(login.home_of("panelist"), 303)
        credentials.revoke(site.ledger, who.name, "prolific")
        return _back(chosen.declined_code)

    def _back(code: str | None) -> Response:
        if code is None:
            return RedirectResponse("/join#declined", 303)
        return RedirectResponse(f"{RETURN_URL}?cc={code}", 303)

    return made
