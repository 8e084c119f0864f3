"""The JSON API of a run, for panels with a front end of their own.

docs/reference/http-api.md names its requests: status, assignments, sheets, votes, releasing or
extending a seat. It never says which policy is on which side, and treats somebody else's seat like
one that does not exist.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from szpo.errors import StorageError, SzpoError, UsageError
from szpo.models.answer_shares import is_cut
from szpo.types import Assignment, Comparison, Row
from szpo.voting.casting import Receipt, VoteConflictError, read_seat
from szpo.voting.service import SeatKind
from szpo_ui import ballots, credentials, login
from szpo_ui.ballots import At, Ballot
from szpo_ui.request_rules import Body, Buckets, Seat, Tab, if_changed, read_body, refuse
from szpo_ui.site import Site

VOTES_PER_SECOND, VOTES_AT_ONCE = 2.0, 10
"""Rate limit of one panelist's votes: more than a person can read, far less than a flood."""


class SheetRequest(Body):
    """The body of POST /api/sheet."""

    tab: Tab


class AssignmentRequest(SheetRequest):
    """The body of POST /api/assignment."""

    of: SeatKind = "round"


class SeatRequest(Body):
    """The body of POST /api/release and /api/extend."""

    assignment: Seat


def routes(site: Site) -> list[Route]:
    """The routes under /api/, without FastAPI, whose validation they do not need."""
    votes = Buckets(site.ledger.clock, rate=VOTES_PER_SECOND, burst=VOTES_AT_ONCE)

    def most(panelist: str) -> int:
        """How many rows a sheet may have: of an open link's visitor, what is still asked."""
        standing = credentials.standing(site.ledger, panelist, site.status)
        left = site.config.sheet if standing is None else standing.needed - standing.votes
        return max(0, min(site.config.sheet, left))

    def choose(asked: AssignmentRequest, panelist: str) -> tuple[Assignment, Comparison] | None:
        if asked.of == "round" and not most(panelist):
            return None
        seat = site.service.ask(asked.of, panelist, tab=asked.tab)
        comparison = None if seat is None else site.comparison(seat.comparison)
        return None if seat is None or comparison is None else (seat, comparison)

    def status(request: Request) -> Response:
        who, asked = login.identity(request, "panelist"), request.query_params
        at = None
        if "tab" in asked:
            try:
                at = At(tab=asked["tab"], seat=asked.get("seat"))
            except ValidationError:
                return refuse(422, "invalid", "tab or seat has a wrong form; load the page again")
        found, tag = ballots.poll(site, str(who.panelist), at)
        return if_changed(request, tag, found)

    async def assignment(request: Request) -> Response:
        who = login.identity(request, "panelist")
        asked = await read_body(AssignmentRequest, request)
        found = await site.writer.do(partial(choose, asked, str(who.panelist)))
        if found is None:
            return Response(status_code=204)
        seat, comparison = found
        return JSONResponse(_describe(site, asked, comparison, seat))

    def lay(asked: SheetRequest, panelist: str) -> list[dict[str, Any]]:
        rows = []
        allowed = most(panelist)
        for seat in site.service.sheet(panelist, allowed, tab=asked.tab) if allowed else ():
            last = read_seat(site.ledger, seat.id)[-1]
            comparison = site.comparison(seat.comparison)
            assert comparison is not None, seat.comparison
            row = {"assignment": seat.id, "expires_us": seat.expires_us, "choice": last["choice"]}
            rows.append(row | _texts(seat, comparison.rows[0]))
        return rows

    async def sheet(request: Request) -> Response:
        who = login.identity(request, "panelist")
        asked = await read_body(SheetRequest, request)
        if not site.config.asks_rows:
            return refuse(409, "batches", "this run asks about batches: use /api/assignment")
        rows = await site.writer.do(partial(lay, asked, str(who.panelist)))
        if not rows:
            return Response(status_code=204)
        rubric = site.rubric
        asks = {"question": rubric.question, "guideline": rubric.brief}
        return JSONResponse({**asks, "rows": rows})

    async def vote(request: Request) -> Response:
        who = login.identity(request, "panelist")
        if wait := votes.take(str(who.panelist)):
            return refuse(429, "too_many", "too many votes; slow down", retry_after=wait)
        given = await read_body(Ballot, request)
        cast = partial(ballots.cast, site, str(who.panelist), given)
        _, stored = await site.writer.do(cast, first=True)
        return _accept(stored) if isinstance(stored, Receipt) else answer_error(stored)

    def give_back(panelist: str, name: str) -> bool:
        seat = site.service.assignment(name)
        if seat is None or seat.panelist != panelist:
            return False
        site.service.release(name)
        return True

    async def release(request: Request) -> Response:
        who = login.identity(request, "panelist")
        given = await read_body(SeatRequest, request)
        gone = await site.writer.do(partial(give_back, str(who.panelist), given.assignment))
        return Response(status_code=204) if gone else _no_such()

    async def extend(request: Request) -> Response:
        who = login.identity(request, "panelist")
        given = await read_body(SeatRequest, request)
        hold = partial(ballots.extend, site, str(who.panelist), given.assignment)
        if await site.writer.do(hold) is None:
            return refuse(409, "given_away", "somebody else may have this comparison now")
        return Response(status_code=204)

    return [
        Route("/api/votes", vote, methods=["POST"]),
        Route("/api/assignment", assignment, methods=["POST"]),
        Route("/api/sheet", sheet, methods=["POST"]),
        Route("/api/status", status, methods=["GET"]),
        Route("/api/extend", extend, methods=["POST"]),
        Route("/api/release", release, methods=["POST"]),
    ]


def _accept(receipt: Receipt) -> JSONResponse:
    """The response to a stored vote: whether it counts, and its revision."""
    body: dict[str, Any] = {
        "assignment": receipt.assignment,
        "choice": receipt.choice,
        "revision": receipt.revision,
        "received_us": receipt.received_us,
        "counted": not receipt.late,
    }
    if receipt.late:
        body["reason"] = "step closed"
    headers = {"Idempotent-Replayed": "true"} if receipt.replayed else None
    return JSONResponse(body, headers=headers)


def answer_error(error: SzpoError | None) -> JSONResponse:
    """The response to a vote that was not stored: why, and the choice stored instead, if any."""
    match error:
        case VoteConflictError():
            stored = None if error.stored is None else error.stored.choice
            return refuse(409, error.code, str(error), choice=stored)
        case UsageError():
            return _no_such()
        case StorageError():
            return refuse(
                503,
                "storage",
                "the server cannot write to its disk now; your answer was not stored: try again",
                retry_after=5,
            )
        case _:
            return refuse(500, "failed", "the answer could not be stored; tell the operator")


def _describe(
    site: Site, asked: AssignmentRequest, comparison: Comparison, seat: Assignment
) -> dict[str, Any]:
    """The comparison as its panelist sees it: rows in the seat's order, answers as A and B."""
    rows = [comparison.rows[i] for i in seat.prompt_order]
    return {
        "assignment": seat.id,
        "of": asked.of,
        "round": comparison.step + 1 if asked.of == "round" else None,
        "question": site.config.panel.question,
        "guideline": site.config.panel.brief,
        "expires_us": seat.expires_us,
        "rows": [{**_texts(seat, row), "identical": row.identical} for row in rows],
    }


def _texts(seat: Assignment, row: Row) -> dict[str, Any]:
    """A row as its panelist sees it."""
    a, b = seat.sides(row)
    return {
        "prompt": row.prompt.text,
        "a": a.text,
        "b": b.text,
        "a_cut": is_cut(a),
        "b_cut": is_cut(b),
    }


def _no_such() -> JSONResponse:
    return refuse(404, "not_found", "there is no such comparison for this panelist")
