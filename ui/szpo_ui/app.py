"""The web application: one FastAPI with the login, the API and two Gradio mounts."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module, resources
from typing import Any

# Read when gradio is imported: no word leaves this machine, no run is kept in a browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount

from szpo.credentials import Role
from szpo.errors import SzpoError
from szpo_ui import access, api, visualize, visualized
from szpo_ui.requests import refuse
from szpo_ui.security import Door, OnlyNeeded
from szpo_ui.site import Site
from szpo_ui.writer import Writer

STATIC = resources.files("szpo_ui") / "static"
LOCAL = ("127.0.0.1", "localhost")
PAGES: dict[Role, str] = {"panelist": "szpo_ui.panel", "operator": "szpo_ui.operate"}
"""The module of each role's page: it has blocks(site), router(site) and head()."""

_log = logging.getLogger("szpo_ui")


def create(
    site: Site,
    hosts: Sequence[str] = LOCAL,
    *,
    url: str = "",
    pages: Sequence[Role] = tuple(PAGES),
) -> FastAPI:
    """The application over one run; it opens no port and starts no process.

    ``hosts`` are the Host headers that are answered; ``url`` is where a proxy in front shows the
    site, if there is one; ``pages`` are the roles whose Gradio page is
    mounted, none where only the JSON API is wanted.
    """
    writer, sessions = Writer(site.service), access.Sessions(site)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writer.start()
        try:
            yield
        finally:
            await asyncio.to_thread(writer.close)
            sessions.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(SzpoError, _own_error)
    app.add_exception_handler(Exception, _failure)
    app.router.routes.extend(api.routes(site, writer))  # first, since they are asked most
    app.mount("/static", StaticFiles(directory=str(STATIC)), name="static")
    app.add_api_route("/healthz", _healthz)
    app.add_api_route("/favicon.ico", icon)
    app.include_router(access.router(site))
    inside_a_loop(partial(_mount_all, app, site, pages))
    app.add_middleware(CORSMiddleware, allow_origins=[])  # else Gradio echoes any origin
    app.add_middleware(Door, site=site, sessions=sessions, url=url)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return app


def _mount_all(app: FastAPI, site: Site, roles: Sequence[Role]) -> None:
    for role in roles:
        _mount(app, site, role)


def _mount(app: FastAPI, site: Site, role: Role) -> None:
    """Mount a role's Gradio page, and for operators the posterior's, behind its own check."""
    page = import_module(PAGES[role])
    app.include_router(page.router(site))
    run = str(site.ledger.path.absolute().parent)
    allow = access.name_for(site, role)
    mount(
        app, page.blocks(site), access.PLACES[role], head=page.head(), allow=allow, blocked=[run]
    )
    if role == "operator":
        made = visualized.of_site(site)
        app.include_router(made.router)
        mount(app, made.blocks, made.place, head=visualize.head(), allow=allow, blocked=[run])


def mount(
    app: FastAPI,
    blocks: gr.Blocks,
    place: str,
    *,
    head: str,
    allow: Callable[[Request], str | None] | None = None,
    blocked: Sequence[str] = (),
) -> None:
    """Mount a Gradio page with everything that leaks switched off.

    Style comes with ``head``, for Gradio would prefix each selector of its own ``css``. ``allow``
    gives the name of who may see the page; ``blocked`` are folders whose files it never serves.
    """
    gr.mount_gradio_app(
        app,
        blocks,
        place,
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        auth_dependency=allow,
        allowed_paths=[],
        blocked_paths=list(blocked),
        show_error=False,
        max_file_size="1kb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        head=head,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = OnlyNeeded(mounted.app)


def _theme() -> gr.Theme:
    """Local fonts, and a primary button that can be read in light and dark."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="#1f4e79",
        button_primary_background_fill_hover="#173b5c",
        button_primary_background_fill_dark="#9cc7f0",
        button_primary_background_fill_hover_dark="#bfdcf7",
        button_primary_text_color="#ffffff",
        button_primary_text_color_hover="#ffffff",
        button_primary_text_color_dark="#10202f",
        button_primary_text_color_hover_dark="#10202f",
    )


def inside_a_loop(act: Callable[[], None]) -> None:
    """Call it where an event loop runs: Gradio makes one for each lock otherwise, unclosed."""

    async def call() -> None:
        act()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(call())
    else:
        act()


def _healthz() -> dict[str, bool]:
    return {"ok": True}


def icon() -> Response:
    """Where browsers find the site's icon."""
    return RedirectResponse("/static/icon.svg", 308)


_CODES = {401: "login", 403: "forbidden", 404: "not_found", 405: "method", 422: "invalid"}


def _http_error(_: Request, error: Any) -> JSONResponse:
    return refuse(error.status_code, _CODES.get(error.status_code, "refused"), str(error.detail))


def _own_error(_: Request, error: Any) -> JSONResponse:
    return api.refused(error)


def _failure(request: Request, error: Exception) -> JSONResponse:
    """An id for the person, the traceback for the log only."""
    number = secrets.token_hex(4)
    _log.error("error %s at %s", number, request.url.path, exc_info=error)
    return refuse(500, "failed", f"something went wrong; tell the operator the number {number}")
