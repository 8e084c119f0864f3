"""The web application: one FastAPI with the login, the API and two Gradio mounts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib import resources, util
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from szpo.credentials import Role

from szpo_ui import access
from szpo_ui.site import Site

STATIC = resources.files("szpo_ui") / "static"


def create(site: Site) -> FastAPI:
    """The application over one run; it opens no port and starts no process."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # else Gradio echoes any origin
    app.mount("/static", StaticFiles(directory=str(STATIC)), name="static")

    @app.get("/healthz")
    def healthz() -> dict[str, bool]:
        return {"ok": True}

    def mount() -> None:
        _mount(app, site, "panelist", "panel")
        _mount(app, site, "operator", "operate")

    _inside_a_loop(mount)
    return app


def _inside_a_loop(act: Callable[[], None]) -> None:
    """Call it where an event loop runs: Gradio makes one for each lock otherwise, unclosed."""

    async def call() -> None:
        act()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(call())
    else:
        act()


def _mount(app: FastAPI, site: Site, role: Role, module: str) -> None:
    """Mount a role's Gradio page behind its own check, with everything that leaks switched off."""
    page = _page(module)
    if page is not None:
        app.include_router(page.router(site))
    gr.mount_gradio_app(
        app,
        _placeholder() if page is None else page.blocks(site),
        access.PLACES[role],
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        auth_dependency=access.name_for(site, role),
        allowed_paths=[],
        blocked_paths=[str(site.ledger.path.absolute().parent)],
        show_error=False,
        max_file_size="1kb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        css=None if page is None else page.css(),
        head=None if page is None else page.head(),
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )


def _page(module: str) -> Any:
    if util.find_spec(f"szpo_ui.{module}") is None:
        return None
    return __import__(f"szpo_ui.{module}", fromlist=[module])


def _placeholder() -> gr.Blocks:
    with gr.Blocks(title="szpo", analytics_enabled=False) as blocks:
        gr.Markdown("Not there yet.")
    return blocks
