"""A stub of an OpenAI-compatible endpoint that has the faults of real ones.

A *script* makes its replies: a function of the request and the number of earlier requests.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.support.http_server import Reply, Request, serving

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
    text: str | None, *, odds: tuple[float, ...] | None = None, end: str = "stop"
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


def _status(code: int) -> Script:
    return lambda _request, _before: StubReply(
        {"error": {"message": f"stub {code}"}}, code, {"retry-after-ms": "1"}
    )


SCRIPTS: dict[str, Script] = {
    "nonsense": lambda _r, _n: completion("Purple, mostly. Verdict pending: A? B? Who can say."),
    "longer": longer,
    "silent": lambda _r, _n: StubReply(silent=True),
    "no-choices": lambda _r, _n: StubReply(
        {"id": "stub", "object": "chat.completion", "choices": []}
    ),
    "no-text": lambda _r, _n: completion(None),
    "other-json": lambda _r, _n: StubReply({"hello": 1}),
    "no-json": lambda _r, _n: StubReply("<html>busy</html>"),
    "cut": lambda _r, _n: completion("Verdict: A", end="length"),
    **{str(code): _status(code) for code in (429, 500, 401, 404)},
}


class Stub:
    """What was asked of a stub that serves at ``url``, the value for ``judge.base_url``."""

    url: str

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []


@contextlib.contextmanager
def stub_endpoint(script: Script | str) -> Iterator[Stub]:
    """Serve a script, or the one of `SCRIPTS` with this name, until the block ends."""
    chosen, stub = SCRIPTS[script] if isinstance(script, str) else script, Stub()
    lock, closing = threading.Lock(), threading.Event()

    def answer(asked: Request) -> Reply | None:
        request = json.loads(asked.body)
        with lock:
            before = len(stub.requests)
            stub.requests.append(request)
            stub.headers.append(asked.headers)
        reply = chosen(request, before)
        if reply.silent:
            closing.wait(LONGEST_WAIT_S)
            return None
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        headers = {"content-type": "application/json", "connection": "close", **reply.headers}
        return Reply(reply.status, text.encode(), tuple(headers.items()))

    with serving(answer) as root:
        stub.url = f"{root}/v1"
        try:
            yield stub
        finally:
            closing.set()
