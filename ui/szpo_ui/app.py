"""The web application of a run: one FastAPI application with login, API and Gradio pages."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any

from fastapi import FastAPI, HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from szpo.errors import SzpoError
from szpo_ui import api, login
from szpo_ui import visualize as mounts
from szpo_ui.credentials import AccessError, Role
from szpo_ui.request_rules import (
    OwnSiteOnly,
    refuse,
)
from szpo_ui.security import LOCAL, AccessControl, bare_app, call_in_loop, mount
from szpo_ui.site import HOME_PATHS, POSTERIOR, Site

PAGES: dict[Role, str] = {
    "panelist": "szpo_ui.component",
    "operator": "szpo_ui.operator_page",
}
"""The module of each role's page, which has a function ``blocks(site)``."""
_log = logging.getLogger("szpo_ui")
_CODES = {401: "login", 403: "forbidden", 404: "not_found", 405: "method", 422: "invalid"}


def create(
    site: Site,
    hosts: Sequence[str] = LOCAL,
    *,
    url: str = "",
    pages: Sequence[Role] = tuple(PAGES),
) -> FastAPI:
    """Make the application of one run; this opens no port and starts no process.

    ``hosts`` are the Host headers to answer, ``url`` is the site's address behind a proxy.
    ``pages`` are the roles whose Gradio pages are mounted; with none, only API and login remain.
    """
    sessions = login.Sessions(site)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        site.writer.start()
        try:
            yield
        finally:
            await asyncio.to_thread(site.writer.close)
            await asyncio.to_thread(sessions.close)

    app = bare_app(lifespan=lifespan)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(AccessError, login.answer_refusal)
    app.add_exception_handler(Exception, answer_failure)
    app.add_api_route("/healthz", healthz)
    app.add_exception_handler(SzpoError, _answer_error)
    app.router.routes[:0] = api.routes(site)  # first, since they get most requests
    app.include_router(login.router(site, sessions))
    call_in_loop(partial(_mount_all, app, site, pages))
    app.add_middleware(CORSMiddleware, allow_origins=[])  # without this, Gradio allows any origin
    app.add_middleware(AccessControl, site=site, sessions=sessions)
    app.add_middleware(OwnSiteOnly, url=url, secure=site.secure)
    app.add_middleware(KnownHosts, allowed_hosts=list(hosts), www_redirect=False)
    return app


def _mount_all(app: FastAPI, site: Site, roles: Sequence[Role]) -> None:
    """Mount the Gradio page of each role, and the operators' further pages."""
    run = str(site.ledger.path.absolute().parent)
    for role in roles:
        page = import_module(PAGES[role])
        if role == "operator":  # before the mount, which takes all paths below its own
            app.include_router(page.router(site))
        mount(app, page.blocks(site), HOME_PATHS[role], blocked=[run])
        if role == "operator":
            blocks, routes = mounts.of_site(site)
            app.include_router(routes)
            mount(app, blocks, POSTERIOR, head=mounts.page_head(), blocked=[run])


class KnownHosts(TrustedHostMiddleware):
    """Refuses other hosts' names, but for a probe, which asks by the address of its container."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        probed = scope["type"] == "http" and scope["path"] == "/healthz"
        await (self.app if probed else super().__call__)(scope, receive, send)


async def healthz() -> dict[str, bool]:
    """Answer that the server is running."""
    return {"ok": True}  # async, so it needs no thread, which may be waiting for the file


async def _answer_error(_: Request, error: Any) -> JSONResponse:
    """Answer a request that failed with an error of szpo; async, so it needs no thread."""
    return api.answer_error(error)


async def answer_http_error(_: Request, error: Any) -> JSONResponse:
    """Answer a handler's refusal as JSON."""
    return refuse(error.status_code, _CODES.get(error.status_code, "refused"), str(error.detail))


def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer 500 with an error number for the person; only the log gets the traceback."""
    number = secrets.token_hex(4)
    _log.error("error %s at %s", number, request.url.path, exc_info=error)
    return refuse(500, "failed", f"something went wrong; tell the operator the number {number}")
