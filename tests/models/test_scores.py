"""Score vectors against what they are defined as, on tiny models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig

from szpo.errors import RunError
from szpo.models import logprobs, scores
from szpo.models.batched_lora import AdaptedModel, attach_deltas, find_sites
from szpo.models.logprobs import Sample
from szpo.models.scores import ScoredLaw
from tests.support import tiny_models
from tests.support.scoring import SAMPLES, by_rows, deltas, parts


def alone(model: torch.nn.Module, sample: Sample, temperature: float) -> torch.Tensor:
    """log π(answer | prompt) by the definition: one row, no padding, no cleverness."""
    ids = torch.tensor([[*sample.prompt, *sample.answer]])
    logits = model(input_ids=ids).logits[0].double() / temperature
    logp = logits.log_softmax(-1)
    first = len(sample.prompt) - 1
    return sum((logp[first + t, token] for t, token in enumerate(sample.answer)), torch.zeros(()))


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_score_is_the_gradient_of_the_answers_log_probability(name, rank):
    model, sites, start = parts(name, rank)
    found = scores.score_vectors(AdaptedModel(model, sites), start, SAMPLES, temperature=0.8)
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


def test_a_score_does_not_depend_on_its_batch():
    model, sites, start = parts("llama")
    together = scores.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    one = [scores.score_vectors(AdaptedModel(model, sites), start, [s])[0] for s in SAMPLES]
    np.testing.assert_allclose(together, one, rtol=2e-4, atol=1e-5)


def test_scores_are_taken_at_the_start_not_at_zero():
    model, sites, start = parts("llama")
    moved = {n: v + np.float32(0.3) if n.endswith("lora_B") else v for n, v in start.items()}
    a = scores.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    b = scores.score_vectors(AdaptedModel(model, sites), moved, SAMPLES)
    assert np.abs(a - b).max() > 1e-3


def test_scores_that_are_not_finite_are_an_error():
    model, sites, start = parts("llama")
    start = {**start, sites[0].a: np.full_like(start[sites[0].a], math.inf)}
    with pytest.raises(RunError, match="4 of 4 score vectors are not finite"):
        scores.score_vectors(AdaptedModel(model, sites), start, SAMPLES)


# --- one pass for all rows, against a tape through B of every row --------------------------------


@pytest.mark.parametrize(
    ("name", "targets", "rank", "moved"),
    [
        ("llama", ["down_proj"], 1, False),
        ("llama", ["q_proj", "v_proj", "o_proj", "down_proj"], 2, True),
        ("mistral", ["up_proj", "o_proj"], 1, True),
        ("qwen2", ["k_proj", "down_proj"], 3, False),
        ("gpt2", ["c_attn", "mlp.c_proj"], 1, True),
        ("gemma2", ["down_proj"], 1, False),  # a soft cap after the head
    ],
)
def test_captured_outputs_give_the_scores_of_the_tape(name, targets, rank, moved):
    model = tiny_models.build(name)
    lora = LoraConfig(r=rank, lora_alpha=3, target_modules=targets, layers_to_transform=[1, 2, 3])
    sites = find_sites(model, lora)
    rng = np.random.default_rng(7)
    start = {s.a: rng.normal(size=(rank, s.inputs)).astype(np.float32) / s.inputs for s in sites}
    for s in sites:
        start[s.b] = (moved * 0.2 * rng.normal(size=(s.outputs, rank))).astype(np.float32)
    assert logprobs.head_is_plain(model) == (name != "gemma2")
    many = [
        Sample(tuple(rng.integers(1, 300, rng.integers(1, 12))),
               tuple(rng.integers(1, 300, rng.integers(1, 7))), i)
        for i in range(13)
    ]  # fmt: skip
    wanted = by_rows(model, sites, start, many, 0.7)
    found = scores.score_vectors(
        AdaptedModel(model, sites), start, many, temperature=0.7, tokens=40
    )
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_bf16_scores_are_those_of_the_tape_within_its_rounding():
    """Both round activations to 8 bits; they differ by no more than either does from fp32."""
    model, sites, start = parts("llama")
    exact = by_rows(model, sites, start, SAMPLES, 1.0)
    model.to(torch.bfloat16)
    tape = by_rows(model, sites, start, SAMPLES, 1.0)
    found = scores.score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    off = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (tape, found)]
    assert off[1] < 1.2 * off[0] < 0.2


# --- words drawn anew ----------------------------------------------------------------------------


def redrawn(law: ScoredLaw, samples: list[Sample], tokens: int = 4096) -> np.ndarray:
    model, sites, start = parts("llama")
    found = np.empty((len(samples), 1 + law.redraws, scores.width_of(sites)), np.float32)
    adapted = AdaptedModel(model, sites)
    for index, some in scores.iterate_scores(adapted, start, samples, law, tokens=tokens):
        found[index] = some
    return found


def test_redraws_are_named_by_the_seed_and_the_sample_whatever_the_batch():
    law = ScoredLaw(redraws=3, seed=5)
    found = redrawn(law, SAMPLES)
    np.testing.assert_allclose(redrawn(law, SAMPLES, tokens=1), found, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 0], redrawn(ScoredLaw(), SAMPLES)[:, 0], atol=1e-5)
    other = redrawn(ScoredLaw(redraws=3, seed=6), SAMPLES)
    assert np.abs(other[:, 1:] - found[:, 1:]).max() > 0.02


def test_redraws_of_one_word_have_the_fisher_matrix_of_its_law():
    """F = Σ_y π(y) s_y s_yᵀ over all 320 words; 2,000 redraws estimate it along any direction."""
    model, sites, start = parts("llama")
    prompt = (5, 9, 11)
    every = [Sample(prompt, (word,)) for word in range(tiny_models.WORDS)]
    s = scores.score_vectors(AdaptedModel(model, sites), start, every).astype(np.float64)
    with torch.no_grad():
        p = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    fisher = (p[:, None] * s).T @ s
    drawn = redrawn(ScoredLaw(redraws=20), [Sample(prompt, (7,))] * 100)[:, 1:]
    drawn = drawn.reshape(2000, -1).astype(np.float64)
    for v in np.linalg.eigh(fisher)[1][:, -3:].T:
        squares = (drawn @ v) ** 2
        error = squares.std() / math.sqrt(len(squares))
        assert abs(squares.mean() - v @ fisher @ v) < 4 * error
        assert abs((drawn @ v).mean()) < 4 * math.sqrt(squares.mean() / len(squares))
