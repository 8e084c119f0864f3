"""Gradients pass through 4-bit layers, also after a pass that packed their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from szpo.models import loading, scores
from szpo.models.batched_lora import AdaptedModel, find_sites
from szpo.models.four_bit import allow_gradients
from szpo.models.logprobs import Sample
from szpo.policies.language_model import random_start
from tests.support.tiny_models import build, tokenizer

IDS = torch.tensor([[3, 7, 8, 4, 9, 11]])


@pytest.fixture
def model(tmp_path):
    build("llama", hidden=64).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return loading.load(str(tmp_path), dtype="bf16", quantization="nf4").model


def gradient(model: Any) -> torch.Tensor:
    """Of a sum of logits with respect to the embedded tokens."""
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.float().square().sum().backward()
    assert embedded.grad is not None
    return embedded.grad


def packed(model: Any) -> bool:
    states = [getattr(p, "quant_state", None) for p in model.parameters()]
    return any(getattr(state, "packing_format_for_cpu", False) for state in states)


def test_gradients_are_the_same_before_and_after_the_weights_were_packed(model):
    with allow_gradients(model):
        before = gradient(model)
    with torch.inference_mode():
        model(IDS)  # where the CPU has the instructions, this packs the weights
    assert packed(model) == any(
        getattr(m, "support_avx512bf16_for_cpu", False) for m in model.modules()
    )
    with allow_gradients(model):
        assert not packed(model)
        after = gradient(model)
        with torch.inference_mode():
            model(IDS)
        assert not packed(model)
    assert torch.equal(before, after)
    assert before.abs().max() > 0


def test_scores_of_lower_layers_reach_through_4_bit_layers_above(model):
    from peft import LoraConfig

    sites = find_sites(model, LoraConfig(r=1, target_modules=["v_proj"], layers_to_transform=[3]))
    start = random_start(sites, 0)
    sample = [Sample((3, 7, 8, 4), (9, 11, 2))]
    first = scores.score_vectors(AdaptedModel(model, sites), start, sample)
    with torch.inference_mode():
        model(IDS)
    again = scores.score_vectors(AdaptedModel(model, sites), start, sample)
    # The way from v_proj to the words leads through o_proj, which is not adapted.
    assert np.abs(first).max() > 0
    assert np.array_equal(first, again)
