"""Identifies who sends a request: sessions, the login page, invitations, locks after wrong codes.

A session is a random secret in a cookie of this host (or, for programs, in the header
``Authorization: Bearer``). The ledger stores only its hash. Each request looks the session up
there again, so a revoked session ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from szpo.errors import SzpoError
from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger
from szpo_ui import credentials
from szpo_ui.credentials import AccessError, Fault, Identity, Reason, Role
from szpo_ui.markup import entrance
from szpo_ui.request_rules import MOST_KEYS, Body, Buckets, Locks, network, read_body, refuse
from szpo_ui.site import HOME_PATHS, Site

T = TypeVar("T")

LOGINS_PER_SECOND, LOGINS_AT_ONCE = 1 / 6, 10
"""Rate limit of one person's logins with correct codes."""
ARRIVALS_PER_SECOND, ARRIVALS_AT_ONCE = 1.0, 60
"""Rate limit of an open link per network; a whole university may share one address."""
SCOPE = "szpo.identity"
"""Key in a request's scope under which `AccessControl` stores the identity for handlers."""
STATUS: Final[Mapping[Reason, int]] = {"revoked": 403, "full": 409}
"""HTTP status codes of refused access; 401 for all other reasons."""


def cookie_name(site: Site) -> str:
    """The session cookie's name; ``__Host-`` binds the cookie to the host and needs TLS.

    The run's id is in it, since a browser sends the cookies of a host to all its ports.
    """
    return f"{'__Host-' if site.secure else ''}szpo-{site.ledger.run}"


def home_of(role: Role) -> str:
    """The path of a role's page on the host."""
    return f"{HOME_PATHS[role]}/"


class Sessions:
    """Looks up each request's session in the file, in a thread with its own connection.

    Nothing is read on the event loop or over the connection that writes votes: a read there would
    wait for commits, and so would all later requests. Another thread records once a minute that a
    session is in use; normally no request waits for it.
    """

    def __init__(self, site: Site):
        self.site: Final = site
        self.cookie: Final = cookie_name(site)
        self._reader: Final = Ledger.open(site.ledger.path, readonly=True, clock=site.ledger.clock)
        self._looks: Final = ThreadPoolExecutor(1, thread_name_prefix="szpo-sessions")
        self._notes: Final = ThreadPoolExecutor(1, thread_name_prefix="szpo-uses")
        self._used: OrderedDict[str, tuple[int, Future[None]]] = OrderedDict()

    async def ask(self, look: Callable[[Ledger], T]) -> T:
        """Call ``look`` with the read-only connection, and return its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._looks, look, self._reader)

    async def of(self, headers: Headers) -> Identity | Fault:
        """The owner of a request's session, or why the session is not valid."""
        token = _token(headers, self.cookie)
        if not token:
            return "login"
        key, now = sha256(token), self.site.ledger.clock()
        found = await self.ask(partial(credentials.find_session, session=token))
        noted = self._used.get(key)
        if found == "expired" and noted is not None and not noted[1].done():
            await asyncio.wait({asyncio.wrap_future(noted[1])})  # the session was used in time
            found = await self.ask(partial(credentials.find_session, session=token))
        if not isinstance(found, str) and (
            noted is None or not 0 <= now - noted[0] < credentials.SLIDE_US
        ):
            self._used[key] = now, self._notes.submit(self._note, token)
            self._used.move_to_end(key)
            if len(self._used) > MOST_KEYS:
                self._used.popitem(last=False)
        return found

    def _note(self, token: str) -> None:
        """Record that a session is in use; if that fails, the session is not extended."""
        with contextlib.suppress(SzpoError):
            credentials.identify(self.site.ledger, token)

    def close(self) -> None:
        """Finish recording uses, and close the connection."""
        self._notes.shutdown()
        self._looks.shutdown()
        self._reader.close()


def identity(request: Any, role: Role | None = None) -> Identity:
    """The identity that `AccessControl` found for a request; handlers check its role again.

    Gradio passes None for direct calls, which is nobody. ``identity.panelist`` is a panelist's id
    in the vote service.
    """
    found: Identity | None = None if request is None else request.scope.get(SCOPE)
    if found is None:
        raise HTTPException(401, "please log in")
    if role is not None and found.role != role:
        raise HTTPException(401, meant_for(role))
    return found


def meant_for(role: Role) -> str:
    """The refusal of whoever has another role.

    >>> meant_for("operator")
    'this page is for operators; log in as one'
    """
    return f"this page is for {role}s; log in as one"


class Login(Body):
    """The body of a login by name and code."""

    name: str = Field(min_length=1, max_length=64)
    code: str = Field(min_length=1, max_length=128)


class Redeem(Body):
    """The body of a login by an invitation's link."""

    token: str = Field(min_length=1, max_length=128)


class Arrival(Redeem):
    """The body of an arrival by an open link; ``participant`` is the id of another service."""

    participant: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")


def router(site: Site, sessions: Sessions) -> APIRouter:
    """The routes /, /login, /join, /redeem, /logout and, for programs, /api/session."""
    routes = APIRouter()
    locks = Locks(site.ledger.clock)
    logins = Buckets(site.ledger.clock, rate=LOGINS_PER_SECOND, burst=LOGINS_AT_ONCE)
    arrivals = Buckets(site.ledger.clock, rate=ARRIVALS_PER_SECOND, burst=ARRIVALS_AT_ONCE)

    @routes.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse(home_of(identity(request).role), 303)

    @routes.get("/login")
    @routes.get("/join")
    def page(request: Request) -> Response:
        asked = request.url.path.rpartition("/")[2]
        return HTMLResponse(entrance(asked))

    @routes.post("/login")
    async def login(request: Request) -> Response:
        return await _by_code(request)

    @routes.post("/api/session")
    async def begin(request: Request) -> Response:
        return await _by_code(request, cookie=False)

    @routes.post("/redeem")
    async def redeem(request: Request) -> Response:
        given = await read_body(Redeem, request)
        try:  # check read-only first, so that a wrong secret takes no lock and no thread
            await sessions.ask(partial(credentials.find_link, token=given.token))
        except AccessError:
            if found := await _their_own(given.token, request):
                return JSONResponse({"go": home_of(found.role), "name": found.name})
            raise
        return await _let_in(partial(credentials.redeem, site.ledger, given.token), request)

    @routes.post("/join")
    async def join(request: Request) -> Response:
        if wait := arrivals.take(network_of(request)):
            return refuse(429, "too_many", "too many people come at once; wait", retry_after=wait)
        given, who = await read_body(Arrival, request), await sessions.of(request.headers)
        if not given.participant and isinstance(who, Identity) and who.panelist is not None:
            return JSONResponse({"go": home_of(who.role)})  # they have a place
        await sessions.ask(partial(credentials.find_link, token=given.token, kinds=("open",)))
        arrive = partial(credentials.arrive, site.ledger, given.token, given.participant)
        return await _let_in(arrive, request)

    async def _their_own(token: str, request: Request) -> Identity | None:
        """The identity of somebody who opens their own used link again in the same browser."""
        found = await sessions.of(request.headers)
        row = await sessions.ask(partial(credentials.find, secret=token, kinds=("used",)))
        used = None if row is None else row["name"]
        return found if isinstance(found, Identity) and found.name == used else None

    async def _by_code(request: Request, *, cookie: bool = True) -> Response:
        given = await read_body(Login, request)
        key = f"{given.name.strip().casefold()} {network_of(request)}"
        if left := locks.take(key):
            return refuse(
                429,
                "locked",
                f"too many wrong codes; try again in {left:.0f} seconds",
                retry_after=left,
            )
        find = partial(credentials.find_code, name=given.name, code=given.code)
        name = (await sessions.ask(find))["name"]
        locks.right(key)
        if wait := logins.take(name):
            return refuse(429, "too_many", "too many logins; slow down", retry_after=wait)
        ask = partial(credentials.login, site.ledger, given.name, given.code)
        return await _let_in(ask, request, cookie=cookie)

    async def _let_in(
        ask: Callable[[], tuple[str, Identity]], request: Request, *, cookie: bool = True
    ) -> Response:
        secret, found = await site.writer.do(ask)
        if not cookie:
            return JSONResponse({"token": secret, "name": found.name, "role": found.role})
        if old := _token(request.headers, sessions.cookie):  # the new session replaces the old one
            await site.writer.do(partial(credentials.logout, site.ledger, old))
        answer = JSONResponse({"go": home_of(found.role), "name": found.name})
        answer.set_cookie(
            sessions.cookie, secret, path="/", secure=site.secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return answer

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        if token := _token(request.headers, sessions.cookie):
            await site.writer.do(partial(credentials.logout, site.ledger, token))
        answer = JSONResponse({"go": "/login"})
        answer.delete_cookie(
            sessions.cookie, path="/", secure=site.secure, httponly=True, samesite="strict"
        )  # fmt: skip
        return answer

    return routes


async def answer_refusal(_: Request, error: Any) -> Response:
    """A refusal of access as JSON."""
    return refuse(STATUS.get(error.code, 401), error.code, str(error))


def _token(headers: Headers, cookie: str) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.casefold() == "bearer":
        return value.strip() or None
    return cookie_parser(headers.get("cookie", "")).get(cookie)


def network_of(request: Request) -> str:
    """The network of a request's sender, kept only in memory for locks and rate limits."""
    return network(request.client.host if request.client else "")
