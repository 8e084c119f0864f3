"""Who is asking: sessions, the login page, invitations, the lock after wrong codes.

A session is a random secret in a cookie of this host (or, for programs, behind ``Authorization:
Bearer``); the ledger keeps only its hash. Each request is checked there anew, so that a revoked
session ends at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from szpo import credentials
from szpo.credentials import AccessError, Identity, Role
from szpo.records import sha256
from szpo_ui.rate import Locks
from szpo_ui.requests import read, refuse
from szpo_ui.site import Site

PLACES: dict[Role, str] = {"panelist": "/panel", "operator": "/operate"}
"""Where each role works."""
_LOGIN = resources.files("szpo_ui") / "static" / "login.html"


def cookie_name(secure: bool) -> str:
    """The session cookie's name; ``__Host-`` binds it to the host and needs TLS.

    >>> cookie_name(True), cookie_name(False)
    ('__Host-szpo', 'szpo')
    """
    return "__Host-szpo" if secure else "szpo"


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

    Takes a Starlette request or a ``gr.Request`` (None, as Gradio hands to direct calls, is
    nobody). ``identity.panelist`` is the id by which the vote service knows a panelist.

    Raises:
        HTTPException: 401 without a session, or with one of another role.
    """
    headers = None if request is None else Headers(dict(request.headers.items()))
    found = None if headers is None else session(site, headers)
    if found is None:
        raise HTTPException(401, "please log in")
    if role is not None and found.role != role:
        raise HTTPException(401, "this page is not yours")
    return found


def name_for(site: Site, role: Role) -> Any:
    """An ``auth_dependency`` of Gradio: the name of who may see this mount, else None."""

    def dependency(request: Request) -> str | None:
        found = session(site, request.headers)
        return found.name if found is not None and found.role == role else None

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
