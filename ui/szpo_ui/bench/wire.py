"""A raw HTTP client for load tests: one persistent connection per panelist, without a library."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, and the seconds until it came."""

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
    """One connection; if it is lost, it is opened again and the request repeated."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    """Stands before every path: "/r/NAME" for a run of a folder."""
    reopened: int = 0
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """Send a request and read the reply; the time covers every attempt."""
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
        """Hang up."""
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
