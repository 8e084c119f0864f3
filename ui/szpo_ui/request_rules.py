"""The form of requests and responses: own site, size, strict JSON, browser policies, and rates."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
HEAD_LIMIT = 16_384
"""Most bytes of a request's headers, names and values together."""
PATH_LIMIT = 4_096
"""Most bytes of a request's path and query string."""
BODY_LIMIT = 65_536
"""Largest request body, bytes."""
BODY_SECONDS = 10.0
"""Seconds in which a body must arrive."""
READS = ("GET", "HEAD", "OPTIONS")
"""Methods of requests that change nothing."""
VOTES: Final = "/operate/votes"
"""The path of the operator's list of votes: plain HTML, without Gradio."""
GRADIO_PAGES = ("/panel", "/operate", "/visualize")
"""Prefixes of the paths of Gradio's pages, but for `VOTES`."""
MOST_KEYS = 10_000
"""Most keys in memory; the one unused for longest is dropped first."""
PLACES = 2**15
"""Slots for counting wrong codes; Python's random hash seed hides which name has which slot."""


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


async def read_body(model: type[M], request: Request) -> M:
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


class OwnSiteOnly:
    """ASGI middleware: only requests of this site's own pages, of a bounded size and duration.

    It reads the whole body of a request that changes something, and adds headers to all answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        url: str = "",
        *,
        secure: bool = False,
        gradio: tuple[str, ...] = GRADIO_PAGES,
    ):
        """``url`` is the site's address behind a proxy, which browsers send as Origin.

        Paths that begin with one of ``gradio`` get the policy of Gradio's pages.
        """
        self.app = app
        self.gradio = gradio
        self.url = url
        self.secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on."""
        if scope["type"] == "websocket":  # no page needs one
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            path = scope["path"]
            gradio = path.startswith(self.gradio) and path != VOTES
            send = _with_headers(path, send, gradio=gradio, secure=self.secure)
            try:
                receive = await _take_in(scope, receive, self.url, secure=self.secure)
            except RefusedError as error:
                await error.answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _with_headers(path: str, send: Send, *, gradio: bool, secure: bool) -> Send:
    assets = path.startswith("/static/") or "/assets/" in path or "/static/" in path

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in COMMON.items():
                headers[name] = value
            headers["Content-Security-Policy"] = GRADIO_POLICY if gradio else OWN_POLICY
            if secure:
                headers["Strict-Transport-Security"] = "max-age=31536000"
            if not assets:
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def own_origin(headers: Headers, *, url: str = "", secure: bool = False) -> bool:
    """Whether the request came from this site's own page, or from no browser.

    Browsers send Origin with requests that are not a GET, and name the page's relation to this
    site in Sec-Fetch-Site. A program that sends neither needs a session of its own.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None or origin == (url or None):
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.netloc == headers.get("host") and parts.scheme in (
        ("https",) if secure else ("http", "https")
    )


async def _take_in(
    scope: Scope, receive: Receive, url: str = "", *, secure: bool = False
) -> Receive:
    """Read the whole body of a request that changes something; the result replays it from memory.

    This also limits heads that arrive at once; the server limits only those that come in parts.

    Raises:
        RefusedError: another site sent the request, a part is too long, or the body is too slow.
    """
    path, headers = scope.get("raw_path") or scope["path"].encode(), Headers(scope=scope)
    if len(path) + len(scope.get("query_string", b"")) > PATH_LIMIT:
        raise RefusedError(414, "too_long", f"a path has at most {PATH_LIMIT:,} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_LIMIT:
        raise RefusedError(431, "too_long", f"headers have at most {HEAD_LIMIT:,} bytes together")
    if scope["method"] in READS:
        return receive
    if not own_origin(headers, url=url, secure=secure):
        why = "this request comes from another site; behind a proxy, szpo serve needs --url"
        raise RefusedError(403, "origin", why)
    too_large = f"a request has at most {BODY_LIMIT:,} bytes"
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > BODY_LIMIT:
        raise RefusedError(413, "too_large", too_large)
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise RefusedError(400, "gone", "the connection ended")
                body += message.get("body", b"")
                if len(body) > BODY_LIMIT:
                    raise RefusedError(413, "too_large", too_large)
                more = message.get("more_body", False)
    except TimeoutError:
        slow = f"the request took more than {BODY_SECONDS:.0f} s to arrive"
        raise RefusedError(408, "slow", slow) from None
    return replay_body(body, receive)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the read body once, then continues with the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


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
