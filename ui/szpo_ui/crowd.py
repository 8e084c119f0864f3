"""Panelists for the load benchmark: coroutines that vote on the page or by the API.

They use no HTTP library: each panelist has one persistent connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from szpo.errors import RunError
from szpo_ui.web import login
from szpo_ui.web.site import VOTES

TAB: Final = "t" * 16
ROWS: Final = 4
"""Rows of each comparison."""
POLL_SECONDS: Final = 3.0
"""Interval at which a page polls the run's status."""
HOME_SECONDS, BROWSER_SECONDS = 4.0, 2.0
"""Intervals at which a folder's home page polls its rows, and at which the vote browser is loaded
(it reloads itself while its index is read)."""


@dataclass
class Measured:
    """Measurements of one part: seconds per stored vote and per other request, keys by seat."""

    seconds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    reopened: int = 0


@contextlib.asynccontextmanager
async def wires(port: int, sessions: Sequence[str], prefix: str = "") -> AsyncIterator[list[Wire]]:
    """One connection per session, closed at the end; ``prefix`` is that of a folder's run."""
    name = login.cookie_name(secure=False, prefix=prefix)
    made = [Wire("127.0.0.1", port, {"Cookie": f"{name}={s}"}, prefix) for s in sessions]
    try:
        yield made
    finally:
        for wire in made:
            await wire.close()


def _note(seen: Measured, seat: str, idem: str, reply: Reply, *, ok: bool) -> None:
    if ok:
        seen.seconds.append(reply.seconds)
        seen.acknowledged[seat] = idem
    else:
        seen.refused += 1


@contextlib.asynccontextmanager
async def watching(port: int, operator: str, prefix: str) -> AsyncIterator[Measured]:
    """Keep a folder's home page open, and the vote browser of its run.

    Both are loaded once before, since the first visit of a run builds its pages, as a server of
    one run does at its start.

    ``operator`` is a session of the folder. The yielded object's ``others`` has the seconds of
    each response.
    """
    seen = Measured()

    async def ask(wire: Wire, path: str) -> float:
        reply = await wire.ask("GET", path)
        if reply.status != 200:
            raise RunError(f"panel-load: {path} answered {reply.status}")
        return reply.seconds

    async def look(wire: Wire, path: str, pause: float) -> None:
        while True:
            seen.others.append(await ask(wire, path))
            await asyncio.sleep(pause)

    async with wires(port, [operator] * 2) as (home, browser):
        await ask(home, "/home-api/rows")
        await ask(browser, f"{prefix}{VOTES}")
        looks = [
            asyncio.create_task(look(home, "/home-api/rows", HOME_SECONDS)),
            asyncio.create_task(look(browser, f"{prefix}{VOTES}", BROWSER_SECONDS)),
        ]
        try:
            yield seen
            if failed := next((t.exception() for t in looks if t.done()), None):
                raise failed
        finally:
            for task in looks:
                task.cancel()
            await asyncio.gather(*looks, return_exceptions=True)


async def at_the_page(
    port: int, sessions: Sequence[str], bursts: int, prefix: str = ""
) -> Measured:
    """All panelists vote on the page within one second, ``bursts`` times, while pollers run."""
    seen, drawn = Measured(), random.Random(1)
    async with (
        wires(port, sessions, prefix) as people,
        wires(port, sessions, prefix) as pollers,
    ):
        config = (await people[0].ask("GET", "/panel/config")).json
        number = next(each["id"] for each in config["components"] if "server_fns" in each["props"])

        async def do(wire: Wire, **action: Any) -> Reply:
            call = {"component_id": number, "fn_name": "do", "session_hash": "x"}
            path = "/panel/gradio_api/component_server"
            return await wire.ask("POST", path, {**call, "data": {"tab": TAB, **action}})

        async def poll(wire: Wire, first: float) -> None:
            await asyncio.sleep(first * POLL_SECONDS)
            tag = ""
            while True:
                wire.headers["If-None-Match"] = tag
                reply = await wire.ask("GET", f"/api/status?tab={TAB}")
                tag = reply.headers.get("etag", tag)
                seen.others.append(reply.seconds)
                await asyncio.sleep(POLL_SECONDS)

        seats = []
        for wire in people:
            first = await do(wire, do="agree")
            seen.others.append(first.seconds)
            seats.append(_seat(first))
        polling = [asyncio.create_task(poll(wire, drawn.random())) for wire in pollers]
        for burst in range(bursts):

            async def confirm(i: int, burst: int = burst) -> None:
                await asyncio.sleep(drawn.random())
                seat, idem = seats[i], f"burst-{burst}-{i:010}"
                ballot = {
                    "assignment": seat, "choice": "A", "idem": idem, "tab": TAB,
                    "dwell_ms": 60_000, "details": {"seen": ROWS},
                }  # fmt: skip
                reply = await do(people[i], do="vote", seat=seat, ballot=ballot)
                ok = reply.status == 200 and b'data-state=\\"error' not in reply.body
                _note(seen, seat, idem, reply, ok=ok)
                seats[i] = _seat(reply)

            await asyncio.gather(*(confirm(i) for i in range(len(people))))
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)
        seen.reopened = sum(wire.reopened for wire in [*people, *pollers])
    return seen


def _seat(reply: Reply) -> str:
    found = re.search(rb'data-seat=\\"([^"\\]+)', reply.body)
    if found is None:
        raise RunError(f"panel-load: the page shows no comparison ({reply.status})")
    return found[1].decode()


async def by_the_api(
    port: int, sessions: Sequence[str], *, seconds: float, think: float, prefix: str = ""
) -> Measured:
    """For ``seconds``, all panelists take comparisons, think and vote."""
    seen, drawn = Measured(), random.Random(2)
    clock = asyncio.get_running_loop().time
    async with wires(port, sessions, prefix) as people:
        end = clock() + seconds

        async def panelist(i: int, wire: Wire) -> None:
            await asyncio.sleep(drawn.random() * think)
            while clock() < end:
                taken = await wire.ask("POST", "/api/assignment", {"tab": "t"})
                seen.others.append(taken.seconds)
                if taken.status != 200:
                    seen.refused += taken.status != 204
                    return
                await asyncio.sleep(think * (0.9 + 0.2 * drawn.random()))
                seat = taken.json["assignment"]
                idem = f"api-{i}-{seat}"[:64]
                body = {"assignment": seat, "choice": "B", "idem": idem, "tab": "t"}
                reply = await wire.ask("POST", "/api/votes", body)
                _note(seen, seat, idem, reply, ok=reply.status == 200)

        await asyncio.gather(*(panelist(i, wire) for i, wire in enumerate(people)))
        seen.reopened = sum(wire.reopened for wire in people)
    return seen


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, and the seconds until it arrived."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Wire:
    """One connection; if it is lost, it is opened again and the request is repeated."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    """The prefix of every path: "/r/NAME" for a run of a folder."""
    reopened: int = 0
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """Send a request and read the response; its time covers all attempts."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        sent = ("\r\n".join(lines) + "\r\n\r\n").encode() + content
        began = time.perf_counter()
        for attempt in range(TRIES):
            try:
                reader, writer = await self._open()
                writer.write(sent)
                await writer.drain()
                status, headers, read = await _reply(reader)
                return Reply(status, headers, read, time.perf_counter() - began)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self.close()
                self.reopened += 1
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
        return self._streams


TRIES: Final = 3


async def _reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        return status, headers, b"".join(parts)
    length = int(headers.get("content-length", "0"))
    return status, headers, await reader.readexactly(length)
