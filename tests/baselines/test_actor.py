"""The actor: one policy for answering and for training, fp32 whatever the base is."""

from typing import Any

import numpy as np
import pytest
import torch

from szpo.baselines import actor as actors
from szpo.baselines.actor import Actor
from szpo.errors import UsageError
from szpo.models import adapters
from szpo.models.batched_lora import find_sites
from szpo.policies.language_model import random_start
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from tests.support.baseline_actors import PROMPTS, SHORT, lora, tiny_actor
from tests.support.tiny_models import loaded, with_adapter


def push(peft: Any, size: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(4)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += size * noise.to(parameter)


def test_what_peft_computes_is_what_the_actor_answers_with():
    trained = tiny_actor()
    ids = torch.tensor([[3, 7, 8, 4, 9, 11]])
    with trained.training() as peft, torch.no_grad():
        push(peft)
        expected = peft(ids).logits.log_softmax(-1)[0]
        during = trained.sample(PROMPTS[:2], 2, seed=5)
        assert torch.equal(peft(ids).logits.log_softmax(-1)[0], expected)  # wrapped as before
    deltas = trained.deltas([trained.theta()])
    (found,) = trained.engine.logprobs([[3]], [[7, 8, 4, 9, 11]], [0], deltas)
    steps = [float(expected[i, ids[0, i + 1]]) for i in range(5)]
    assert found == pytest.approx(steps, abs=1e-5)
    assert trained.sample(PROMPTS[:2], 2, seed=5) == during
    assert during != trained.sample(PROMPTS[:2], 2, seed=5, base=True)


def test_the_base_model_comes_out_as_it_went_in():
    base = loaded("llama")
    names = {name: value.clone() for name, value in base.model.state_dict().items()}
    types = [type(module) for module in base.model.modules()]
    trained = tiny_actor(base=base)
    with trained.training() as peft:
        push(peft)
    assert [type(module) for module in base.model.modules()] == types
    assert set(base.model.state_dict()) == set(names)
    assert all(torch.equal(base.model.state_dict()[name], v) for name, v in names.items())
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training


def test_a_second_training_goes_on_from_the_first_and_an_error_keeps_the_first():
    trained = tiny_actor()
    with trained.training() as peft:
        push(peft)
    first = trained.digest()
    with trained.training():
        assert trained.digest() == first
    with pytest.raises(ValueError, match="boom"), trained.training() as peft:
        push(peft)
        raise ValueError("boom")
    assert trained.digest() == first
    with trained.training(), pytest.raises(UsageError, match="one training at a time"):
        trained.training().__enter__()


def test_beside_a_run_it_starts_where_the_run_starts():
    base = loaded("llama")
    sites = find_sites(base.model, lora("down_proj"))
    start = random_start(sites, 3)
    fixed = {site.a: start[site.a] for site in sites}
    moving = {site.b: start[site.b] for site in sites}
    zeros = {n: np.zeros((*v.shape, 4), np.float32) for n, v in moving.items()}
    subspace = Subspace("features", sites, fixed, moving, zeros)
    run = LoraPolicy(base, subspace, root_seed=0, sampling=SHORT)
    beside = Actor.beside(base, subspace, sampling=SHORT)
    assert beside.sites == run.subspace.sites
    assert all(np.array_equal(beside.theta()[name], run.factors()[name]) for name in start)
    assert beside.sample(PROMPTS[:2], 2, seed=9) == run.sample(PROMPTS[:2], 2, seed=9)


def test_the_saved_adapter_is_read_by_peft_and_by_szpo(tmp_path):
    trained = tiny_actor()
    with trained.training() as peft:
        push(peft)
    trained.save_adapter(tmp_path)
    ids = torch.tensor([[3, 7, 8, 4]])
    with trained.training() as peft, torch.no_grad():
        expected = peft(ids).logits
    with torch.no_grad():
        found = with_adapter(loaded("llama").model, tmp_path)(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    tensors = adapters.read_adapter(tmp_path).tensors
    for site in trained.sites:
        name = f"base_model.model.{site.name}.lora_B.weight"
        assert np.array_equal(tensors[name], trained.theta()[site.b])


def test_adapter_weights_are_fp32_on_a_bf16_base_and_after_a_trainer_rounded_them():
    trained = tiny_actor(base=loaded("llama", dtype=torch.bfloat16))
    with trained.training() as peft:
        push(peft)
        expected = trained.theta()
        for parameter in peft.parameters():
            if parameter.requires_grad:
                assert parameter.dtype == torch.float32
                parameter.data = parameter.data.to(torch.bfloat16)
        actors.write_weights(peft.get_base_model(), trained.sites, expected)
        again = actors.read_weights(peft.get_base_model(), trained.sites)
        assert all(np.array_equal(again[name], expected[name]) for name in expected)
