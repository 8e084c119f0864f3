"""Out of memory: half the batch, one line, the same rows."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from szpo.errors import ResourceError
from szpo.generation.flat_engine import FlatEngine
from szpo.generation.generate_engine import GenerateEngine
from szpo.generation.sampling import Sampling
from szpo.models import logprobs, scores, smaller_batches
from szpo.models.batched_lora import AdaptedModel, Deltas
from szpo.models.logprobs import Sample
from tests.support.adapted_models import adapted, questions
from tests.support.tiny_models import STOP

LINE = "out of memory with {} rows in a batch; going on with {}"


def limit_rows(monkeypatch, kind, most: int) -> None:
    """Memory for ``most`` rows decoded together."""
    name = "_decode" if kind is FlatEngine else "_generate_block"
    inner = getattr(kind, name)

    def limited(self, *args):
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("a stand-in")
        return inner(self, *args)

    monkeypatch.setattr(kind, name, limited)


@pytest.mark.parametrize("kind", [FlatEngine, GenerateEngine])
def test_generation_goes_on_with_half_the_rows_and_says_so_once(kind, caplog, monkeypatch):
    model, sites, deltas = adapted("llama")
    prompts, members = questions(count=4, repeats=2, members=3)
    draws = np.random.default_rng(0).random((24, 6))
    engine = kind(AdaptedModel(model, sites, (STOP,)))
    wanted = engine.generate(prompts, members, deltas, Sampling(max_new_tokens=6), draws)
    assert engine.halved_rows is None
    limit_rows(monkeypatch, kind, 12)
    with caplog.at_level(logging.WARNING, "szpo"):
        found = engine.generate(prompts, members, deltas, Sampling(max_new_tokens=6), draws)
        again = engine.generate(prompts, members, deltas, Sampling(max_new_tokens=6), draws)
    assert found == again == wanted
    assert engine.halved_rows == 12
    assert caplog.messages == [LINE.format(24, 12)]  # the next call begins with the small batch


def test_one_row_that_does_not_fit_is_refused_in_a_line(monkeypatch):
    model, sites, deltas = adapted("llama")
    limit_rows(monkeypatch, FlatEngine, 0)
    engine = FlatEngine(AdaptedModel(model, sites, (STOP,)))
    with pytest.raises(ResourceError, match="out of memory with one row in the batch; lower"):
        engine.generate([[5, 6]] * 3, [0, 1, 2], deltas, Sampling(), np.zeros((3, 24)))


def test_scoring_reads_the_halves_one_by_one(caplog):
    model, sites, deltas = adapted("llama")
    target = AdaptedModel(model, sites, (STOP,))
    engine = FlatEngine(target)
    prompts, members = questions(count=3, repeats=1, members=3)
    spoken = [[7 + i, 8, 9] for i in range(9)]
    samples = [Sample(tuple(p), tuple(s), 0) for p, s in zip(prompts, spoken, strict=True)]
    start = {s.a: deltas.A[s.name].numpy() for s in sites}
    start |= {s.b: deltas.B[s.name][0].numpy() for s in sites}
    one = Deltas(deltas.A, {name: b[:1] for name, b in deltas.B.items()})

    def read():
        return (
            np.stack(engine.logprobs(prompts, spoken, members, deltas)),
            logprobs.kl_of_members(target, deltas, samples, members, reference=one),
            scores.score_vectors(target, start, samples),
        )

    def refuse(_module, args, kwargs):
        if kwargs["input_ids"].shape[0] > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: a stand-in")

    wanted = read()
    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = read()
    handle.remove()
    for one_way, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(one_way, other, rtol=1e-3, atol=1e-4)
    assert caplog.messages == [LINE.format(9, 4)] * 3


def test_other_errors_are_not_caught():
    def broken(rows: int) -> int:
        raise RuntimeError("a shape does not fit")

    with pytest.raises(RuntimeError, match="shape"):
        smaller_batches.retry_halved(broken, 8)
    message = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    assert smaller_batches.is_out_of_memory(message)
    assert smaller_batches.is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not smaller_batches.is_out_of_memory(ValueError("out of memory"))
