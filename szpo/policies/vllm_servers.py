"""Requests to vLLM servers: adapters by name, one request per row, each chunk to whoever is free.

szpo uses these parts of vLLM's OpenAI-compatible server: ``/v1/completions`` with a prompt of
tokens, ``return_token_ids`` and ``logprobs``; ``/v1/models``; and ``/metrics``.

OpenAI's client repeats what may pass. A server that is then still silent or broken, or has lost
its adapters, is checked again, and its chunk goes to another. Adapters are loaded and unloaded
only while a server answers none of the run's rows (vllm-project/vllm #47724).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import openai

from szpo import keyed_requests
from szpo.config.tables import Engine
from szpo.errors import EngineError, IntegrityError, RunError, UsageError
from szpo.keyed_requests import ENGINE_KEY
from szpo.models.sampling import Sampling

T = TypeVar("T")
TRIES = 5
"""Requests until a server counts as gone; OpenAI's client waits between them."""
REACH_S, SILENCE_S, PATIENCE_S = 5.0, 900.0, 1200.0
"""Longest wait for a connection, for a chunk from a server, and for a chunk from any server."""
RETURN_S, LONGEST_S = 2.0, 30.0
"""First and longest pause before a server that was gone is checked again."""
LOST = 3
"""The run stops once this many servers were lost on one chunk."""
PASSING = (408, 409, 425, 429)
"""HTTP status codes below 500 that may pass."""
REPLY_BYTES = 16 * 2**20
"""Longest reply that is read; a row's reply has kilobytes."""


class MessageError(Exception):
    """A reply is incomplete, or is not the expected kind of reply."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row to answer: the model's or adapter's name on the server, prompt tokens, and seed."""

    model: str
    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The new tokens of a row, with the end token if any, and the log-probability of each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """In nats, as reported by the server, before temperature, top-p and top-k are applied."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding settings that all rows of a request share."""

    sampling: Sampling
    stop_tokens: tuple[int, ...]
    words: int
    """Size of the vocabulary."""
    wordless: tuple[int, ...] = ()
    """Tokens that are never drawn, see `AdaptedModel`."""


def completion_request(row: Row, decoding: Decoding) -> dict[str, Any]:
    """The body of ``/v1/completions`` for one row.

    Every number is given that the server would otherwise take from ``generation_config.json``.
    The model's end tokens are ignored; only the run's end an answer. A cache salt per model keeps
    the prefix caches of different adapters apart, on servers that support it.
    """
    sampling, never = decoding.sampling, decoding.wordless
    return {
        "model": row.model,
        "prompt": list(row.prompt),
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
        "seed": row.seed,
        "ignore_eos": True,
        "stop_token_ids": list(decoding.stop_tokens),
        "logprobs": 1,
        "return_token_ids": True,
        "cache_salt": row.model,
        "stream": False,
        **({"logit_bias": dict.fromkeys(map(str, never), -100)} if never else {}),
    }


def read_completion(body: Any, row: Row, decoding: Decoding) -> RowAnswer:
    """The answer in a reply of ``/v1/completions``."""
    try:
        (choice,) = body["choices"]
        tokens = tuple(choice["token_ids"])
        logprobs = tuple(choice["logprobs"]["token_logprobs"])
        end, prompt = choice["finish_reason"], choice.get("prompt_token_ids")
    except (KeyError, TypeError, ValueError):
        raise MessageError("a reply without choice, token_ids or logprobs") from None
    if body.get("model") != row.model:
        raise MessageError("a reply in another model's name")
    if prompt is not None and tuple(prompt) != row.prompt:
        raise MessageError("a reply to another prompt")
    if not all(type(t) is int and 0 <= t < decoding.words for t in tokens):
        raise MessageError("a reply with tokens outside the vocabulary")
    if len(logprobs) != len(tokens) or not all(_is_number(p) for p in logprobs):
        raise MessageError("a reply whose log-probabilities are not one per token")
    ends = [i for i, token in enumerate(tokens) if token in decoding.stop_tokens]
    if end == "stop":
        whole = ends == [len(tokens) - 1]
    else:
        full = len(tokens) == decoding.sampling.max_new_tokens
        whole = end == "length" and full and not ends
    if not whole:
        raise MessageError(f"half an answer ({len(tokens)} tokens, end {end!r})")
    return RowAnswer(tokens, tuple(float(p) for p in logprobs))


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that fits a float; infinities are checked later."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def row_seed(uniform: float) -> int:
    """A seed in [0, 2⁵³) from a row's first uniform number, so that each row has its own.

    >>> row_seed(0.5) == 2**52
    True
    """
    return int(uniform * 2.0**53)


def served_names(body: Any) -> tuple[list[str], list[str]]:
    """Names of the models and of the adapters in a reply from ``/v1/models``.

    Raises:
        MessageError: the list cannot be read.
    """
    try:
        cards = [(str(card["id"]), bool(card.get("parent"))) for card in body["data"]]
    except (KeyError, TypeError, AttributeError):
        raise MessageError("its list of models cannot be read") from None
    return [n for n, adapter in cards if not adapter], [n for n, adapter in cards if adapter]


def caches_prefixes(metrics: str) -> bool:
    """Whether the text of ``/metrics`` says that a prefix cache is on.

    >>> caches_prefixes('vllm:cache_config_info{enable_prefix_caching="True"} 1.0')
    True
    """
    lines = re.findall(r"^vllm:cache_config_info\{(.*)\}", metrics, flags=re.MULTILINE)
    return any('enable_prefix_caching="True"' in line for line in lines)


class GoneError(Exception):
    """The server did not answer properly in any try; it may come back."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server reports about itself."""

    version: str
    models: tuple[str, ...]
    adapters: tuple[str, ...]
    caches_prefixes: bool


@dataclass(frozen=True)
class ServedChunk:
    """Rows for one server to answer, and the files of the adapters that they name."""

    rows: tuple[Row, ...]
    adapters: Mapping[str, str]
    """Each adapter's folder as the server sees it, by adapter name."""
    decoding: Decoding


@dataclass(frozen=True)
class ChunkReply:
    """The answers to a chunk, and the address of the server that gave them."""

    server: str
    answers: tuple[RowAnswer, ...]


@dataclass
class Server:
    """One server: its address, how to ask it, and its adapters."""

    url: str
    """Without a slash at its end, and without ``/v1``."""
    key: str = field(default="", repr=False)
    rank: int = 1
    """The smallest ``--max-lora-rank`` that the server needs."""
    tries: int = TRIES
    transport: Any = field(default=None, repr=False)
    registered: set[str] = field(default_factory=set)
    """Names of adapters that the server is believed to hold."""
    version: str | None = None
    """Set once the server has been checked; None: it gets no rows."""

    def __post_init__(self) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self.key or "none",
            max_retries=self.tries - 1,
            timeout=openai.Timeout(SILENCE_S, connect=REACH_S),
            http_client=_bounded_client(self.transport),
            default_headers={"Accept-Encoding": "identity"},
            # Else the client takes these from the environment and sends them to this server.
            organization="",
            project="",
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def health(self) -> None:
        """Ask whether the server is well."""
        await self._ask("GET", "/health")

    async def look(self) -> Shown:
        """Ask the server for its health, version, models, adapters and prefix cache.

        Raises:
            GoneError: the server is not healthy.
            UsageError: it refuses the key, or is not a vLLM server.
        """
        await self.health()
        version = await self._ask("GET", "/version")
        models = await self._ask("GET", "/v1/models")
        metrics = await self._ask("GET", "/metrics", optional=True)
        try:
            names, adapters = served_names(models)
        except MessageError as error:
            raise UsageError(f"{self.url} is no vLLM server: {error}") from None
        number = version.get("version") if isinstance(version, dict) else None
        caches = caches_prefixes(str(metrics))
        return Shown(str(number), tuple(names), tuple(adapters), caches)

    async def register(self, name: str, path: str) -> None:
        """Have the server load an adapter's files under a new name."""
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        self.registered.add(name)

    async def unregister(self, name: str) -> None:
        """Have the server unload an adapter; an adapter it has already lost is no error."""
        self.registered.discard(name)
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, optional=True)

    async def complete(self, row: Row, decoding: Decoding) -> RowAnswer:
        """Have a row answered.

        Raises:
            GoneError: no whole answer, or the server has lost the adapter.
            UsageError: the server refuses the request or the key.
        """
        request = completion_request(row, decoding)
        reply = await self._ask("POST", "/v1/completions", request)
        try:
            return read_completion(reply, row, decoding)
        except MessageError as error:
            raise GoneError(f"{self.url}: {error}") from None

    async def answer(self, chunk: ServedChunk) -> ChunkReply:
        """Load missing adapters, then ask for all rows at once; one failure cancels all others."""
        for name, path in chunk.adapters.items():
            if name not in self.registered:
                await self.register(name, path)
        try:
            async with asyncio.TaskGroup() as rows:
                asked = (self.complete(row, chunk.decoding) for row in chunk.rows)
                tasks = [rows.create_task(each) for each in asked]
        except ExceptionGroup as group:  # the first failure cancelled the other rows
            raise group.exceptions[0] from None
        return ChunkReply(self.url, tuple(task.result() for task in tasks))

    async def _ask(
        self, method: str, path: str, body: Any = None, *, optional: bool = False
    ) -> Any:
        """A reply's JSON value, or else its text; "" if ``optional`` and it is not known."""
        try:
            if method == "GET":
                return await self._client.get(path, cast_to=object)
            return await self._client.post(path, cast_to=object, body=body)
        except openai.APIStatusError as error:
            code = error.status_code
            if optional and code in (400, 404, 405):
                return ""
            message = keyed_requests.error_text(error.body)
            # vLLM 0.32 says 500 of an adapter of a higher rank than it takes.
            if (code in PASSING or code >= 500) and "max_lora_rank" not in message:
                raise self._gone(f"HTTP {code} at {path}") from None
            if path == "/v1/load_lora_adapter" and "already been loaded" in message:
                return ""  # an earlier try loaded it, but its reply was lost
            raise self._refusal(code, message, path, body) from None
        except openai.APIConnectionError as error:
            why = type(error.__cause__ or error).__name__
            raise self._gone(f"{why} at {path}") from None
        except (openai.OpenAIError, ValueError, RecursionError):
            raise GoneError(f"{self.url}: half a reply at {path}") from None

    def _gone(self, why: str) -> GoneError:
        times = f", {self.tries} times" if self.tries > 1 else ""
        return GoneError(f"{self.url}: {why}{times}")

    def _refusal(self, code: int, message: str, path: str, body: Any) -> Exception:
        """The error for a status code that no retry can help."""
        if code in (401, 403):
            return UsageError(f"{self.url} refuses the key (HTTP {code}); check ${ENGINE_KEY}")
        message = keyed_requests.hide_keys(message, self.key) or "no reason"
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


def _bounded_client(transport: Any) -> Any:
    """A client that reads at most `REPLY_BYTES`, uncompressed and past all proxies."""
    more = {} if transport is None else {"transport": transport}
    # Else it would use proxies and passwords from the environment.
    client: Any = openai.DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False, **more)
    http = import_module(type(client).__mro__[1].__module__.partition(".")[0])  # httpx or httpx2
    plain = client.send

    async def send(request: Any, **given: Any) -> Any:
        reply = await plain(request, **{**given, "stream": True})
        content = bytearray()
        try:
            async for part in reply.aiter_raw():
                content += part
                if len(content) > REPLY_BYTES:
                    raise http.DecodingError(f"more than {REPLY_BYTES:,} bytes", request=request)
        finally:
            await reply.aclose()
        kept = {k: v for k, v in reply.headers.items() if k != "content-encoding"}
        return http.Response(
            reply.status_code, headers=kept, content=bytes(content), request=request
        )

    client.send = send
    return client


def servers_of(engine: Engine, **more: Any) -> list[Server]:
    """The settings' servers; nothing is sent yet."""
    key = os.environ.get(ENGINE_KEY, "")
    return [Server(keyed_requests.server_root(url), key, **more) for url in engine.address or []]


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a new thread, since the caller's thread may already run an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Loop:
    """An event loop in a thread of its own, since the caller's may already run one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="szpo-vllm", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end; an error here, such as an interrupt, cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel all that runs, then run ``last`` and end the thread."""

        async def end() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await last()

        try:
            self.run(end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Servers:
    """The run's servers: each is checked before it gets rows, and again after it was gone."""

    def __init__(
        self,
        servers: Sequence[Server],
        canary: Callable[[], ServedChunk],
        check: Callable[[Shown, ChunkReply], str | None],
        remove: Callable[[Sequence[str]], None],
        *,
        rows: int,
    ):
        """Nothing is sent yet.

        ``canary`` makes a canary chunk whose adapters have new names. From what a server reports
        and its answers to that, ``check`` returns what is wrong with it, before it gets rows.
        ``remove`` removes the files of adapters that no server needs any more. ``rows``: the most
        requests that a server gets at once, those of a chunk.
        """
        self._servers = list(servers)
        self._canary, self._check, self._remove = canary, check, remove
        self.rows = rows
        self._loop = Loop()
        self._canaries: dict[str, asyncio.Task[tuple[Shown, ChunkReply]]] = {}
        """What servers were asked before they get rows, by address, and have not answered."""

    def gather(self, chunks: Sequence[ServedChunk]) -> list[ChunkReply]:
        """Have all chunks answered, in their order; then their adapters are removed.

        Raises:
            EngineError: no server answers.
            IntegrityError: a server is not the run's.
            RunError: a chunk ended several servers.
            UsageError: a server refuses a request.
        """
        return self._loop.run(self._gather(chunks))

    def close(self) -> None:
        """Give up the servers."""

        async def close() -> None:
            for server in self._servers:
                await server.close()

        with suppress(Exception):  # a connection that is already broken
            self._loop.close(close)

    async def _gather(self, chunks: Sequence[ServedChunk]) -> list[ChunkReply]:
        todo: asyncio.Queue[int] = asyncio.Queue()
        for i in range(len(chunks)):
            todo.put_nowait(i)
        replies: dict[int, ChunkReply] = {}
        lost: Counter[int] = Counter()
        clock = asyncio.get_running_loop().time

        async def serve(server: Server) -> None:
            while len(replies) < len(chunks):
                await self._admit(server)
                i = await todo.get()
                try:
                    async with asyncio.timeout(SILENCE_S):
                        replies[i] = await server.answer(chunks[i])
                except (GoneError, TimeoutError) as error:
                    why = str(error) or f"{server.url}: no answer for {SILENCE_S:.0f} s"
                    server.version = None
                    lost[i] += 1
                    if lost[i] == LOST:
                        raise RunError(
                            f"{LOST} workers were lost on one chunk of rows; the last one: {why}"
                        ) from None
                    logging.getLogger("szpo").warning(f"{why}; its rows go to the other servers")
                    todo.put_nowait(i)
                else:
                    patience.reschedule(clock() + PATIENCE_S)
            for task in tasks:
                if task is not asyncio.current_task():
                    task.cancel()

        try:
            async with asyncio.timeout(PATIENCE_S) as patience, asyncio.TaskGroup() as group:
                tasks = [group.create_task(serve(server)) for server in self._servers]
        except TimeoutError:
            raise EngineError(
                f"no server has answered for {PATIENCE_S:.0f} s, {len(chunks) - len(replies)} of "
                f"{len(chunks)} chunks are open; look at the servers, then resume the run"
            ) from None
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._retire({name for chunk in chunks for name in chunk.adapters})
        return [replies[i] for i in range(len(chunks))]

    async def _admit(self, server: Server) -> None:
        """Check a server unless it has been checked, again and again until it answers."""
        pause, told = 0.0, False
        while server.version is None:
            if (asked := self._canaries.get(server.url)) is None:
                await asyncio.sleep(pause)
                pause = min(max(2 * pause, RETURN_S), LONGEST_S)
                asked = asyncio.create_task(self._ask_canary(server, self._canary()))
                self._canaries[server.url] = asked
            try:
                shown, reply = await asyncio.shield(asked)
            except GoneError as error:
                if not told:
                    logging.getLogger("szpo").warning(f"{error}; it will be asked again")
                told = True
                continue
            finally:
                if asked.done():
                    del self._canaries[server.url]
            for other in self._servers:
                if other.version not in (None, shown.version):
                    raise IntegrityError(
                        f"{server.url} is vLLM {shown.version}, {other.url} is {other.version}; "
                        "start all servers from one version"
                    )
            if (wrong := self._check(shown, reply)) is not None:
                raise IntegrityError(f"{server.url} is not the run's: {wrong}")
            server.version = shown.version

    async def _ask_canary(self, server: Server, chunk: ServedChunk) -> tuple[Shown, ChunkReply]:
        """What a server shows of itself, and answers; the canary's adapters are gone then."""
        try:
            shown = await server.look()
            for name in server.registered.intersection(shown.adapters):
                await server.unregister(name)
            server.registered.clear()
            reply = await server.answer(chunk)
            for name in chunk.adapters:
                await server.unregister(name)
        finally:
            self._remove(list(chunk.adapters))
        return shown, reply

    async def _retire(self, names: set[str]) -> None:
        async def unload(server: Server) -> None:
            for name in sorted(server.registered & names):
                await server.unregister(name)

        # Failures are ignored here: a later request to the server meets them again.
        asked = (unload(server) for server in self._servers if server.version)
        await asyncio.gather(*asked, return_exceptions=True)
        self._remove(sorted(names))
