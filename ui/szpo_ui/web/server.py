"""The HTTP server: uvicorn, with limits on connections and on unfinished requests.

uvicorn waits forever for the rest of a request's head, and for the rest of a body that no handler
reads. Here, a timer per connection runs while the client must send something. A request whose head
has arrived is not cut off: only the application limits its body and its response.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from szpo_ui.web.rate import limit_repeats, network

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

OPEN_FILES: Final = 256
"""Open files that the process may need besides its connections."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The server's limits for clients, besides those of the application."""

    head_seconds: float = 10.0
    """Longest time from the start of a request (or connection) to the end of its headers."""
    head_bytes: int = 32_768
    """Most bytes of first line and headers that arrive in parts; the application allows less."""
    connections: int = 4096
    """Most connections at once; a further one is answered 503 and closed."""
    share: float = 0.5
    """The share of connections that one client may hold; 1 behind a proxy."""
    rest_seconds: float = 75.0
    """Longest pause between requests: above reading time, so votes meet no closing connection."""
    unread_seconds: float = 60.0
    """Longest time that a client may leave a response unread once the buffers are full."""


class BoundedConnection(H11Protocol):
    """A connection of uvicorn that enforces `Bounds`."""

    def __init__(self, *, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._most: Final = bounds.connections
        self._share: Final = bounds.share * bounds.connections
        self._network = ""
        self._unfinished: Final = _Timer(self.loop, bounds.head_seconds, self._give_up)
        self._unread: Final = _Timer(self.loop, bounds.unread_seconds, self._abort)
        self._refused = False

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, or refuse it if there are too many connections."""
        super().connection_made(transport)
        self._network = network(self.client[0] if self.client else "")
        if len(self.connections) > self._most or self._is_more_than_a_share():
            self._refuse(b"503 Service Unavailable")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Process the data, unless the client was refused."""
        if not self._refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, or continue with one that has arrived meanwhile."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read while the buffers are full."""
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        """Stop that timer, since the client reads again."""
        self._unread.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._unfinished.stop()
        self._unread.stop()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def _watch(self) -> None:
        """Run the timer while the client must send something; sending slowly does not reset it."""
        ours = self.conn.our_state
        if self.transport.is_closing() or ours in (h11.SEND_RESPONSE, h11.SEND_BODY):
            self._unfinished.stop()  # the application must answer now
        elif ours is h11.IDLE and self.cycle is not None and not self._unparsed_bytes():
            self._unfinished.stop()  # between two requests
            if self.timeout_keep_alive_task is None:  # a body that ended late has stopped it
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        else:
            self._unfinished.start()

    def _is_more_than_a_share(self) -> bool:
        """Whether this client holds too many connections; counts only if that is possible."""
        if len(self.connections) <= self._share:
            return False
        own = sum(getattr(each, "_network", "") == self._network for each in self.connections)
        return bool(own > self._share)

    def _unparsed_bytes(self) -> bytes:
        return bytes(self.conn.trailing_data[0])

    def _give_up(self) -> None:
        """Answer 408 to an unfinished head; without one, just close the connection."""
        if self.conn.our_state is h11.IDLE and self._unparsed_bytes():
            self._refuse(b"408 Request Timeout")
        else:
            self.transport.close()

    def _abort(self) -> None:
        self.transport.abort()

    def _refuse(self, status: bytes) -> None:
        self._refused = True
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        self.transport.close()


class _Timer:
    """Acts once, some seconds after the first `start`; only `stop` resets it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]
    ) -> None:
        self._loop, self._seconds, self._act = loop, seconds, act
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._act)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def configure(
    application: Any, bounds: Bounds = Bounds(), *, proxied: bool = False
) -> uvicorn.Config:
    """Make the settings of every web server of this project.

    There is no access log, since addresses are personal data, and no web sockets, since no page
    needs them. Warnings that clients can cause are limited (`RepeatLimit`). ``proxied`` trusts a
    proxy's headers for the client's address.
    """
    config = uvicorn.Config(
        application,
        http=cast(Any, partial(BoundedConnection, bounds=bounds)),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=cast(int, bounds.rest_seconds),
        timeout_graceful_shutdown=5,
        proxy_headers=proxied,
        backlog=2048,
        h11_max_incomplete_event_size=bounds.head_bytes,
    )
    limit_repeats()  # after uvicorn has set up its loggers
    return config


def answer(
    application: Any,
    listener: socket.socket,
    bounds: Bounds = Bounds(),
    *,
    proxied: bool = False,
) -> None:
    """Answer requests until a signal, with as many connections as the limit of open files allows.

    The garbage collector ignores the objects that exist at the start: a pass over all of Gradio's
    objects would delay every request by a fifth of a second.
    """
    with _signals_wait():
        gc.collect()
        gc.freeze()
    most = min(bounds.connections, raise_file_limit(bounds.connections))
    bounds = replace(bounds, connections=most, share=1.0 if proxied else bounds.share)
    uvicorn.Server(configure(application, bounds, proxied=proxied)).run(sockets=[listener])


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
    return connections if soft == resource.RLIM_INFINITY else max(1, soft - OPEN_FILES)
