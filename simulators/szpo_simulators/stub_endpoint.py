"""A local stub of an OpenAI-compatible endpoint, with the faults of real ones.

A *script* makes its replies: a function of the request and the number of earlier requests.
`SCRIPTS` has judges with known biases and the known ways in which endpoints fail.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class StubReply:
    """A reply of the stub: status, headers and body, or silence until the stub is closed."""

    body: Any = None
    """Plain JSON values; a str is sent unchanged."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False


Script: TypeAlias = Callable[[Mapping[str, Any], int], StubReply]


def completion(
    text: str, *, odds: tuple[float, float] | None = None, end: str = "stop"
) -> StubReply:
    """A chat completion with one choice; ``odds`` are log-probabilities of A and B."""
    listed = [
        {"token": t, "logprob": o, "bytes": None} for t, o in zip("AB", odds or (), strict=False)
    ]
    first = {"token": "A", "logprob": -1.0, "bytes": None, "top_logprobs": listed}
    choice = {
        "index": 0,
        "finish_reason": end,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [first], "refusal": None} if odds else None,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return StubReply(
        {"id": "stub", "object": "chat.completion", "created": 0, "model": "stub",
         "choices": [choice], "usage": usage}
    )  # fmt: skip


def answers(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) of every answer in a question written by `szpo.judges.prompting`."""
    text = request["messages"][-1]["content"]
    found = re.findall(r"^Answer of (.+) to request \d+:\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [
        (label, "\n".join(line[2:] for line in quoted.splitlines())) for label, quoted in found
    ]


def longer(request: Mapping[str, Any], _: int) -> StubReply:
    """Reply for the set with more characters: a judge without a position bias."""
    sizes: dict[str, int] = {}
    for label, text in answers(request):
        sizes[label] = sizes.get(label, 0) + len(text)
    (one, a), (other, b) = sizes.items()
    best = "tie" if a == b else one if a > b else other
    return completion(f"I counted.\nVerdict: {best}", odds=(0.02 * (a - b) - 1.0, -1.0))


def busy(times: int) -> Script:
    """A script that replies 429 to the first ``times`` requests, then as `longer`."""

    def script(request: Mapping[str, Any], before: int) -> StubReply:
        return _status(429)(request, before) if before < times else longer(request, before)

    return script


def _status(code: int) -> Script:
    return lambda _request, _before: StubReply(
        {"error": {"message": f"stub {code}"}}, code, {"retry-after-ms": "1"}
    )


SCRIPTS: dict[str, Script] = {
    "always-a": lambda _r, _n: completion("The first.\nVerdict: A", odds=(-0.1, -3.0)),
    "nonsense": lambda _r, _n: completion("Purple, mostly. Verdict pending: A? B? Who can say."),
    "longer": longer,
    "silent": lambda _r, _n: StubReply(silent=True),
    "no-choices": lambda _r, _n: StubReply(
        {"id": "stub", "object": "chat.completion", "choices": []}
    ),
    "no-text": lambda _r, _n: completion(None),  # type: ignore[arg-type]
    "other-json": lambda _r, _n: StubReply({"hello": 1}),
    "no-json": lambda _r, _n: StubReply("<html>busy</html>"),
    "cut": lambda _r, _n: completion("Verdict: A", end="length"),
    "429": _status(429),
    "500": _status(500),
    "401": _status(401),
    "404": _status(404),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client has gone
            super().handle_error(request, client_address)


class StubEndpoint:
    """Serves a script at ``url`` while it is open, and keeps the requests with their headers."""

    def __init__(self, script: Script | str):
        self.script: Script = SCRIPTS[script] if isinstance(script, str) else script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock, self._closing = threading.Lock(), threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", 0))
                asked = self.rfile.read(size)
                if len(asked) < size:  # the client has gone
                    return
                request = json.loads(asked)
                with stub._lock:
                    before = len(stub.requests)
                    stub.requests.append(request)
                    stub.headers.append({k.lower(): v for k, v in self.headers.items()})
                reply = stub.script(request, before)
                if reply.silent:
                    stub._closing.wait(LONGEST_WAIT_S)
                    self.close_connection = True
                    return
                text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                body = text.encode()
                self.send_response(reply.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        """The value for ``judge.base_url``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> StubEndpoint:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Release waiting requests and stop serving."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
