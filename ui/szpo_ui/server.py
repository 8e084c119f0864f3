"""The HTTP server: uvicorn by its public settings, for a proxy in front or for this machine.

uvicorn waits as long as a client likes for the head of a request and for an answer to be read.
The proxy of ``deploy/Caddyfile`` does not; docs/serve.md says what a bare port is not.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn

from szpo_ui.address import listening
from szpo_ui.requests import limit_repeats

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

HEAD_BYTES: Final = 32_768
"""Most bytes of first line and headers that arrive in parts; the application allows less."""
CONNECTIONS: Final = 4096
"""Connections from which on requests are answered 503."""
REST_SECONDS: Final = 75
"""Longest pause between requests: above reading time, so votes meet no closing connection."""
OPEN_FILES: Final = 256
"""Open files that the process may need besides its connections."""


def configure(
    application: Any, connections: int = CONNECTIONS, *, proxied: bool = False
) -> uvicorn.Config:
    """Make the settings of every web server of this project.

    There is no access log, since addresses are personal data, and no web sockets, since no page
    needs them. Warnings that clients can cause are limited (`RepeatLimit`). ``proxied`` trusts a
    proxy's headers for the client's address.
    """
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=REST_SECONDS,
        timeout_graceful_shutdown=5,
        proxy_headers=proxied,
        backlog=2048,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    limit_repeats()  # after uvicorn has set up its loggers
    return config


def show(application: Callable[[], Any], path: str, port: int) -> None:
    """Serve a page to this machine until a signal; 0 is a free port."""
    with listening("127.0.0.1", port, insecure=False) as listener:
        made, port = application(), listener.getsockname()[1]
        print(f"open http://127.0.0.1:{port}{path}/  (Ctrl-C ends it)", flush=True)
        answer(made, listener)


def answer(application: Any, listener: socket.socket, *, proxied: bool = False) -> None:
    """Answer requests until a signal, with as many connections as the limit of open files allows.

    The garbage collector ignores the objects that exist at the start: a pass over all of Gradio's
    objects would delay every request by a fifth of a second.
    """
    with _signals_wait():
        gc.collect()
        gc.freeze()
    config = configure(application, raise_file_limit(CONNECTIONS), proxied=proxied)
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Delay signals until after the block: an error that a handler raises inside could be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: arrived.append(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    for arrival in arrived[:1]:
        signal.raise_signal(arrival)


def raise_file_limit(connections: int) -> int:
    """Raise the limit of open files as needed and allowed; returns how many connections fit."""
    if resource is None:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - OPEN_FILES))
