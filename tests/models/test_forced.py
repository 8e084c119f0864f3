"""Answers that a policy is forced along, against plain passes of one answer each by autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from szpo.errors import RunError, UsageError
from szpo.models import forced_answers as forcing
from szpo.models import states
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.forced_answers import Forced
from szpo.models.logprobs import Sample
from tests.support.scoring import SAMPLES, parts

TEMPERATURE, END = 0.7, 2
ASKED = [*SAMPLES[:2], Sample((5, 6), ()), *SAMPLES[2:]]


def held(sites, theta):
    tensors = {name: torch.as_tensor(value) for name, value in theta.items()}
    return Deltas(
        {s.name: tensors[s.a] for s in sites}, {s.name: tensors[s.b][None] for s in sites}
    )


def laws(model, sites, theta, sample):
    """Log-probabilities (tokens, words) at an answer's tokens."""
    with attach_deltas(model, sites, held(sites, theta)):
        logits = model(torch.tensor([sample.prompt + sample.answer])).logits[0]
    return torch.log_softmax(logits[len(sample.prompt) - 1 : -1] / TEMPERATURE, -1)


def test_gradient_nats_cost_and_states_are_those_of_plain_passes(monkeypatch):
    monkeypatch.setattr(forcing, "POSITIONS", 3)  # the head reads nine tokens in several parts
    model, sites, zero = parts("llama", rank=2)
    rng = np.random.default_rng(4)

    def near(theta, size):
        return {n: v + rng.normal(0, size, v.shape).astype(np.float32) for n, v in theta.items()}

    start = near(zero, 0.2)
    here, other = near(start, 0.1), near(start, 0.2)
    moving, weights = [sites[0].a, *(s.b for s in sites)], rng.normal(size=(len(ASKED), 2))
    adapted = AdaptedModel(model, sites, (END,))
    made = Forced(adapted, ASKED, held(sites, start), temperature=TEMPERATURE, layer=3)
    found, nats = made.gradient(here, moving, weights, cuts=(1,))
    cost = made.cost(other)

    tensors = {n: torch.tensor(v, requires_grad=n in moving) for n, v in here.items()}
    total, kl, spent = torch.zeros(()), np.zeros(len(ASKED)), np.zeros(len(ASKED))
    for i, sample in enumerate(ASKED):
        if sample.answer:
            p, p0, q = (laws(model, sites, each, sample) for each in (tensors, start, other))
            said = p[range(len(sample.answer)), list(sample.answer)]
            total = total + weights[i, 0] * said[:1].sum() + weights[i, 1] * said[1:].sum()
            kl[i], spent[i] = ((a.exp() * (a - b)).sum().item() for a, b in ((p, p0), (q, p)))
    total.backward()
    assert {*found} == {*moving} and kl[2] == nats[2] == cost[2] == 0
    np.testing.assert_allclose(nats, kl, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(cost, spent, rtol=1e-3, atol=1e-5)
    assert kl.sum() > 0.05 and abs(kl - spent).max() > 0.01
    for name, value in found.items():
        wanted = tensors[name].grad.numpy()
        np.testing.assert_allclose(value, wanted, atol=2e-3 * np.abs(wanted).max())
    words = [replace(s, answer=tuple(t for t in s.answer if t != END)) for s in ASKED]
    mean = states.mean_states(adapted, words, 3, held(sites, start))
    np.testing.assert_allclose(made.states, mean, rtol=1e-3, atol=1e-3)


def test_what_is_not_finite_or_more_than_a_product_is_refused(monkeypatch):
    model, sites, zero = parts("llama")
    made = Forced(AdaptedModel(model, sites), SAMPLES[:1])
    assert made.states is None
    with pytest.raises(RunError, match="a gradient is not finite"):
        made.gradient(zero, [sites[0].b], np.full((1, 1), np.inf))
    model, sites, _ = parts("gemma2")  # it squeezes its logits
    with pytest.raises(UsageError, match="gradients need a head that is one product"):
        Forced(AdaptedModel(model, sites), SAMPLES[:1])
