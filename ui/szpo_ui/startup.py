"""The page of the first seconds: what visitors see until a run's own pages are there.

Loading Gradio takes seconds, setting a new run up takes minutes. From the start of ``szpo serve``
on this application answers at its address: it shows how far the set-up is, and goes on to the
run's own pages by itself. It loads neither Gradio nor anything of a run.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import uvicorn

from szpo.notices import setup_progress
from szpo_ui.headers import COMMON, OWN_POLICY
from szpo_ui.languages.texts import choose_language
from szpo_ui.web.address import SiteAddress
from szpo_ui.web.markup import entrance
from szpo_ui.web.server import configure

FILES: Final = {
    "/static/setup.js": "text/javascript",
    "/static/entrance.js": "text/javascript",
    "/static/setup.css": "text/css",
    "/static/login.css": "text/css",
    "/static/icon.svg": "image/svg+xml",
}
"""The files of the page, by kind."""
PANELISTS: Final = ("/login", "/panel", "/join")
"""Beginnings of the paths on which panelists come: they see no stages."""
_BUSY: Final = "this run is being set up; try again in a moment"


class Startup:
    """The application of the first seconds; ``run`` is the file that is waited for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """``names`` are the Host headers that are answered."""
        self.names: Final = names
        self.run: Path | None = None
        self._began: Final = time.monotonic()
        self._folder: Final = resources.files("szpo_ui") / "static"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        status, kind, body = self._answer(scope)
        headers = {
            **COMMON, "Content-Security-Policy": OWN_POLICY, "Cache-Control": "no-store",
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)),
            **({"Retry-After": "2"} if status == 503 else {}),
        }  # fmt: skip
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})

    def _answer(self, scope: Any) -> tuple[int, str, bytes]:
        """Status, kind and body for a request."""
        path: str = scope["path"]
        asked = _header(scope, b"host")
        if asked.rsplit(":", 1)[0].strip("[]") not in self.names:
            return 400, "text/plain", b"Invalid host header"
        if path in FILES:
            return 200, FILES[path], (self._folder / path.removeprefix("/static/")).read_bytes()
        if path == "/setup-status":
            return 200, "application/json", json.dumps(self._status()).encode()
        if scope["method"] not in ("GET", "HEAD") or path == "/healthz" or "api/" in path:
            refusal = {"error": "setup", "message": _BUSY}
            return 503, "application/json", json.dumps(refusal).encode()
        if not path.startswith(PANELISTS):
            return 200, "text/html", entrance("setup", translated=False).encode()
        language = choose_language("", _header(scope, b"accept-language"))
        return 200, "text/html", entrance("setup", language.code).encode()

    def _status(self) -> dict[str, Any]:
        """What the page's script asks for, again and again."""
        stages = None if self.run is None else setup_progress.read(self.run)
        return {
            "setup": True,
            "run": None if self.run is None else self.run.stem,
            "seconds": round(time.monotonic() - self._began),
            "stages": [[each.name, each.done, each.of] for each in stages or ()],
        }


def _header(scope: Any, name: bytes) -> str:
    """A header of a request; empty where it has none."""
    return next((v.decode("latin-1") for k, v in scope["headers"] if k == name), "")


@contextmanager
def answering(listener: socket.socket, address: SiteAddress) -> Iterator[Startup]:
    """Answer at ``listener`` from a thread until the block ends; whoever comes then waits."""
    page = Startup(address.names)
    server = uvicorn.Server(configure(page))
    own = listener.dup()  # uvicorn closes what it has listened on
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [own]}, name="szpo-startup", daemon=True
    )
    thread.start()
    try:
        yield page
    finally:
        server.should_exit = True
        thread.join()
        own.close()
