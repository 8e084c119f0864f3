"""The HTTP server: its socket and addresses, and uvicorn by its public settings.

uvicorn waits as long as a client likes for the head of a request and for an answer to be read.
The proxy of ``deploy/Caddyfile`` does not; docs/how-to/serve.md says what a bare port is not.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import uvicorn

from szpo.errors import UsageError
from szpo.files import try_lock

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPERATOR = "operator"
"""The operator's name in the link printed at each start, which ends the earlier link but not its
sessions."""
OPERATOR_DAYS = 30.0
"""How many days the links printed at a start work, and the sessions made with them."""
ADDRESS_LIMIT = 2_000
"""Most characters of an address to read; real ones are far shorter."""
HEAD_BYTES: Final = 32_768
"""Most bytes of first line and headers that arrive in parts; the application allows less."""
CONNECTIONS: Final = 4096
"""Connections from which on requests are answered 503."""
REST_SECONDS: Final = 75
"""Longest pause between requests: above reading time, so votes meet no closing connection."""
OPEN_FILES: Final = 256
"""Open files that the process may need besides its connections."""
FEW = 5
"""Most warnings from one line of code that are written each minute."""
Later: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after some seconds."""


@dataclass(frozen=True)
class SiteAddress:
    """The site's address for browsers."""

    url: str
    """The beginning of every link."""
    names: tuple[str, ...]
    """Host headers to answer."""

    @property
    def secure(self) -> bool:
        """Whether browsers connect by TLS."""
        return self.url.startswith("https://")


@contextlib.contextmanager
def listening(host: str, port: int, *, insecure: bool) -> Iterator[socket.socket]:
    """A listening socket, opened before anything slow begins."""
    if port != 0 and not 1024 <= port <= 65535:
        raise UsageError(f"--port {port}: give 1024 to 65535, or 0 for a free one")
    if host not in LOOPBACK and not insecure:
        raise UsageError(
            f"--host {host} would show the panel to the network without TLS: codes and votes "
            "could be read on the way; keep 127.0.0.1 behind a TLS proxy (--url https://…), or "
            "add --insecure"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        if os.name == "posix":  # on Windows it would let another program take the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"port {port} is in use; try --port {_free(host, port, family)}"
                ) from None
            raise UsageError(f"--host {host} --port {port}: {error.strerror}") from None
        yield listener


def _free(host: str, port: int, family: int) -> int:
    for other in [*range(port + 1, min(port + 100, 65536)), 0]:
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, other))
            return int(probe.getsockname()[1])
    return 0


def site_address(
    listener: socket.socket, host: str, url: str | None, names: Sequence[str] = ()
) -> SiteAddress:
    """The site's address, and the host names that browsers may use for it."""
    shown = f"[{host}]" if ":" in host else host
    answered = {*LOOPBACK, host, *names}
    if url is None:
        if host in ("0.0.0.0", "::"):
            answered |= _own_names()
            shown = socket.gethostname()
        port = listener.getsockname()[1]
        return SiteAddress(f"http://{shown}:{port}", tuple(sorted(answered)))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(f"--url {url}: give https://host, without a path")
    return SiteAddress(url.rstrip("/"), tuple(sorted({*answered, parts.hostname})))


def say(text: str) -> None:
    """Print a line to the server's terminal."""
    print(text, file=sys.stderr, flush=True)


def link(url: str, token: str) -> str:
    """An invitation's link; the token comes after "#", a part that browsers do not send.

    >>> link("https://panel.example", "abc")
    'https://panel.example/login#t=abc'
    """
    return f"{url}/login#t={token}"


def _own_names() -> set[str]:
    """This machine's names and addresses."""
    name = socket.gethostname()
    found = {name, socket.getfqdn()}
    with contextlib.suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    return found


# --- for other commands: a small file beside the run, locked while its server runs ---


@contextlib.contextmanager
def announce(run: Path, url: str) -> Iterator[None]:
    """Publish the address to other commands on this machine; a failure to write is ignored.

    The lock ends with the process, however that ends. Each server of a run has its own file.
    """
    with contextlib.ExitStack() as stack:
        for place in _address_files(run):
            try:
                file = stack.enter_context(place.open("a+", encoding="utf-8"))
                if not try_lock(file.fileno()):  # another server has it
                    continue
                file.truncate(0)
                os.write(file.fileno(), url.encode())  # a buffer's rest would fail at the end
            except OSError:  # the disk is full
                continue
            stack.callback(place.unlink, missing_ok=True)
            break
        yield


def read_address(run: Path) -> str | None:
    """The beginning of links to this run; None if no server of it is running."""
    for place in _address_files(run):
        with contextlib.suppress(OSError), place.open(encoding="utf-8") as file:
            if not try_lock(file.fileno(), shared=True) and (url := file.read(ADDRESS_LIMIT)):
                return url
    return None


def _address_files(run: Path) -> list[Path]:
    """The files in which the servers of a run write their addresses, in order of use."""
    return [run.with_name(f"{run.name}-served{number}") for number in ("", "-2", "-3", "-4")]


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


def answer(application: Any, listener: socket.socket, *, proxied: bool = False) -> None:
    """Answer requests until a signal, with as many connections as the limit of open files allows.

    The garbage collector ignores the objects that exist at the start: a pass over all of Gradio's
    objects would delay every request by a fifth of a second.
    """
    with _signals_wait():
        gc.collect()
        gc.freeze()
    config = configure(application, raise_file_limit(CONNECTIONS), proxied=proxied)
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:  # a second signal would leave out what the application ends with
            super().handle_exit(sig, frame)


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


def _start_timer(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


class RepeatLimit(logging.Filter):
    """Writes the first few equal lines of a minute, then one line with the number of the rest.

    Warnings are equal if the same line of code logs them, errors if also the same line raised
    them. All clients share the limit: addresses are personal data, so lines name none, and one
    client can have many.
    """

    def __init__(self, few: int = FEW, seconds: float = 60.0, later: Later = _start_timer):
        super().__init__()
        self._few, self._seconds, self._later = few, seconds, later
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, int, object], tuple[int, str]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write this record; counts it if it is a warning or an error."""
        if record.levelno < logging.WARNING or getattr(record, "is_count", False):
            return True
        key = (record.name, record.pathname, record.lineno, _raised_at(record))
        with self._lock:
            begins = not self._seen
            count = self._seen.get(key, (0, ""))[0] + 1
            self._seen[key] = count, str(record.msg)
        if begins:
            self._later(self._seconds, self._close)
        return count <= self._few

    def _close(self) -> None:
        with self._lock:
            seen, self._seen = self._seen, {}
        for (name, *_), (count, text) in seen.items():
            if count > self._few:
                logging.getLogger(name).warning(
                    "%d more in %g seconds: %s", count - self._few, self._seconds, text,
                    extra={"is_count": True},
                )  # fmt: skip


def _raised_at(record: logging.LogRecord) -> object:
    """Type and place of a log record's exception; None if it has none."""
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(None if error is None else error.__traceback__, limit=-1)
    return error and (type(error), *((each.filename, each.lineno) for each in frames))


def limit_repeats() -> None:
    """Limit repeated log lines of server and pages; a second call changes nothing."""
    for name in ("uvicorn.error", "asyncio", "szpo_ui", "szpo.panel", "szpo.operate"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, RepeatLimit) for each in logger.filters):
            logger.addFilter(RepeatLimit())
