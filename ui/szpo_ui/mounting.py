"""Makes an application, and mounts Gradio pages with all features off that could leak data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount

from szpo_ui.markup import STATIC
from szpo_ui.requests import RefusedError
from szpo_ui.security import NeededRoutesOnly, SameSiteOnly

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
"""Local fonts, so nothing is fetched from elsewhere."""
LOCAL = ("127.0.0.1", "localhost")
"""Host headers that a page on this machine answers."""


def bare(**more: Any) -> FastAPI:
    """An application with the static files, the icon, and responses to a `RefusedError`."""
    made = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, **more)
    made.add_exception_handler(RefusedError, _answer_refused)
    made.mount("/static", StaticFiles(directory=str(STATIC)), name="static")
    made.add_api_route("/favicon.ico", _icon)
    return made


def mount(
    app: FastAPI,
    blocks: gr.Blocks,
    path: str,
    *,
    head: str = "",
    blocked: Sequence[str] = (),
) -> None:
    """Mount a Gradio page with all features off that could leak data.

    Styles belong in ``head``, since Gradio would prefix each selector in its ``css`` argument.
    Files in the folders ``blocked`` are never served.
    """
    blocks._queue.sleep_when_free = 1.0  # a page uses no queue, and looked each millisecond
    gr.mount_gradio_app(
        app,
        blocks,
        path,
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=list(blocked),
        show_error=False,
        max_file_size="1kb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        head=head,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    functions = {
        function.__name__: number
        for number, block in blocks.blocks.items()
        for function in getattr(block, "server_fns", ())
    }
    mounted.app = NeededRoutesOnly(mounted.app, functions)


def local(blocks: Callable[[], gr.Blocks], routes: APIRouter, path: str, head: str) -> FastAPI:
    """An application with only this page, without a login, for browsers on this machine."""
    made = bare()
    made.include_router(routes)
    call_in_loop(lambda: mount(made, blocks(), path, head=head))
    made.add_middleware(SameSiteOnly)
    made.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL, www_redirect=False)
    return made


def call_in_loop(act: Callable[[], None]) -> None:
    """Call ``act`` inside an event loop; else Gradio opens one per lock and never closes it."""

    async def call() -> None:
        act()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(call())
    else:
        act()


def _icon() -> Response:
    return RedirectResponse("/static/icon.svg", 308)


async def _answer_refused(_: Request, error: Any) -> Response:
    answer: Response = error.answer
    return answer
