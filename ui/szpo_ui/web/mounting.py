"""Mount a Gradio page on the application with everything that leaks switched off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib import resources

import gradio as gr
from fastapi import FastAPI
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount

from szpo_ui.web.security import NeededRoutesOnly

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
"""Local ones: nothing is fetched from elsewhere."""
STATIC = resources.files("szpo_ui") / "static"


def mount(
    app: FastAPI,
    blocks: gr.Blocks,
    path: str,
    *,
    head: str = "",
    blocked: Sequence[str] = (),
) -> None:
    """Mount a Gradio page with everything that leaks switched off.

    Style comes with ``head``, for Gradio would prefix each selector of its own ``css``.
    ``blocked`` are folders whose files it never serves.
    """
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


def call_in_loop(act: Callable[[], None]) -> None:
    """Call ``act`` while an event loop runs; Gradio would open one per lock and not close it."""

    async def call() -> None:
        act()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(call())
    else:
        act()


def icon() -> Response:
    """Redirect to the site's icon."""
    return RedirectResponse("/static/icon.svg", 308)
