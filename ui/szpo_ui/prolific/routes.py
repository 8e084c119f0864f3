"""The ways in and out of a Prolific study: the open link, and the redirect back with a code."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from szpo_ui.prolific import participants
from szpo_ui.prolific.participants import Arrival, ArrivalError
from szpo_ui.web import credentials, login
from szpo_ui.web.markup import entrance
from szpo_ui.web.rate import Buckets, network
from szpo_ui.web.requests import read, refuse
from szpo_ui.web.site import Site

ARRIVALS_PER_SECOND, ARRIVALS_AT_ONCE = 1.0, 60
"""Rate limit of the open link for one network: a university may come by one address."""
STATUS: Final = {"other_study": 403, "time_over": 410, "full": 409, "ended": 403}


class Join(BaseModel):
    """What the page of the open link sends: the identifiers of its own address."""

    model_config = ConfigDict(extra="forbid", strict=True)

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
        if isinstance(given, Response):
            return given
        try:
            secret = await run_in_threadpool(_arrive, given)
        except ArrivalError as error:
            return refuse(STATUS[error.code], error.code, str(error))
        answer = JSONResponse({"go": login.home_of(site, "panelist")})
        login.set_session(answer, site, secret)
        return answer

    def _arrive(given: Join) -> str:
        participants.release_late(site.ledger, chosen)
        arrival = Arrival(given.participant, given.study, given.submission)
        return participants.arrive(site.ledger, chosen, arrival, site.status.read())[0]

    @made.get("/panel-api/finish")
    def finish(request: Request) -> Response:
        """Back to Prolific with the completion code, for who has given the votes."""
        who = login.identity(site, request, "panelist")
        found = participants.standing(site.ledger, str(who.panelist), chosen, site.status.read())
        if found is None or not found.finished:
            return RedirectResponse(login.home_of(site, "panelist"), 303)
        participants.finish(site.ledger, str(who.panelist), found)
        return _back(chosen.completion_code)

    @made.get("/panel-api/decline")
    def decline(request: Request) -> Response:
        """Back to Prolific without taking part, for who has not agreed; their access ends."""
        who = login.identity(site, request, "panelist")
        panelist = str(who.panelist)
        agreed = site.ledger.query(
            "SELECT 1 FROM events WHERE kind = 'consent' AND actor = ? LIMIT 1", (panelist,)
        )
        found = participants.standing(site.ledger, panelist, chosen, site.status.read())
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
