"""The web application: one FastAPI application with the login, the API and two Gradio mounts."""

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

from szpo.errors import SzpoError
from szpo_ui import prolific
from szpo_ui.operator import posterior_page, votes_page
from szpo_ui.operator import visualize as mounts
from szpo_ui.web import api, login
from szpo_ui.web.credential_rows import Role
from szpo_ui.web.credentials import AccessError
from szpo_ui.web.mounting import bare, call_in_loop, mount
from szpo_ui.web.requests import refuse
from szpo_ui.web.security import AccessControl, Admission
from szpo_ui.web.site import HOME_PATHS, POSTERIOR, Site

LOCAL = ("127.0.0.1", "localhost")
PAGES: dict[Role, str] = {
    "panelist": "szpo_ui.panel.component",
    "operator": "szpo_ui.operator.page",
}
"""The module of each role's page: it has blocks(site)."""

_log = logging.getLogger("szpo_ui")


def create(
    site: Site,
    hosts: Sequence[str] = LOCAL,
    *,
    admission: Admission | None = None,
    pages: Sequence[Role] = tuple(PAGES),
) -> FastAPI:
    """Make the application over one run; it opens no port and starts no process.

    ``hosts`` are the Host headers that are answered; ``admission`` is what a server of several
    runs shares between them; ``pages`` are the roles whose Gradio page is mounted, none where only
    the JSON API is wanted.
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

    app = without_pages(lifespan=lifespan)
    app.add_exception_handler(SzpoError, _answer_error)
    app.router.routes[:0] = api.routes(site)  # first, since they get most requests
    app.include_router(login.router(site, sessions))
    app.include_router(prolific.router(site))
    call_in_loop(partial(_mount_all, app, site, pages))
    app.add_middleware(CORSMiddleware, allow_origins=[])  # else Gradio echoes any origin
    app.add_middleware(AccessControl, site=site, sessions=sessions, admission=admission)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return app


def without_pages(**more: Any) -> FastAPI:
    """What a run's application and a folder's have in common: files and answers to errors."""
    made = bare(**more)
    made.add_exception_handler(HTTPException, answer_http_error)
    made.add_exception_handler(AccessError, login.answer_refusal)
    made.add_exception_handler(Exception, answer_failure)
    made.add_api_route("/healthz", healthz)
    return made


def _mount_all(app: FastAPI, site: Site, roles: Sequence[Role]) -> None:
    """Mount the Gradio page of each role, and for operators what belongs to it."""
    run = str(site.ledger.path.absolute().parent)
    for role in roles:
        page = import_module(PAGES[role])
        if role == "operator":  # before the mount, which takes every path below its own
            app.include_router(votes_page.router(site))
            app.include_router(page.router(site))
        mount(app, page.blocks(site), HOME_PATHS[role], blocked=[run])
        if role == "operator":
            blocks, routes = mounts.of_site(site)
            app.include_router(routes)
            mount(app, blocks, POSTERIOR, head=posterior_page.page_head(), blocked=[run])


async def healthz() -> dict[str, bool]:
    """Answer that the server lives."""
    return {"ok": True}  # on the loop itself: it waits for no thread that may wait for the file


async def _answer_error(_: Request, error: Any) -> JSONResponse:
    """A vote that cannot be taken, as JSON; on the loop itself, as every refusal here."""
    return api.answer_error(error)


_CODES = {401: "login", 403: "forbidden", 404: "not_found", 405: "method", 422: "invalid"}


async def answer_http_error(_: Request, error: Any) -> JSONResponse:
    """A refusal of a handler as JSON."""
    return refuse(error.status_code, _CODES.get(error.status_code, "refused"), str(error.detail))


def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer 500 with an id for the person; the traceback goes to the log only."""
    number = secrets.token_hex(4)
    _log.error("error %s at %s", number, request.url.path, exc_info=error)
    return refuse(500, "failed", f"something went wrong; tell the operator the number {number}")
