"""The JSON API for panels with a front end of their own; docs/serve.md shows it by examples.

Status, a comparison, a vote, giving a comparison back. Which policy stands on which side never
leaves the server, and another panelist's seat is answered like one that does not exist.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from szpo.errors import StorageError, SzpoError, UsageError
from szpo.training.status import redact_for_panelists
from szpo.types import Assignment, Comparison
from szpo.voting.casting import Receipt, VoteConflictError, VoteRequest
from szpo.voting.service import SeatKind
from szpo_ui.web import login
from szpo_ui.web.rate import Buckets
from szpo_ui.web.requests import read, refuse
from szpo_ui.web.site import Site
from szpo_ui.web.writer import Writer

VOTES_PER_SECOND, VOTES_AT_ONCE = 2.0, 10
"""Rate limit of one panelist's votes: more than a person reads, far less than a flood."""
DETAILS = 32
"""Most entries that a vote's details may have."""

TEXTS = 256
"""Comparisons whose texts are cached."""

Tab = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seat = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Body(BaseModel):
    """A request: unknown fields are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AssignmentRequest(Body):
    """POST /api/assignment."""

    tab: Tab
    of: SeatKind = "round"


class SeatRequest(Body):
    """POST /api/release and /api/extend."""

    assignment: Seat


class VoteBody(Body):
    """POST /api/votes."""

    assignment: Seat
    choice: Literal["A", "B", "tie", "skip"]
    idem: str = Field(pattern=r"^[A-Za-z0-9_.:-]{16,64}$")
    tab: Tab
    skip_reason: str | None = Field(None, min_length=1, max_length=200)
    dwell_ms: int | None = Field(None, ge=0, lt=7 * 24 * 3600 * 1000)
    details: dict[str, str | bool | int | Annotated[float, Field(allow_inf_nan=False)] | None] = (
        Field(default_factory=dict, max_length=DETAILS)
    )

    @model_validator(mode="after")
    def _reason_of_a_skip(self) -> Self:
        if self.skip_reason is not None and self.choice != "skip":
            raise ValueError("skip_reason belongs to the choice skip")
        return self


def routes(site: Site, writer: Writer) -> list[Route]:
    """The routes under /api/: plain Starlette, since nothing here needs FastAPI's validation."""
    texts = lru_cache(maxsize=TEXTS)(site.ledger.comparison)  # they never change
    votes = Buckets(site.clock, rate=VOTES_PER_SECOND, burst=VOTES_AT_ONCE)

    def choose(asked: AssignmentRequest, panelist: str) -> tuple[Assignment, Comparison] | None:
        seat = site.service.ask(asked.of, panelist, tab=asked.tab)
        comparison = None if seat is None else texts(seat.comparison)
        return None if seat is None or comparison is None else (seat, comparison)

    def status(request: Request) -> Response:
        login.identity(site, request, "panelist")
        found = site.status.read()
        tag = f'"{found.version}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return JSONResponse(asdict(redact_for_panelists(found)), headers={"ETag": tag})

    async def assignment(request: Request) -> Response:
        who = login.identity(site, request, "panelist")
        asked = await read(AssignmentRequest, request)
        if isinstance(asked, Response):
            return asked
        found = await writer.do(partial(choose, asked, str(who.panelist)))
        if found is None:
            return Response(status_code=204)
        seat, comparison = found
        return JSONResponse(_describe(site, asked, comparison, seat))

    async def vote(request: Request) -> Response:
        who = login.identity(site, request, "panelist")
        if wait := votes.take(str(who.panelist)):
            return refuse(429, "too_many", "too many votes; slow down", retry_after=wait)
        given = await read(VoteBody, request)
        if isinstance(given, Response):
            return given
        try:
            receipt = await writer.cast(
                VoteRequest(
                    assignment=given.assignment,
                    choice=given.choice,
                    idem=given.idem,
                    skip_reason=given.skip_reason,
                    dwell_ms=given.dwell_ms,
                    details=given.details or None,
                    tab=given.tab,
                    panelist=who.panelist,
                )
            )
        except SzpoError as error:
            return answer_error(error)
        return _accept(receipt)

    async def release(request: Request) -> Response:
        return await _keep(request, "release")

    async def extend(request: Request) -> Response:
        return await _keep(request, "extend")

    async def _keep(request: Request, what: Literal["release", "extend"]) -> Response:
        who = login.identity(site, request, "panelist")
        given = await read(SeatRequest, request)
        if isinstance(given, Response):
            return given
        seat = await run_in_threadpool(site.service.assignment, given.assignment)
        if seat is None or seat.panelist != who.panelist:
            return _no_such()
        if what == "release":
            await writer.do(partial(site.service.release, given.assignment))
        elif not await writer.do(partial(site.service.extend, given.assignment)):
            return refuse(409, "given_away", "somebody else may have this comparison now")
        return Response(status_code=204)

    return [
        Route("/api/votes", vote, methods=["POST"]),
        Route("/api/assignment", assignment, methods=["POST"]),
        Route("/api/status", status, methods=["GET"]),
        Route("/api/extend", extend, methods=["POST"]),
        Route("/api/release", release, methods=["POST"]),
    ]


def _accept(receipt: Receipt) -> JSONResponse:
    """A stored answer: whether it counts, and which revision it is."""
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


def answer_error(error: SzpoError) -> JSONResponse:
    """Why a vote was not stored, with what stands instead where something does."""
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
    """The comparison as its panelist sees it: rows in the seat's order, answers by letter."""
    rows = []
    for row in (comparison.rows[i] for i in seat.prompt_order):
        a, b = seat.sides(row)
        rows.append(
            {
                "prompt": row.prompt.text,
                "a": a.text,
                "b": b.text,
                "a_cut": a.end == "length",
                "b_cut": b.end == "length",
                "identical": row.identical,
            }
        )
    return {
        "assignment": seat.id,
        "of": asked.of,
        "round": comparison.step + 1 if asked.of == "round" else None,
        "question": site.config.panel.question,
        "guideline": site.config.panel.guideline,
        "expires_us": seat.expires_us,
        "rows": rows,
    }


def _no_such() -> JSONResponse:
    return refuse(404, "not_found", "there is no such comparison for this panelist")
