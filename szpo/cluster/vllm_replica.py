"""One vLLM server over HTTP: adapters by name, one request per row, bounded retries.

A final refusal raises `UsageError`. Failures that may pass are tried again after growing pauses,
without jitter. If the server stays silent or broken, or has lost its adapters, `GoneError` is
raised: the caller gives the rows to another server and checks this one again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from szpo import outgoing
from szpo.cluster import vllm_messages
from szpo.cluster.vllm_messages import Decoding, MessageError, Row, RowAnswer
from szpo.errors import UsageError
from szpo.outgoing import ENGINE_KEY

PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which a request is tried again."""
REPLY_BYTES = 16 * 2**20
"""Longest reply that is read; a row's reply has kilobytes."""


class GoneError(Exception):
    """The server did not answer properly in any try; it may come back."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Number of tries, and pauses in seconds: first_s, then doubled, at most longest_s."""

    tries: int = 5
    first_s: float = 0.5
    longest_s: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def pause_s(self, failures: int, wanted: str | None = None) -> float:
        """Seconds to wait after ``failures``, or ``wanted`` by the server if longer, capped.

        >>> [Retry().pause_s(n) for n in (1, 2, 3, 9)], Retry().pause_s(1, "7")
        ([0.5, 1.0, 2.0, 30.0], 7.0)
        """
        asked = float(wanted) if wanted and wanted.isdecimal() else 0.0
        return min(max(self.first_s * 2.0 ** (failures - 1), asked), self.longest_s)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server reports about itself."""

    version: str
    models: tuple[str, ...]
    adapters: tuple[str, ...]
    caches_prefixes: bool


@dataclass
class Replica:
    """One server: its address, how to ask it, and its adapters."""

    url: str
    """Without a slash at its end, and without ``/v1``."""
    client: httpx.AsyncClient = field(repr=False)
    key: str = field(default="", repr=False)
    rank: int = 1
    """The smallest ``--max-lora-rank`` that the server needs."""
    retry: Retry = field(default_factory=Retry)
    registered: set[str] = field(default_factory=set)
    """Names of adapters that the server is believed to hold."""

    async def look(self) -> Shown:
        """Ask the server for its health, version, models, adapters and prefix cache.

        Raises:
            GoneError: the server is not healthy.
            UsageError: it refuses the key, or is not a vLLM server.
        """
        await self._ask("GET", "/health")
        version = await self._ask("GET", "/version")
        models = await self._ask("GET", "/v1/models")
        metrics = await self._ask("GET", "/metrics", optional=True)
        try:
            names, adapters = vllm_messages.served_names(models)
        except MessageError as error:
            raise UsageError(f"{self.url} is no vLLM server: {error}") from None
        caches = vllm_messages.caches_prefixes(metrics.get("text", ""))
        return Shown(str(version.get("version")), tuple(names), tuple(adapters), caches)

    async def register(self, name: str, path: str) -> None:
        """Have the server load an adapter's files under a new name."""
        body = {"lora_name": name, "lora_path": path}
        await self._ask("POST", "/v1/load_lora_adapter", body)
        self.registered.add(name)

    async def unregister(self, name: str) -> None:
        """Have the server unload an adapter; an adapter it has already lost is no error."""
        self.registered.discard(name)
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, optional=True)

    async def complete(self, row: Row, decoding: Decoding) -> RowAnswer:
        """Have a row answered.

        Raises:
            GoneError: no whole answer after all tries, or the server has lost the adapter.
            UsageError: the server refuses the request or the key.
        """

        def read(reply: httpx.Response) -> RowAnswer:
            return vllm_messages.read_completion(_read(reply), row, decoding)

        request = vllm_messages.completion_request(row, decoding)
        found: RowAnswer = await self._ask("POST", "/v1/completions", request, read=read)
        return found

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        optional: bool = False,
        read: Callable[[httpx.Response], Any] | None = None,
    ) -> Any:
        """One request with its retries; a reply that ``read`` cannot read is requested again.

        ``optional``: return ``{}`` if the server does not know the path or the adapter.
        """
        failures, why = 0, ""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers["Accept-Encoding"] = "identity"
        while failures < self.retry.tries:
            wanted = None
            try:
                reply = await _exchange(self.client, method, f"{self.url}{path}", body, headers)
            except httpx.HTTPError as error:
                why = type(error).__name__
            except OverflowError:
                why = f"a reply of more than {REPLY_BYTES:,} bytes at {path}"
            else:
                if reply.status_code == 200:
                    try:
                        return (read or _read)(reply)
                    except MessageError as error:
                        why = str(error)
                elif optional and reply.status_code in (400, 404, 405):
                    return {}
                elif failures and "already been loaded" in reply.text:
                    return {}  # an earlier try loaded it, but its reply was lost
                elif reply.status_code not in PASSING:
                    raise self._refusal(reply, path, body)
                else:
                    wanted = reply.headers.get("Retry-After")
                    why = f"HTTP {reply.status_code} at {path}"
            failures += 1
            if failures < self.retry.tries:
                await self.retry.sleep(self.retry.pause_s(failures, wanted))
        raise GoneError(f"{self.url}: {why}, {failures} times")

    def _refusal(self, reply: httpx.Response, path: str, body: Any) -> Exception:
        """The error for a status code that no retry can help."""
        code, message = reply.status_code, ""
        if code in (401, 403):
            return UsageError(f"{self.url} refuses the key (HTTP {code}); check ${ENGINE_KEY}")
        with suppress(MessageError):
            message = vllm_messages.error_text(_read(reply))
        message = outgoing.hide_keys(message, self.key) or "no reason"
        known = f"{self.url} refuses {path} (HTTP {code}: {message})"
        if code == 404 and path == "/v1/completions" and body["model"] in self.registered:
            self.registered.clear()
            return GoneError(f"{self.url} has lost its adapters")
        if path != "/v1/load_lora_adapter":
            return UsageError(known)
        if "rank" in message:
            return UsageError(f"{known}; start it with --max-lora-rank {self.rank} or more")
        if "No adapter" in message:
            return UsageError(f"{known}; let it read engine.adapters, under the same path")
        return UsageError(
            f"{known}; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        )


async def _exchange(
    client: httpx.AsyncClient, method: str, url: str, body: Any, headers: Mapping[str, str]
) -> httpx.Response:
    """Send a request and read the whole reply.

    Raises:
        httpx.HTTPError: the server is unreachable, stops in the middle, or packs its reply.
        OverflowError: the reply is longer than `REPLY_BYTES`.
    """
    async with client.stream(method, url, json=body, headers=dict(headers)) as reply:
        if "content-encoding" in reply.headers:  # a small packed reply could unpack to any size
            raise httpx.DecodingError("a packed reply, though none was accepted")
        parts, size = [], 0
        async for part in reply.aiter_bytes(2**16):
            size += len(part)
            if size > REPLY_BYTES:
                raise OverflowError
            parts.append(part)
    return httpx.Response(reply.status_code, headers=reply.headers, content=b"".join(parts))


def _read(reply: httpx.Response) -> dict[str, Any]:
    """A reply's JSON object; a reply that is not JSON becomes ``{"text": …}``."""
    if "json" not in reply.headers.get("Content-Type", ""):
        return {"text": reply.text}
    with suppress(ValueError, RecursionError):
        found = json.loads(reply.content)
        if isinstance(found, dict):
            return found
    raise MessageError("half a reply")
