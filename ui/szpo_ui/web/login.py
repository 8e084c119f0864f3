"""Who is asking: sessions, the login page, invitations, the lock after wrong codes.

A session is a random secret in a cookie of this host (or, for programs, behind ``Authorization:
Bearer``); the ledger keeps only its hash. Each request is checked there anew, so that a revoked
session ends at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any, Final, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger
from szpo_ui.web import credentials
from szpo_ui.web.credentials import AccessError, Identity, Role
from szpo_ui.web.rate import KEPT, Locks
from szpo_ui.web.requests import read, refuse
from szpo_ui.web.site import Site

PLACES: dict[Role, str] = {"panelist": "/panel", "operator": "/operate"}
"""Where each role works."""
POSTERIOR = "/operate-visualize"
"""The operator's page of what votes say about two features."""
SCOPE = "szpo.identity"
"""Where the door leaves its finding for the handlers of the same request."""
_LOGIN = resources.files("szpo_ui") / "static" / "login.html"


def cookie_name(secure: bool) -> str:
    """The session cookie's name; ``__Host-`` binds it to the host and needs TLS.

    >>> cookie_name(True), cookie_name(False)
    ('__Host-szpo', 'szpo')
    """
    return "__Host-szpo" if secure else "szpo"


class Sessions:
    """Who sends a request, asked of the file each time, over a connection that nobody writes on.

    A look through the connection that takes votes would wait for their commits, and everybody
    else behind it. Once a minute a session's use is written down, by a thread that may wait.
    """

    def __init__(self, site: Site):
        self.site: Final = site
        self._reader: Final = Ledger.open(site.ledger.path, readonly=True, clock=site.clock)
        self._used: dict[str, int] = {}

    async def of(self, headers: Headers) -> Identity | None:
        """The identity behind a request's session; None without a good one."""
        token = _token(self.site, headers)
        if not token:
            return None
        key, now = sha256(token), self.site.clock()
        if now - self._used.get(key, 0) < credentials.SLIDE_US:
            return credentials.identify(self._reader, token)
        found = await run_in_threadpool(credentials.identify, self.site.ledger, token)
        if found is not None:
            if len(self._used) > KEPT:
                self._used.clear()
            self._used[key] = now
        return found

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()


def session(site: Site, headers: Headers) -> Identity | None:
    """Whose session a request carries, asked of the ledger; None without a good one."""
    token = _token(site, headers)
    return credentials.identify(site.ledger, token) if token else None


def fault(site: Site, headers: Headers) -> Literal["login", "expired", "revoked"]:
    """Why a request without a good session is refused."""
    found = site.ledger.query(
        "SELECT credential, revoked_us FROM credentials WHERE secret_sha256 = ?",
        (sha256(_token(site, headers) or ""),),
    )
    if not found:
        return "login"
    if found[0]["revoked_us"] is None:
        return "expired"
    name = found[0]["credential"].split(":")[1]
    states = {each.name: each.state for each in credentials.listed(site.ledger)}
    return "revoked" if states.get(name) == "revoked" else "login"


def identity(site: Site, request: Any, role: Role | None = None) -> Identity:
    """Whose request this is; handlers ask although the door has asked before.

    What the door found for this very request holds; without a door the ledger is asked.
    Takes a Starlette request or a ``gr.Request`` (None, as Gradio hands to direct calls, is
    nobody). ``identity.panelist`` is the id by which the vote service knows a panelist.

    Raises:
        HTTPException: 401 without a session, or with one of another role.
    """
    found: Identity | None = None
    if request is not None:
        scope = getattr(request, "scope", None) or {}
        found = scope.get(SCOPE) or session(site, Headers(dict(request.headers.items())))
    if found is None:
        raise HTTPException(401, "please log in")
    if role is not None and found.role != role:
        raise HTTPException(401, "this page is not yours")
    return found


def name_for(site: Site, role: Role) -> Any:
    """An ``auth_dependency`` of Gradio: the name of who may see this mount, else None."""

    def dependency(request: Request) -> str | None:
        try:
            return identity(site, request, role).name
        except HTTPException:
            return None

    return dependency


class Login(BaseModel):
    """What the login form sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=64)
    code: str = Field(min_length=1, max_length=128)


class Redeem(BaseModel):
    """What the page sends for an invitation's link."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str = Field(min_length=1, max_length=128)


def router(site: Site) -> APIRouter:
    """GET /, GET and POST /login, POST /redeem, /logout and, for programs, /api/session."""
    routes = APIRouter()
    locks = Locks(site.clock)

    @routes.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse(PLACES[identity(site, request).role] + "/", 303)

    @routes.get("/login")
    def page() -> Response:
        return FileResponse(str(_LOGIN), media_type="text/html; charset=utf-8")

    @routes.post("/login")
    async def login(request: Request) -> Response:
        given = await read(Login, request)
        if isinstance(given, Response):
            return given
        return await _by_code(given, request)

    @routes.post("/api/session")
    async def begin(request: Request) -> Response:
        given = await read(Login, request)
        if isinstance(given, Response):
            return given
        return await _by_code(given, request, cookie=False)

    @routes.post("/redeem")
    async def redeem(request: Request) -> Response:
        given = await read(Redeem, request)
        if isinstance(given, Response):
            return given
        return await _let_in(
            partial(credentials.redeem, site.ledger, given.token), (_address(request),), request
        )

    async def _by_code(given: Login, request: Request, *, cookie: bool = True) -> Response:
        keys = (f"name {given.name.strip().casefold()}", _address(request))
        ask = partial(credentials.login, site.ledger, given.name, given.code)
        return await _let_in(ask, keys, request, cookie=cookie)

    async def _let_in(
        ask: Callable[[], tuple[str, Identity]],
        keys: tuple[str, ...],
        request: Request,
        *,
        cookie: bool = True,
    ) -> Response:
        if left := locks.left(*keys):
            return refuse(
                429,
                "locked",
                f"too many wrong codes; try again in {left:.0f} seconds",
                retry_after=left,
            )
        try:
            secret, found = await run_in_threadpool(ask)
        except AccessError as error:
            locks.wrong(*keys)
            return refuse(403 if error.code == "revoked" else 401, error.code, str(error))
        locks.right(*keys)
        if not cookie:
            return JSONResponse({"token": secret, "name": found.name, "role": found.role})
        if old := _token(site, request.headers):  # a fresh session, never a second one
            await run_in_threadpool(credentials.logout, site.ledger, old)
        answer = JSONResponse({"go": PLACES[found.role] + "/", "name": found.name})
        answer.set_cookie(
            cookie_name(site.secure), secret, path="/", secure=site.secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return answer

    @routes.post("/logout")
    def logout(request: Request) -> Response:
        if token := _token(site, request.headers):
            credentials.logout(site.ledger, token)
        answer = JSONResponse({"go": "/login"})
        answer.delete_cookie(
            cookie_name(site.secure), path="/", secure=site.secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return answer

    return routes


def _token(site: Site, headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.casefold() == "bearer":
        return value.strip() or None
    return cookie_parser(headers.get("cookie", "")).get(cookie_name(site.secure))


def _address(request: Request) -> str:
    """Where a request comes from: kept in memory for the lock, never stored."""
    return f"address {request.client.host if request.client else ''}"
