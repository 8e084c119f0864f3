"""Requests that never end or are too long, answers that nobody reads, too many connections.

The server is a process of its own, and the clients are plain sockets. Its bounds are short ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from szpo_ui import app
from szpo_ui.web import server
from szpo_ui.web.address import listening
from szpo_ui.web.rate import FEW, RepeatLimit
from szpo_ui.web.server import Bounds
from szpo_ui.web.site import open_site
from tests.support import children
from tests.support.browser import make
from tests.support.waiting import until

pytestmark = pytest.mark.full

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LOGIN = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
DEADLINE_S = 30.0
SHORT = Bounds(head_seconds=0.3, unread_seconds=0.3)


def run(path: Path, bounds: Bounds, ports: Any) -> None:
    """In a child: serve the real application, and beside it answers that take their time."""
    sys.stderr = path.with_suffix(".log").open("w", buffering=1)  # where the server's log goes
    site = open_site(path)
    application = app.create(site, pages=())
    free, ended = asyncio.Event(), 0

    async def both(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ended
        path = scope.get("path", "")
        if not path.startswith("/test/"):
            await application(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200})
        if path == "/test/long":  # as a stream of events: it begins, and goes on much later
            await send({"type": "http.response.body", "body": b"begun,", "more_body": True})
            await free.wait()
        elif path == "/test/flood":  # more than any buffer holds
            for _ in range(1000):
                part = b"x" * 65_536
                await send({"type": "http.response.body", "body": part, "more_body": True})
            ended += 1
        elif path == "/test/free":
            free.set()
        body = str(ended) if path == "/test/ended" else "done"
        await send({"type": "http.response.body", "body": body.encode()})

    with listening("127.0.0.1", 0, insecure=False) as listener:
        ports.send(listener.getsockname()[1])
        server.answer(both, listener, bounds)


@contextlib.contextmanager
def serving(folder: Path, bounds: Bounds) -> Iterator[int]:
    """The port of a server over a run in the folder."""
    make(folder / "run.db").ledger.close()
    here, there = children.pipe()
    child = children.start(run, folder / "run.db", bounds, there)
    try:
        assert here.poll(120), "the server did not start"
        yield here.recv()
    finally:
        child.terminate()
        child.join(DEADLINE_S)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("short"), SHORT) as found:
        yield found


@pytest.fixture(scope="module")
def resting(tmp_path_factory):
    """The port of a server that ends connections which rest, and its log."""
    folder = tmp_path_factory.mktemp("resting")
    with serving(folder, Bounds(head_seconds=5, rest_seconds=0.3)) as found:
        yield found, folder / "run.log"


@contextlib.contextmanager
def wire(port: int, sent: bytes = b"", source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection that has sent so much; all addresses of 127/8 are this machine's."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S, (source, 0)) as made:
        made.sendall(sent)
        yield made


def read_to_end(made: socket.socket) -> bytes:
    """All that comes until the server hangs up; an error where it does not."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := made.recv(65_536):
            found += part
    return found


def read_answer(made: socket.socket, end: bytes = b'{"ok":true}') -> bytes:
    """One answer, by what it ends with."""
    found = b""
    while not found.endswith(end):
        part = made.recv(65_536)
        assert part, "the server hung up"
        found += part
    return found


def wait_beyond_the_limit(port: int) -> None:
    """Return when a head that began now would have been given up."""
    with wire(port, HEAD) as other:
        read_to_end(other)


def healthy(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False


# ---- heads that do not end ----


@pytest.mark.parametrize(
    ("half", "answer"),
    [(b"", b""), *((half, b"HTTP/1.1 408 ") for half in (b"G", HEAD, HEAD + b"X-Long: abc"))],
)
def test_a_head_that_never_ends_is_given_up_in_silence_where_none_began(port, half, answer):
    with wire(port, half) as made:
        assert read_to_end(made)[: len(b"HTTP/1.1 408 ")] == answer


def test_a_second_head_has_no_more_time_than_the_first(port):
    with wire(port, HEAD + b"\r\n" + HEAD) as made:
        found = read_to_end(made)
    assert found.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 408 " in found
    with wire(port, HEAD + b"\r\n") as made:
        read_answer(made)
        made.sendall(b"GET /heal")
        assert read_to_end(made).startswith(b"HTTP/1.1 408 ")


def test_what_drips_in_gets_no_more_time(port):
    end = time.monotonic() + DEADLINE_S
    with wire(port, HEAD) as made, contextlib.suppress(ConnectionError):
        made.settimeout(0.05)
        while time.monotonic() < end:
            made.sendall(b"X: 1\r\n")
            with contextlib.suppress(TimeoutError):
                made.recv(65_536)
                return
        pytest.fail("the server still listens")


# ---- what is not cut ----


def test_a_connection_that_rests_between_requests_stays(port):
    with wire(port, HEAD + b"\r\n") as resting:
        read_answer(resting)
        wait_beyond_the_limit(port)
        resting.sendall(HEAD + b"\r\n")
        read_answer(resting)


def test_an_answer_may_take_its_time(port):
    with wire(port, HEAD.replace(b"/healthz", b"/test/long") + b"\r\n") as made:
        read_answer(made, b"begun,\r\n")
        wait_beyond_the_limit(port)
        assert httpx.get(f"http://127.0.0.1:{port}/test/free").text == "done"
        read_answer(made, b"done\r\n0\r\n\r\n")


def test_a_body_has_the_applications_time_not_the_heads(port):
    body = b'{"name": "nobody", "code": "0000-0000-0000-0000"}'
    with wire(port, LOGIN + b"Content-Length: %d\r\n\r\n" % len(body) + body[:9]) as made:
        wait_beyond_the_limit(port)
        made.sendall(body[9:])
        assert read_answer(made, b"}").startswith(b"HTTP/1.1 401 ")


# ---- bodies and answers ----


def test_a_body_that_nobody_waits_for_has_an_end_too(port):
    with wire(port, HEAD + b"Content-Length: 50\r\n\r\nx") as made:
        assert read_to_end(made).endswith(b'{"ok":true}')


def test_after_a_late_body_the_connection_rests_like_any_other(resting):
    with wire(resting[0], HEAD + b"Content-Length: 2\r\n\r\nx") as made:
        read_answer(made)
        made.sendall(b"x")
        assert read_to_end(made) == b""


def test_an_answer_that_nobody_reads_is_given_up(port):
    def ended() -> bool:
        return httpx.get(f"http://127.0.0.1:{port}/test/ended").text == "1"

    with wire(port, HEAD.replace(b"/healthz", b"/test/flood") + b"\r\n") as made:
        assert made.recv(1)
        until(ended)
        assert len(read_to_end(made)) < 65_536_000


# ---- lengths and numbers ----


def test_one_client_leaves_connections_to_the_others_all_have_a_bound_and_come_free(tmp_path):
    with serving(tmp_path, Bounds(connections=8)) as port:
        until(lambda: healthy(port))
        with contextlib.ExitStack() as held:
            for source, next_one in (("127.0.0.1", "127.0.0.1"), ("127.0.0.9", "127.0.0.10")):
                for _ in range(4):
                    read_answer(held.enter_context(wire(port, HEAD + b"\r\n", source)))
                with wire(port, source=next_one) as further:
                    assert read_to_end(further).startswith(b"HTTP/1.1 503 ")
        until(lambda: healthy(port))


def test_malformed_requests_do_not_fill_the_log(resting):
    upgrade = HEAD + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    own, log = resting
    for _ in range(40):
        with wire(own, b"no request\r\n\r\n") as made:
            assert b" 400 " in read_to_end(made)
        with wire(own, upgrade) as made:
            assert b" 200 " in read_to_end(made)
    lines = [x for x in log.read_text().splitlines() if "WARNING" in x]
    for text in ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket"):
        assert sum(text in line for line in lines) == FEW, text
    assert len(lines) == 3 * FEW


def test_of_many_equal_warnings_the_first_are_written_and_then_their_number(caplog):
    log = logging.getLogger("test.repeats")
    waiting: list[tuple[float, Callable[[], None]]] = []
    limit = RepeatLimit(few=2, seconds=60.0, later=lambda s, act: waiting.append((s, act)))
    log.addFilter(limit)
    for name in "abcde":
        log.warning("bad request %s", name)
    log.warning("another place")
    assert caplog.messages == ["bad request a", "bad request b", "another place"]
    caplog.clear()
    ((seconds, close),) = waiting
    close()
    assert seconds == 60.0 and caplog.messages == ["3 more in 60 seconds: bad request %s"]
    log.warning("bad request %s", "f")  # the next minute begins
    assert caplog.messages[1:] == ["bad request f"] and len(waiting) == 2
    waiting[1][1]()
    assert len(caplog.messages) == 2  # nothing was held back in it
