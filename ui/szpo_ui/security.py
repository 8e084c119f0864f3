"""Access control of every request: session, role, rate.

Of Gradio's own routes, only the few that the pages use are open; routes that a later version of
Gradio adds stay closed. Handlers check the role again (see `szpo_ui.login.identity`).

Also makes applications, and mounts Gradio pages with all features off that could leak data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from szpo_ui import login
from szpo_ui.credentials import Fault, Role
from szpo_ui.markup import STATIC
from szpo_ui.request_rules import (
    READS,
    VOTES,
    Buckets,
    RefusedError,
    refuse,
    replay_body,
)
from szpo_ui.site import HOME_PATHS, POSTERIOR, Site

POSTS_PER_SECOND, POSTS_AT_ONCE = 20.0, 60
"""Rate limit of one person's requests that change something."""
READS_PER_SECOND, READS_AT_ONCE = 100.0, 1000
"""Rate limit of one person's other requests; a Gradio page fetches some hundred files."""
WAITING_THREADS = 32
"""Most requests at once that may wait for the run's file in one of Starlette's 40 threads. The
other threads serve pages and scripts, however long a commit takes."""
FURTHER_PAGES = frozenset({POSTERIOR, VOTES})
"""The operator's pages beside the first, which redirect to the login if there is no session."""
OPEN_PATHS = frozenset({"/login", "/join", "/redeem", "/api/session", "/healthz", "/favicon.ico"})
"""Paths that need no session; paths under /static/ need none either."""

_GRADIO = frozenset({
    "", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/startup-events",
    "/gradio_api/app_id", "/gradio_api/theme.css",
})  # fmt: skip
"""The routes of a Gradio mount, without a final slash, that its page needs besides calls and
`_ASSETS`: no files, state, queue or streams."""
_ASSETS = ("/assets/", "/static/", "/svelte/")
_FUNCTION = "/gradio_api/component_server"
"""The route by which a page calls a component's server function."""

_WHY = {
    "login": "please log in",
    "expired": "this session has expired; please log in again",
    "revoked": "this access was revoked; ask for a new invitation",
}
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
"""Local fonts, so nothing is fetched from elsewhere."""
LOCAL = ("127.0.0.1", "localhost")
"""Host headers that a page on this machine answers."""


class AccessControl:
    """ASGI middleware around the whole application, within `OwnSiteOnly`."""

    def __init__(self, app: ASGIApp, site: Site, sessions: login.Sessions):
        self.app = app
        self.threads = asyncio.Semaphore(WAITING_THREADS)
        self.sessions = sessions
        self.posts = Buckets(site.ledger.clock, rate=POSTS_PER_SECOND, burst=POSTS_AT_ONCE)
        self.reads = Buckets(site.ledger.clock, rate=READS_PER_SECOND, burst=READS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on; the body has arrived, and the session may have ended."""
        refusal, slow = None, False
        if scope["type"] == "http":
            refusal = await self._find_refusal(scope, scope["path"])
            slow = _may_wait_in_a_thread(scope["path"], changes=scope["method"] not in READS)
        if refusal is None and slow:
            async with self.threads:
                await self.app(scope, receive, send)
        else:
            await (refusal or self.app)(scope, receive, send)

    async def _find_refusal(self, scope: Scope, path: str) -> Response | None:
        """The refusal of a request, or None; stores the sender's identity in the scope."""
        if path in OPEN_PATHS or path.startswith("/static/"):
            return None
        role, found = role_of(path), await self.sessions.of(Headers(scope=scope))
        if isinstance(found, str):
            return _to_login(scope, path, found)
        if role is not None and found.role != role:
            if _is_page(path):
                return RedirectResponse(login.home_of(found.role), 303)
            return refuse(401, "role", login.meant_for(role))
        scope[login.SCOPE] = found
        if wait := (self.reads if scope["method"] in READS else self.posts).take(found.name):
            return refuse(429, "too_many", "too many requests; slow down", retry_after=wait)
        return None


def _to_login(scope: Scope, path: str, why: Fault) -> Response:
    """Redirect pages to the login, which says why; refuse others: 403 if revoked, else 401."""
    if scope["method"] in ("GET", "HEAD") and _is_page(path):
        sent = scope.get("query_string", b"").decode("latin-1")
        if path in FURTHER_PAGES and sent:  # keep the place and choices
            path += f"?{sent}"
        query = [f"next={quote(path)}"] * (path != "/") + ["why=revoked"] * (why == "revoked")
        return RedirectResponse("/login" + "?" * bool(query) + "&".join(query), 303)
    return refuse(403 if why == "revoked" else 401, why, _WHY[why])


def _is_page(path: str) -> bool:
    return path.rstrip("/") in {"", *HOME_PATHS.values(), *FURTHER_PAGES}


def _may_wait_in_a_thread(path: str, *, changes: bool) -> bool:
    """Whether the handler may wait for the run's file in a thread: panelists' changes do not."""
    if changes:
        return path.startswith("/operate")
    return path in ("/api/status", VOTES) or "-api/" in path


class NeededRoutesOnly:
    """A Gradio mount reduced to the routes and calls that its page needs.

    Gradio would answer a malformed call with an error and log a traceback; here such a call is
    refused before.
    """

    def __init__(self, app: ASGIApp, functions: Mapping[str, int]):
        """``functions`` are the page's functions by name, each with its component's number.

        The number is set here, since a page loaded before a restart may have an old one.
        """
        self.app = app
        self.functions = functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the needed routes; answer 404 to others, and 422 to unknown calls."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = path.removesuffix("/")
        calls = route == _FUNCTION
        if scope["type"] == "http" and not (
            calls or route in _GRADIO or (path.startswith(_ASSETS) and ".." not in path)
        ):
            await refuse(404, "not_found", "there is nothing here")(scope, receive, send)
            return
        if calls and scope["method"] == "POST":
            call = self._read(
                (await receive()).get("body", b"")
            )  # whole, as `AccessControl` left it
            if call is None:
                await refuse(422, "call", "this page has no such call")(scope, receive, send)
                return
            receive = replay_body(call, receive)
        await self.app(scope, receive, send)

    def _read(self, body: bytes) -> bytes | None:
        """The call to pass to Gradio; None if the page has no such call."""
        # All calls name the same session: Gradio keeps the last data of up to 10,000
        # sessions, and rebuilds every component's settings for a call without one.
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return None
        name = call.get("fn_name") if isinstance(call, dict) else None
        component = self.functions.get(name) if isinstance(name, str) else None
        if component is None:
            return None
        named = {"component_id": component, "fn_name": name}
        return json.dumps({**named, "data": call.get("data"), "session_hash": "all"}).encode()


def role_of(path: str) -> Role | None:
    """The role that a path needs; None: any role with a session.

    >>> role_of("/operate/export"), role_of("/panel-api/status"), role_of("/logout")
    ('operator', 'panelist', None)
    """
    if path.startswith("/operate"):
        return "operator"
    if path.startswith(("/panel", "/api/")):
        return "panelist"
    return None


def bare_app(**more: Any) -> FastAPI:
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
