"""The law of answers: servers against the local engine, and what rescoring notices.

Two samples of 4,096 answers each, 16 prompts × 256, of one policy off the start. Compared are the
mean log-probability per token under that policy, and a reward (the share of words of an even
number), each as the difference of means within prompts over its standard error, which is N(0, 1)
where the laws are equal. A difference is found at |z| > 3.29, so with probability .001 for either
by chance. With 4,096 answers a side the standard error is √(2/4096) = .0221 of the spread within
prompts; a difference of .125 spreads is found with probability Φ(.125/.0221 − 3.29) = .991.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.config.tables import Engine
from szpo.models import loading
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.policies import vllm_checks, vllm_engine
from szpo.policies.backend import Tokens
from szpo.policies.lora_policy import LoraPolicy
from szpo.types import Floats, Prompt, Shift
from tests.support.policies import small
from tests.support.vllm_server import VllmServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 52, 2)]
SAMPLES = 256
FOUND = 3.29


def policy_of(model: Path, dtype: Any) -> LoraPolicy:
    """A policy at half the usual radius from its start."""
    base = loading.load(str(model), dtype=dtype)
    policy = LoraPolicy(base, small(base), root_seed=5, sampling=Sampling(max_new_tokens=8))
    radius = float(parameters.round13(policy.subspace.mu(1.62) / 2))
    policy.move_to(parameters.shift(policy.space, policy.start(), Shift(0, 0, 1, radius)))
    return policy


@contextlib.contextmanager
def answered_by_a_server(policy: LoraPolicy, model: Path) -> Iterator[None]:
    server = VllmServer(model, loading.DTYPES[policy.loaded.dtype])
    engine = Engine(kind="vllm", address=[server.url], chunk_rows=256)
    here, there = policy.backend, vllm_engine.VllmBackend(policy.held, engine)
    policy.backend = there.at(policy.subspace, policy.space, run=True)
    yield
    policy.backend = here
    there.close()
    server.close()


def measures(judge: LoraPolicy, answers: Tokens) -> Floats:
    """Per answer the mean log-probability per token and the reward, (prompts, samples, 2)."""
    prompts = [judge.encode(p) for p in PROMPTS for _ in range(SAMPLES)]
    deltas = judge.deltas([judge.theta()])
    logp = judge.engine.logprobs(prompts, answers, [0] * len(prompts), deltas)
    rows = [
        (values.mean(), np.mean([token % 2 == 0 for token in answer]))
        for values, answer in zip(logp, answers, strict=True)
    ]
    return np.array(rows).reshape(len(PROMPTS), SAMPLES, 2)


def z_values(one: Floats, other: Floats) -> Floats:
    apart = one.mean(axis=1) - other.mean(axis=1)
    squares = (one.var(axis=1, ddof=1) + other.var(axis=1, ddof=1)) / SAMPLES
    found: Floats = apart.sum(axis=0) / np.sqrt(squares.sum(axis=0))
    return found


@pytest.fixture(scope="module")
def local(model):
    policy = policy_of(model, "fp32")
    return measures(policy, policy.sample_tokens(PROMPTS, SAMPLES, seed=1))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_law_is_the_local_engines(model, local, dtype):
    """In bf16 against the local engine in bf16 as well, with other random numbers throughout."""
    policy, judge = policy_of(model, dtype), policy_of(model, "fp32")
    references = [local]
    if dtype == "bf16":
        references.append(measures(judge, policy.sample_tokens(PROMPTS, SAMPLES, seed=2)))
    with answered_by_a_server(policy, model):
        answers = policy.sample_tokens(PROMPTS, SAMPLES, seed=3)
    assert len(answers) == 4096
    for reference in references:
        assert np.abs(z_values(measures(judge, answers), reference)).max() < FOUND


def test_another_law_is_found(model, local):
    """The start in place of the policy, and a temperature of 1.1 in place of 1."""
    start, warm = policy_of(model, "fp32"), policy_of(model, "fp32")
    start.move_to(start.start())
    warm.sampling = Sampling(max_new_tokens=8, temperature=1.1)
    for other in (start, warm):
        answers = other.sample_tokens(PROMPTS, SAMPLES, seed=4)
        assert np.abs(z_values(measures(policy_of(model, "fp32"), answers), local)).max() > FOUND


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_wrong_adapter_is_noticed_999_times_in_a_thousand(model, dtype):
    """At the usual radius; the wrong one is the start itself, which lies nearest to a member.

    3,072 members of a chunk, each with 4 answers there: none is missed, so by the rule of three
    the probability of a miss is below 3/3072 < .001 with confidence .95. None of as many right
    ones is refused, with the noise of the other engine on top of what was reported.
    """
    policy = policy_of(model, dtype)
    radius = float(parameters.round13(policy.subspace.mu(1.62)))
    member = parameters.shift(policy.space, policy.start(), Shift(0, 1, 1, radius))
    policy.move_to(policy.start())
    chunks = 3072
    rows = policy.sample_tokens(PROMPTS, 4 * chunks // len(PROMPTS), seed=6)
    prompts = [policy.encode(PROMPTS[i * len(PROMPTS) // len(rows)]) for i in range(len(rows))]
    both = policy.deltas([policy.start(), member])
    wrong = policy.engine.logprobs(prompts, rows, [0] * len(rows), both)
    right = policy.engine.logprobs(prompts, rows, [1] * len(rows), both)
    for chunk in range(chunks):
        own = list(range(chunk, len(rows), chunks))
        (picked,) = vllm_checks.pick_rows(["m"] * len(own), [len(rows[i]) for i in own])
        taken = [own[i] for i in picked]
        apart = vllm_checks.deviation([wrong[i] for i in taken], [right[i] for i in taken])
        assert apart > vllm_checks.TOLERANCE[dtype]
