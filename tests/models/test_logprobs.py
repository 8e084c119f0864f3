"""Layer inputs and KL against what they are defined as, on tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from szpo.errors import RunError
from szpo.models import logprobs
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, find_sites
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from tests.support import tiny_models
from tests.support.scoring import SAMPLES, deltas, parts


def test_kl_of_one_token_is_that_of_the_next_words():
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


def test_kl_of_the_reference_with_itself_is_zero():
    model, sites, start = parts("gpt2")
    rng = np.random.default_rng(3)
    b = {s.b: rng.normal(size=start[s.b].shape).astype(np.float32) for s in sites}
    same = deltas(sites, start, b)
    found = logprobs.kl_of_members(
        AdaptedModel(model, sites), same, SAMPLES, [0] * 4, reference=same
    )
    np.testing.assert_allclose(found, 0, atol=1e-5)


def kl_by_definition(
    model: Any, sites: tuple[Site, ...], members: Deltas, samples: list[Sample], owner: list[int]
) -> np.ndarray:
    """Σ_t Σ_y p (log p − log q) by two forward passes of each sample alone, in fp64."""
    found = []
    for sample, member in zip(samples, owner, strict=True):
        ids = torch.tensor([sample.prompt + sample.answer])
        one = Deltas(members.A, {name: b[member][None] for name, b in members.B.items()})
        with torch.no_grad():
            q = model(ids).logits[0].double()
            with attach_deltas(model, sites, one):
                p = model(ids).logits[0].double()
        p, q = ((x[len(sample.prompt) - 1 : -1] / 0.8).log_softmax(-1) for x in (p, q))
        found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_kl_sums_that_of_all_positions_however_few_the_head_reads_at_a_time(name, monkeypatch):
    """A plain head reads slices of all rows; one with a soft cap reads whole answers."""
    model, sites, start = parts(name)
    rng = np.random.default_rng(4)
    two = Deltas(
        {s.name: torch.from_numpy(start[s.a]) for s in sites},
        {
            s.name: torch.from_numpy(3 * rng.normal(size=(2, s.outputs, s.rank))).float()
            for s in sites
        },
    )
    owner = [0, 1, 1, 0]
    wanted = kl_by_definition(model, sites, two, SAMPLES, owner)
    assert wanted.min() > 0.005
    read: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, out: read.append(out.numel() // tiny_models.WORDS)
    )
    adapted = AdaptedModel(model, sites)
    for limit in (logprobs.KL_LOGITS, 2 * tiny_models.WORDS):
        read.clear()
        monkeypatch.setattr(logprobs, "KL_LOGITS", limit)
        found = logprobs.kl_of_members(adapted, two, SAMPLES, owner, temperature=0.8)
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
    handle.remove()
    # `head_is_plain` tries three; a row at a time has at most four.
    assert max(read[1:]) == (2 if name == "llama" else 4)


def test_an_adapted_head_counts_in_the_kl():
    """Its deltas belong to rows, so it may not read slices of all of them."""
    model = tiny_models.build("llama")
    sites = find_sites(model, LoraConfig(r=1, target_modules=["lm_head"]))
    rng = np.random.default_rng(5)
    (head,) = sites
    member = Deltas(
        {head.name: torch.from_numpy(rng.normal(size=(1, head.inputs))).float()},
        {head.name: torch.from_numpy(rng.normal(size=(1, head.outputs, 1))).float()},
    )
    wanted = kl_by_definition(model, sites, member, SAMPLES, [0] * 4)
    found = logprobs.kl_of_members(
        AdaptedModel(model, sites), member, SAMPLES, [0] * 4, temperature=0.8
    )
    assert wanted.min() > 0.005
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(("value", "says"), [(0.0, None), (float("nan"), "not finite")])
def test_inputs_that_are_zero_give_an_a_and_those_that_are_not_finite_an_error(value, says):
    model, sites, _ = parts("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(value)
    adapted = AdaptedModel(model, sites)
    if says is None:
        found = logprobs.input_directions(adapted, SAMPLES)
        assert all(np.isfinite(a).all() for a in found.values())
    else:
        with pytest.raises(RunError, match=says):
            logprobs.input_directions(adapted, SAMPLES)


def test_input_directions_are_the_leading_singular_vectors_scaled_to_unit_rms():
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


def test_batches_hold_every_sample_once_within_their_bounds():
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
