"""Requests for rows: the plan of chunks, messages, and slices of random numbers."""

import json

import numpy as np
import pytest

from szpo import seeds
from szpo.generation.sampling import Sampling, row_key
from szpo.policies.hosts import LocalHost
from szpo.policies.requests import AnswerRequest, array_to_tokens, tokens_to_array
from szpo.types import Prompt, Shift
from tests.support.policies import policy_of
from tests.support.tiny_models import loaded

SHIFTS = tuple(
    Shift(3, k, sign, 0.5, grid)
    for k, grid in enumerate((None, (300, -2, 7, 0)))
    for sign in (1, -1)
)
"""Direction 1 is none that the seed gives."""
PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 32)]


def request(rows: int = 4) -> AnswerRequest:
    """Every shift answers ``rows`` prompts; plus and minus of a direction answer the same."""
    keys = [row_key(9, shift, crn=True) for shift in SHIFTS[::2]]
    table = [(s // 2 * rows + i, s, s // 2, i) for s in range(4) for i in range(rows)]
    prompts = tuple((5, 6 + i, 7)[: 2 + i % 2] for i in range(2 * rows))
    return AnswerRequest(
        {"z": np.arange(4, dtype=np.float32)}, SHIFTS, prompts, tuple(keys), np.array(table),
        Sampling(max_new_tokens=6, stop=("end",)), canary=True,
    )  # fmt: skip


def test_uniforms_are_slices_of_each_key_s_stream():
    keys = request().keys
    whole = np.concatenate([seeds.uniform(key, 4 * 6).reshape(4, 6) for key in keys for _ in "+-"])
    assert np.array_equal(request().uniforms(), whole)
    rows = np.array([9, 2, 15])
    assert np.array_equal(request().pick(rows).uniforms(), whole[rows])


def test_chunks_hold_every_row_once_and_keep_plus_beside_minus():
    every = request()
    chunks = every.split(6)
    assert [len(rows) for rows, _ in chunks] == [6, 6, 4]
    assert sorted(row for rows, _ in chunks for row in rows) == list(range(16))
    for rows, chunk in chunks:
        prompts, members = every.row_prompts(), every.members()
        assert chunk.row_prompts() == [prompts[row] for row in rows]
        assert [chunk.shifts[m] for m in chunk.members()] == [
            every.shifts[members[row]] for row in rows
        ]
        assert chunk.canary == (len(chunk.shifts) > 1)
    assert every.split(6)[0][1].shifts == SHIFTS[:2]
    assert every.pick(np.array([], np.int64)).split(6) == []


def test_a_message_is_json_and_arrays_and_comes_back_as_it_was_tokens_as_one():
    sent = request()
    message = sent.to_message()
    assert all(isinstance(value, str | np.ndarray) for value in message.values())
    assert all(value.dtype != object for value in message.values() if not isinstance(value, str))
    json.loads(message["head"])
    found = AnswerRequest.from_message(message)
    assert found.to_message().keys() == message.keys()
    assert (found.shifts, found.prompts, found.keys, found.sampling, found.canary) == (
        sent.shifts, sent.prompts, sent.keys, sent.sampling, sent.canary,
    )  # fmt: skip
    assert np.array_equal(found.rows, sent.rows)
    assert np.array_equal(found.theta["z"], sent.theta["z"])
    size = sum(len(v) if isinstance(v, str) else v.nbytes for v in message.values())
    assert size < 2000
    for tokens in (((5, 2), (7,), (1, 2, 3)), ((), ()), ()):
        assert array_to_tokens(tokens_to_array(tokens)) == tokens


@pytest.mark.full
def test_chunks_answer_what_one_call_answers():
    base = loaded("llama")
    sampling = Sampling(max_new_tokens=10)
    whole = policy_of(base, sampling=sampling)
    parts = policy_of(base, host=LocalHost(base, chunk_rows=5))
    shifts = list(SHIFTS)
    asked = [PROMPTS[:6], PROMPTS[:6], PROMPTS[6:], PROMPTS[6:]]
    assert parts.rollout(asked, shifts, seed=4) == whole.rollout(asked, shifts, seed=4)
    assert parts.sample(PROMPTS, 3, seed=5) == whole.sample(PROMPTS, 3, seed=5)
    assert parts.sample(PROMPTS[:2], seed=5, base=True) == whole.sample(
        PROMPTS[:2], seed=5, base=True
    )
