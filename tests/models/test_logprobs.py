"""Score vectors, layer inputs and KL against what they are defined as, on tiny models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from szpo.errors import RunError
from szpo.models import logprobs
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, find_sites
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from szpo.policies.layer_choice import lora_config
from szpo.types import Theta
from tests.support import tiny_models

SAMPLES = [
    Sample((5, 9, 11), (40, 41), 0),
    Sample((5, 8), (7, 300, 17, 2), 1),
    Sample((6, 9, 11, 12, 13, 14, 15, 16, 17, 18), (99,), 2),
    Sample((5,), (12, 2), 3),
]


def parts(name: str, rank: int = 1) -> tuple[torch.nn.Module, tuple[Site, ...], Theta]:
    model = tiny_models.build(name)
    sites = find_sites(model, lora_config(model, rank=rank, layers=(1, 2)))
    rng = np.random.default_rng(0)
    start = {}
    for s in sites:
        start[s.a] = rng.normal(size=(s.rank, s.inputs)).astype(np.float32) / s.inputs
        start[s.b] = np.zeros((s.outputs, s.rank), np.float32)
    return model, sites, start


def deltas(sites: tuple[Site, ...], start: Theta, b: Theta) -> Deltas:
    return Deltas(
        {s.name: torch.from_numpy(start[s.a]) for s in sites},
        {s.name: torch.from_numpy(b[s.b])[None] for s in sites},
    )


def alone(model: torch.nn.Module, sample: Sample, temperature: float) -> torch.Tensor:
    """log π(answer | prompt) by the definition: one row, no padding, no cleverness."""
    ids = torch.tensor([[*sample.prompt, *sample.answer]])
    logits = model(input_ids=ids).logits[0].double() / temperature
    logp = logits.log_softmax(-1)
    first = len(sample.prompt) - 1
    return sum((logp[first + t, token] for t, token in enumerate(sample.answer)), torch.zeros(()))


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_score_is_the_gradient_of_the_answers_log_probability(name: str, rank: int) -> None:
    model, sites, start = parts(name, rank)
    found = logprobs.score_vectors(AdaptedModel(model, sites), start, SAMPLES, temperature=0.8)
    assert found.shape == (4, sum(s.outputs * rank for s in sites))
    rng = np.random.default_rng(1)
    step = 1e-3
    for i, sample in enumerate(SAMPLES):
        move = {s.b: rng.normal(size=start[s.b].shape).astype(np.float32) for s in sites}
        sides = []
        for sign in (1, -1):
            b = {n: np.float32(sign * step) * v for n, v in move.items()}
            with torch.no_grad(), attach_deltas(model, sites, deltas(sites, start, b)):
                sides.append(float(alone(model, sample, 0.8)))
        slope = (sides[0] - sides[1]) / (2 * step)
        flat = np.concatenate([move[s.b].ravel() for s in sites])
        assert float(found[i] @ flat) == pytest.approx(slope, rel=2e-3, abs=2e-3)


def test_a_score_does_not_depend_on_its_batch() -> None:
    model, sites, start = parts("llama")
    together = logprobs.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    one = [logprobs.score_vectors(AdaptedModel(model, sites), start, [s])[0] for s in SAMPLES]
    np.testing.assert_allclose(together, one, rtol=2e-4, atol=1e-5)


def test_scores_are_taken_at_the_start_not_at_zero() -> None:
    model, sites, start = parts("llama")
    moved = {n: v + np.float32(0.3) if n.endswith("lora_B") else v for n, v in start.items()}
    a = logprobs.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    b = logprobs.score_vectors(AdaptedModel(model, sites), moved, SAMPLES)
    assert np.abs(a - b).max() > 1e-3


def test_the_mean_score_of_the_policys_own_answers_is_zero() -> None:
    """E_y[∇ log π(y)] = 0, here exactly: one-token answers weighted by their probability."""
    model, sites, start = parts("qwen2")
    prompt = (5, 9, 11)
    every = [Sample(prompt, (word,)) for word in range(tiny_models.WORDS)]
    found = logprobs.score_vectors(AdaptedModel(model, sites), start, every)
    with torch.no_grad():
        p = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    scale = np.sqrt((p[:, None] * found**2).sum(0)).max()
    assert np.abs(p @ found).max() < 1e-4 * scale


def test_kl_of_one_token_is_that_of_the_next_words() -> None:
    """Σ p (log p − log q) of the two distributions, whatever word was drawn."""
    model, sites, start = parts("llama")
    rng = np.random.default_rng(2)
    b = {s.b: rng.normal(size=start[s.b].shape).astype(np.float32) for s in sites}
    member = deltas(sites, start, b)
    rows = [Sample((5, 9, 11), (40,)), Sample((5, 8), (7,))]
    found = logprobs.kl_of_members(
        AdaptedModel(model, sites), member, rows, [0, 0], temperature=1.5
    )
    for sample, value in zip(rows, found, strict=True):
        ids = torch.tensor([sample.prompt])
        with torch.no_grad():
            q = (model(ids).logits[0, -1].double() / 1.5).log_softmax(-1)
            with attach_deltas(model, sites, member):
                p = (model(ids).logits[0, -1].double() / 1.5).log_softmax(-1)
        assert value == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-6)


def test_kl_of_the_reference_with_itself_is_zero() -> None:
    model, sites, start = parts("gpt2")
    rng = np.random.default_rng(3)
    b = {s.b: rng.normal(size=start[s.b].shape).astype(np.float32) for s in sites}
    same = deltas(sites, start, b)
    found = logprobs.kl_of_members(
        AdaptedModel(model, sites), same, SAMPLES, [0] * 4, reference=same
    )
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_input_directions_are_the_leading_singular_vectors_scaled_to_unit_rms() -> None:
    model, sites, _ = parts("mistral", rank=2)
    found = logprobs.input_directions(AdaptedModel(model, sites), SAMPLES)
    for site in sites:
        seen: list[torch.Tensor] = []
        module = model.get_submodule(site.name)
        handle = module.register_forward_pre_hook(lambda _m, x, seen=seen: seen.append(x[0][0]))
        with torch.no_grad():
            for sample in SAMPLES:
                model(torch.tensor([[*sample.prompt, *sample.answer]]))
        handle.remove()
        X = torch.cat(seen).double().numpy()
        right = np.linalg.svd(X, full_matrices=False)[2][:2]
        A = found[site.a].astype(np.float64)
        cosines = np.abs((A / np.linalg.norm(A, axis=1, keepdims=True)) @ right.T)
        np.testing.assert_allclose(cosines, np.eye(2), atol=1e-3)
        np.testing.assert_allclose(np.sqrt(((X @ A.T) ** 2).mean(0)), 1, rtol=1e-4)
        assert (A[np.arange(2), np.abs(A).argmax(1)] > 0).all()


def test_batches_hold_every_sample_once_within_their_bounds() -> None:
    rng = np.random.default_rng(4)
    many = [
        Sample(tuple(range(1, rng.integers(2, 30))), tuple(range(1, rng.integers(2, 12))))
        for _ in range(60)
    ]
    got = list(logprobs.batches(many, device=torch.device("cpu"), vocab=50, tokens=120))
    assert sorted(i for b in got for i in b.index) == list(range(60))
    for batch in got:
        assert batch.ids.numel() <= 120 or len(batch.index) == 1
        for row, i in enumerate(batch.index):
            reported = batch.ids[row][batch.attention[row].bool()].tolist()
            assert reported == [*many[i].prompt, *many[i].answer]
            assert batch.targets[row][batch.mask[row]].tolist() == list(many[i].answer)


def test_scores_that_are_not_finite_are_an_error() -> None:
    model, sites, start = parts("llama")
    start = {**start, sites[0].a: np.full_like(start[sites[0].a], math.inf)}
    with pytest.raises(RunError, match="4 of 4 score vectors are not finite"):
        logprobs.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
