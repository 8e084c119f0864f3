"""The vLLM engine's pure parts: messages, adapters after a cast, rescoring, retries."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from szpo.errors import UsageError
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.policies import vllm_checks, vllm_servers
from szpo.policies.vllm_checks import cast_member, save_member, trusted_factors
from szpo.policies.vllm_servers import (
    Decoding,
    GoneError,
    Loop,
    MessageError,
    Row,
    Server,
    read_completion,
    run_apart,
)
from tests.support.cases import case

ROW = Row("m-1", (5, 6), 7)
DECODING = Decoding(Sampling(max_new_tokens=3, top_p=0.5), (2,), 50)


def reply(
    tokens: list[Any], end: str | None = "length", logprobs: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    listed = [-0.5] * len(tokens) if logprobs is None else logprobs
    choice = {"token_ids": tokens, "logprobs": {"token_logprobs": listed}, "finish_reason": end}
    return {"model": "m-1", "choices": [{**choice, **more}]}


def test_a_request_leaves_nothing_to_the_servers_defaults():
    """The model's generation_config.json may name any of these; vLLM takes them where left out."""
    body = vllm_servers.completion_request(ROW, DECODING)
    assert json.loads(json.dumps(body)) == {
        "model": "m-1", "prompt": [5, 6], "max_tokens": 3, "min_tokens": 0, "temperature": 1.0,
        "top_p": 0.5, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1, "seed": 7, "ignore_eos": True,
        "stop_token_ids": [2], "logprobs": 1, "return_token_ids": True, "cache_salt": "m-1",
        "stream": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "end"),
    [([4, 4, 4], "length"), ([4, 2], "stop"), ([2], "stop"), ([4, 4, 2], "stop")],
)
def test_whole_answers_are_read(tokens, end):
    assert read_completion(reply(tokens, end), ROW, DECODING).tokens == tuple(tokens)


BROKEN = [
    (reply([4, 4]), "half an answer"),
    (reply([4, 4], "stop"), "half an answer"),
    (reply([4, 2, 4]), "half an answer"),
    (reply([4, 4, 4], None), "half an answer"),
    (reply([], "length"), "half an answer"),
    (reply([4, 4, 50]), "outside the vocabulary"),
    (reply([4, 4, True]), "outside the vocabulary"),
    (reply([4, 4, 4], logprobs=[-1.0]), "not one per token"),
    (reply([4, 4, 4], logprobs=[-1.0, None, -1.0]), "not one per token"),
    (reply([4, 4, 4], logprobs=[-1.0, 10**400, -1.0]), "not one per token"),
    (reply([4, 4, 4], prompt_token_ids=[5]), "another prompt"),
    ({**reply([4, 4, 4]), "model": "m-2"}, "another model's name"),
    ({"model": "m-1", "choices": []}, "without choice"),
    ({"model": "m-1"}, "without choice"),
    (reply([4], token_ids=None), "without choice"),
]


def test_what_is_no_whole_answer_is_refused():
    for body, words in BROKEN:
        with case(body, words), pytest.raises(MessageError, match=words):
            read_completion(body, ROW, DECODING)


SITES = (Site("a", 0, 3, 2, 1, 0.3), Site("b", 1, 4, 3, 2, 2.0))


def factors(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = [((s.a, (s.rank, s.inputs)), (s.b, (s.outputs, s.rank))) for s in SITES]
    return {
        name: random.normal(size=shape).astype(np.float32)
        for pair in shapes
        for name, shape in pair
    }


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_files_hold_one_rank_and_scale_and_what_is_left_after_the_cast(tmp_path, dtype):
    """The server's own cast then changes nothing: both sides compute with the same numbers."""
    exact = factors()
    member = cast_member(exact, SITES, dtype)
    save_member(tmp_path / "m", member, SITES, base="tiny")
    settings = json.loads((tmp_path / "m/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 2)
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {}
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    stored = load_file(tmp_path / "m/adapter_model.safetensors")
    mine = trusted_factors(member, SITES)
    for site in SITES:
        A = stored[f"base_model.model.{site.name}.lora_A.weight"]
        B = stored[f"base_model.model.{site.name}.lora_B.weight"]
        assert A.shape == (2, site.inputs) and B.shape == (site.outputs, 2)
        assert all(torch.equal(t, t.to(kind).float()) for t in map(torch.from_numpy, (A, B)))
        served = B @ A
        np.testing.assert_allclose(
            site.scale * mine[site.b] @ mine[site.a], served, rtol=1e-5, atol=1e-6
        )
        tolerance = {"fp32": 1e-6, "bf16": 2.0**-7, "fp16": 2.0**-9}[dtype] * 8
        np.testing.assert_allclose(
            site.scale * exact[site.b] @ exact[site.a], served, atol=tolerance
        )


def test_members_are_one_where_the_cast_makes_them_one_and_a_number_that_is_none_is_no_agreement():
    near = {name: value * np.float32(1 + 2.0**-20) for name, value in factors().items()}
    for dtype, equal in (("fp32", False), ("bf16", True)):
        digests = {cast_member(f, SITES, dtype).sha256 for f in (factors(), near)}
        assert (len(digests) == 1) == equal
    given = [np.array([-1.0, np.nan])], [np.array([-1.0, -1.0])]
    assert vllm_checks.deviation(*given) == np.inf


def test_ranks_are_those_that_a_server_takes():
    def limit(rank: int) -> int:
        return vllm_checks.require_rank([Site("a", 0, 3, 2, rank, 1.0)])

    assert [limit(r) for r in (1, 2, 8, 9, 300, 512)] == [1, 8, 8, 16, 320, 512]
    with pytest.raises(UsageError, match=r"adapter\.rank 513 is more than any vLLM server takes"):
        limit(513)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=40))
def test_every_member_of_a_chunk_is_rescored_up_to_enough_tokens(rows):
    members, lengths = [m for m, _ in rows], [n for _, n in rows]
    groups = vllm_checks.pick_rows(members, lengths)
    assert [members[group[0]] for group in groups] == list(dict.fromkeys(members))
    for group in groups:
        own = [i for i, m in enumerate(members) if m == members[group[0]]]
        assert set(group) <= set(own) and len(set(group)) == len(group)
        taken = sum(lengths[i] for i in group)
        assert taken >= vllm_checks.TOKENS or len(group) == len(own)
        assert taken - lengths[group[-1]] < vllm_checks.TOKENS  # no row more than needed


class Played:
    """A server that answers from a list, and a clock that only adds up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any, key: str = ""):
        self.answers, self.slept, self.heard = list(answers), [], []
        self.server = Server("http://x", key, 8, transport=httpx.MockTransport(self.answer))
        monkeypatch.setattr("anyio.sleep", self.sleep)
        monkeypatch.setattr("openai._base_client.random", lambda: 0.0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(request)
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, httpx.Response):
            found = httpx.Response(200, json=found)
        if not found.is_stream_consumed:
            return found
        packed = httpx.ByteStream(
            PACKED if found.headers.get("Content-Encoding") else found.content
        )
        return httpx.Response(found.status_code, headers=found.headers, stream=packed)

    def complete(self) -> Any:
        return run_apart(self.server.complete(ROW, DECODING))


WHOLE = reply([4, 4, 4])
JSON = {"Content-Type": "application/json"}
GZIP, PACKED = {"Content-Encoding": "gzip"}, gzip.compress(b"{}")


async def endless() -> AsyncIterator[bytes]:
    for _ in range(2**10):
        yield b" " * 2**16
    raise AssertionError("64 MB were read")


def test_what_may_pass_is_tried_again_at_doubled_distances_and_after_what_was_asked_for(
    monkeypatch,
):
    played = Played(
        monkeypatch,
        httpx.Response(500), httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.ConnectError("refused"), httpx.Response(200, json=WHOLE),
    )  # fmt: skip
    assert played.complete().tokens == (4, 4, 4)
    assert played.slept == [0.5, 7.0, 2.0]


@pytest.mark.parametrize(
    ("failure", "words", "tries"),
    [
        (lambda: httpx.Response(503), "HTTP 503 at /v1/completions, 5 times", 5),
        (lambda: httpx.ReadTimeout("late"), "ReadTimeout at /v1/completions, 5 times", 5),
        (lambda: reply([4]), r"half an answer \(1 tokens, end 'length'\)", 1),
        (lambda: httpx.Response(200, text="{", headers=JSON), "half a reply", 1),
        (lambda: httpx.Response(200, text="[" * 200_000, headers=JSON), "half a reply", 1),
        (lambda: httpx.Response(200, content=PACKED, headers={**JSON, **GZIP}), "half a reply", 1),
        (lambda: httpx.Response(200, content=endless()), "DecodingError at /v1/completions", 5),
    ],
)
def test_tries_are_bounded(failure, words, tries, monkeypatch):
    played = Played(monkeypatch, *[failure() for _ in range(6)])
    with pytest.raises(GoneError, match=words):
        played.complete()
    assert len(played.heard) == tries
    assert played.slept == [0.5, 1.0, 2.0, 4.0][: tries - 1]


def test_what_no_retry_mends_is_refused_at_once_without_the_key(monkeypatch):
    key = "sk-secret-secret"
    answers = [
        (401, {}, "refuses the key (HTTP 401); check $VLLM_API_KEY"),
        (400, {"error": {"message": f"bad {key}"}}, "(HTTP 400: bad [key])"),
        (422, {"message": "old\nstyle"}, "(HTTP 422: old style)"),
        (418, "tea", "(HTTP 418: tea)"),
        (418, [], "(HTTP 418: no reason)"),
    ]
    for code, body, words in answers:
        played = Played(monkeypatch, httpx.Response(code, json=body), key=key)
        with pytest.raises(UsageError) as caught:
            played.complete()
        assert words in str(caught.value) and key not in str(caught.value)
        assert played.heard[0].headers["Authorization"] == f"Bearer {key}"
        assert not played.slept
    assert key not in repr(played.server)


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (400, "LoRA rank 16 is greater than max_lora_rank 8.", "start it with --max-lora-rank 8 "),
        (500, "LoRA rank 16 is greater than max_lora_rank 8.", "start it with --max-lora-rank 8 "),
        (404, "No adapter found for /x", r"let it read engine\.adapters"),
        (404, "Not Found", "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ],
)
def test_refused_adapters_say_what_the_server_needs_and_lost_ones_mean_a_restart(
    code, message, words, monkeypatch
):
    played = Played(
        monkeypatch,
        *[httpx.Response(code, json={"error": {"message": message}})] * (5 if code == 500 else 1),
        httpx.Response(200, text="Success"), httpx.Response(404, json={}),
    )  # fmt: skip
    with pytest.raises(UsageError, match=words):
        run_apart(played.server.register("m-1", "/x"))
    run_apart(played.server.register("m-1", "/x"))
    with pytest.raises(GoneError, match="has lost its adapters"):
        played.complete()
    assert played.server.registered == set()


def test_a_loop_that_is_closed_has_cancelled_what_still_ran():
    loop, ended = Loop(), []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def last() -> None:
        ended.append("last")

    asyncio.run_coroutine_threadsafe(endless(), loop._loop)
    loop.close(last)
    assert ended == ["task", "last"]
