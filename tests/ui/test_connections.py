"""Requests that never end, answers that nobody reads, too many connections, at both ports.

The server is a process of its own, and the clients are plain sockets. The proxy is Caddy with the
shipped file, its times a tenth of those there.
"""

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from szpo_ui import app, http_server
from szpo_ui.http_server import FEW, RepeatLimit, listening
from szpo_ui.site import open_site
from tests.support import children
from tests.support.browser import make
from tests.support.waiting import until

pytestmark = pytest.mark.full

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LOGIN = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
DEADLINE_S = 30.0
CADDY, CADDYFILE = shutil.which("caddy") or "", Path(__file__).parents[2] / "deploy" / "Caddyfile"
needs_caddy = pytest.mark.skipif(not CADDY, reason="caddy is not installed")


def run(path: Path, connections: int, ports: Any) -> None:
    """In a child: serve the real application, and beside it answers that take their time."""
    sys.stderr = path.with_suffix(".log").open("w", buffering=1)  # where the server's log goes
    site = open_site(path)
    application = app.create(site, pages=())
    ended = 0

    async def both(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ended
        path = scope.get("path", "")
        if not path.startswith("/test/"):
            await application(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200})
        if path == "/test/flood":  # more than any buffer holds
            for _ in range(1000):
                part = b"x" * 65_536
                await send({"type": "http.response.body", "body": part, "more_body": True})
            ended += 1
        body = str(ended) if path == "/test/ended" else "done"
        await send({"type": "http.response.body", "body": body.encode()})

    with listening("127.0.0.1", 0, insecure=False) as listener:
        ports.send(listener.getsockname()[1])
        uvicorn.Server(http_server.configure(both, connections)).run(sockets=[listener])


@contextlib.contextmanager
def serving(folder: Path, connections: int = http_server.CONNECTIONS) -> Iterator[int]:
    """The port of a server over a run in the folder."""
    make(folder / "run.db").ledger.close()
    here, there = children.pipe()
    child = children.start(run, folder / "run.db", connections, there)
    try:
        assert here.poll(120), "the server did not start"
        yield here.recv()
    finally:
        child.terminate()
        child.join(DEADLINE_S)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The port of a server, and its log."""
    folder = tmp_path_factory.mktemp("bare")
    with serving(folder) as found:
        yield found, folder / "run.log"


@pytest.fixture(scope="module")
def proxy(bare, tmp_path_factory):
    """The port of the shipped proxy before the server."""
    folder = tmp_path_factory.mktemp("proxy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    text = CADDYFILE.read_text().replace("127.0.0.1:7860", f"127.0.0.1:{bare[0]}")
    text = re.sub(r"(_header|_body|idle) (\d+)s", r"\1 \g<2>00ms", text).replace("5m", "2s")
    (folder / "Caddyfile").write_text(text)
    words = [CADDY, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    told = {"SZPO_HOST": f"http://127.0.0.1:{own}", "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(words, env={**os.environ, **told}, stderr=log)
        try:
            until(lambda: healthy(own))
            yield own
        finally:
            child.terminate()
            child.wait(DEADLINE_S)


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


def healthy(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False


@needs_caddy
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HEAD,
        HEAD + b"X-Long: abc",
        HEAD + b"\r\n" + HEAD,
        LOGIN + b"Content-Length: 50\r\n\r\nx",
        HEAD + b"Content-Length: 50\r\n\r\nx",
    ],
)
def test_what_never_ends_is_given_up_however_it_drips_in(proxy, sent):
    end = time.monotonic() + DEADLINE_S
    with wire(proxy, sent) as made, contextlib.suppress(ConnectionError):
        made.settimeout(0.2)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if not made.recv(65_536):
                    break
            if sent not in (b"", b"G"):
                made.sendall(b"X" if b"Length" in sent else b"X: 1\r\n")
        else:
            pytest.fail("the proxy still listens")
    assert healthy(proxy)


@needs_caddy
def test_an_answer_that_nobody_reads_is_given_up(proxy):
    def ended() -> bool:
        return httpx.get(f"http://127.0.0.1:{proxy}/test/ended").text == "1"

    with wire(proxy, HEAD.replace(b"/healthz", b"/test/flood") + b"\r\n") as made:
        assert made.recv(1)
        until(ended)
        assert len(read_to_end(made)) < 65_536_000


def test_connections_have_a_bound_and_come_free(tmp_path):
    with serving(tmp_path, connections=8) as port:
        until(lambda: healthy(port))
        with contextlib.ExitStack() as held:
            for _ in range(7):
                read_answer(held.enter_context(wire(port, HEAD + b"\r\n")))
            with wire(port, HEAD + b"\r\n") as further:
                assert read_to_end(further).startswith(b"HTTP/1.1 503 ")
        until(lambda: healthy(port))


def test_malformed_requests_do_not_fill_the_log(bare):
    port, log = bare
    upgrade = HEAD + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    for _ in range(40):
        with wire(port, b"no request\r\n\r\n") as made:
            assert b" 400 " in read_to_end(made)
        with wire(port, upgrade) as made:
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
