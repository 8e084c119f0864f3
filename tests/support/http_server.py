"""Somebody else's web server, on a free port of 127.0.0.1 in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int = 200
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@contextlib.contextmanager
def serving(answer: Callable[[Request], Reply | None]) -> Iterator[str]:
    """Answers until the block ends; yields the server's address. None: the line just closes."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if (found := answer(Request(self.path, headers, body))) is None:
                return
            self.send_response(found.status)
            for name, value in (*found.headers, ("Content-Length", str(len(found.content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.content)

        do_GET = do_POST = do_PUT = reply  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
