"""Strict reading of JSON requests, uniform responses, and limits of rate kept in memory."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from szpo.ledger.database import Clock


M = TypeVar("M", bound=BaseModel)
Tab = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seat = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LIMITS = (
    "connect-src 'self'; img-src 'self' data:; font-src 'self' data:; manifest-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)
OWN_POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; {_LIMITS}"
"""Content-Security-Policy of pages without Gradio."""
GRADIO_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    f"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; base-uri 'self'; {_LIMITS}"
)
"""The policy of Gradio's pages, which need inline scripts, compile templates and set their base.
So only escaping keeps model text from running as code; the policy keeps data from leaving."""
MOST_KEYS = 10_000
"""Most keys in memory; the one unused for longest is dropped first."""
PLACES = 2**15
"""Slots for counting wrong codes; Python's random hash seed hides which name has which slot."""
FEW = 5
"""Most warnings from one line of code that are written each minute."""
Later: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after some seconds."""


class Body(BaseModel):
    """The body of a request; unknown fields are refused, values are never converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


def refuse(
    status: int, code: str, message: str, *, retry_after: float | None = None, **more: object
) -> JSONResponse:
    """An error response: {"error": code, "message": text, …}."""
    headers = None
    if retry_after is not None:
        headers = {"Retry-After": str(max(1, int(-(-retry_after // 1))))}
    return JSONResponse({"error": code, "message": message, **more}, status, headers)


class RefusedError(Exception):
    """Ends a request with ``answer``, the response that `refuse` makes of these arguments."""

    def __init__(self, status: int, code: str, message: str, **more: Any):
        super().__init__(message)
        self.answer: Final = refuse(status, code, message, **more)


async def read(model: type[M], request: Request) -> M:
    """The request's body as a model.

    Other content types are refused, since other sites' pages can send HTML forms.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        raise RefusedError(415, "content_type", "send the body as application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        where, text = first_fault(error)
        text = text[0].lower() + text[1:]
        shown = f"{where}: {text}" if where else text
        raise RefusedError(422, "invalid", shown, field=where or None) from None


def first_fault(error: ValidationError) -> tuple[str, str]:
    """The first wrong field ("" for the whole body), and its error message."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    parts = [str(part) for part in first["loc"]]  # with the types tried, as literal['A','B']
    return ".".join(part for part in parts if "[" not in part), first["msg"]


def if_changed(request: Request, tag: str, found: object) -> Response:
    """A poller's response: ``found`` as JSON, or 304 if the poller sent this tag."""
    headers = {"ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(found, headers=headers)


def network(host: str) -> str:
    """The network that counts as one client: an IPv4 address (also in IPv6 form), or an IPv6 /64.

    One subscriber usually has 2⁶⁴ IPv6 addresses.

    >>> network("::ffff:192.0.2.7"), network("2001:db8::7"), network("a socket")
    ('192.0.2.7', '2001:db8::/64', 'a socket')
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    if address.ipv4_mapped is not None:  # so a dual-stack server sees IPv4 clients
        return str(address.ipv4_mapped)
    return str(ip_network((int(address) >> 64 << 64, 64)))


class Buckets:
    """Token buckets: ``rate`` requests a second and ``burst`` at once for each key."""

    def __init__(self, clock: Clock, *, rate: float, burst: float):
        self.clock: Final = clock
        self.rate: Final = rate
        self.burst: Final = burst
        self._level: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str) -> float:
        """0.0 if the request may pass, else the seconds until the next one may."""
        now = self.clock()
        level, before = self._level.pop(key, (self.burst, now))
        level = min(self.burst, level + max(0, now - before) * 1e-6 * self.rate)
        passes = level >= 1.0
        self._level[key] = (level - 1.0 if passes else level, now)
        if len(self._level) > MOST_KEYS:
            self._level.popitem(last=False)
        return 0.0 if passes else (1.0 - level) / self.rate


@dataclass
class Locks:
    """Allows ``tries`` wrong codes per key within ``seconds``; only time ends a lock.

    A code counts as wrong from its arrival until it is found right, so many at once count like
    many in a row. Keys share `PLACES` slots in memory, and keys of one slot share their tries, so
    no number of other keys can push a lock out of memory.
    """

    clock: Clock
    tries: int = 5
    seconds: float = 60.0
    _wrong: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def take(self, key: str) -> float:
        """Count a code; 0.0 if it may be checked, else the seconds until one may."""
        now, span, place = self.clock(), round(self.seconds * 1e6), hash(key) % PLACES
        # Times in the future are from before the clock was set back; they are dropped.
        lately = tuple(at for at in self._wrong.get(place, ()) if 0 <= now - at < span)
        passes = len(lately) < self.tries
        self._wrong[place] = (*lately, now) if passes else lately
        return 0.0 if passes else (lately[0] + span - now) * 1e-6

    def right(self, key: str) -> None:
        """Uncount a code that was right."""
        place = hash(key) % PLACES
        self._wrong[place] = self._wrong.get(place, ())[:-1]


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
    if error is None:
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def limit_repeats() -> None:
    """Limit repeated log lines of server and pages; a second call changes nothing."""
    for name in ("uvicorn.error", "asyncio", "szpo_ui", "szpo.panel", "szpo.operate"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, RepeatLimit) for each in logger.filters):
            logger.addFilter(RepeatLimit())
