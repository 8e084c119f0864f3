"""Mean hidden states against a plain pass of each answer alone."""

import numpy as np
import pytest
import torch

from szpo.errors import UsageError
from szpo.models import states
from szpo.models.batched_lora import AdaptedModel, attach_deltas
from szpo.models.logprobs import Sample
from tests.support.scoring import SAMPLES, deltas, parts


def one_by_one(model, samples, layer):
    """transformers' own states of one row without padding."""
    found = []
    for sample in samples:
        with torch.no_grad():
            every = model(
                torch.tensor([sample.prompt + sample.answer]), output_hidden_states=True
            ).hidden_states
        found.append(every[layer][0, len(sample.prompt) :].double().mean(0).numpy())
    return np.array(found)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("layer", [1, 3])
def test_a_state_is_the_mean_of_a_layers_output_over_the_answer(name, layer):
    model, sites, _ = parts(name)
    found = states.mean_states(AdaptedModel(model, sites), SAMPLES, layer)
    np.testing.assert_allclose(found, one_by_one(model, SAMPLES, layer), rtol=2e-4, atol=2e-4)


def test_a_starting_adapter_belongs_to_the_start():
    model, sites, start = parts("llama")
    rng = np.random.default_rng(1)
    own = deltas(sites, start, {s.b: rng.normal(size=(s.outputs, s.rank)).astype(np.float32)
                                for s in sites})  # fmt: skip
    held = AdaptedModel(model, sites)
    found = states.mean_states(held, SAMPLES, 3, own)
    with attach_deltas(model, sites, own):
        np.testing.assert_allclose(found, one_by_one(model, SAMPLES, 3), rtol=2e-4, atol=2e-4)
    assert np.abs(found - states.mean_states(held, SAMPLES, 3)).max() > 1e-2


def test_an_answer_without_tokens_has_no_state_and_a_layer_that_is_not_there_is_refused():
    model, sites, _ = parts("llama")
    held = AdaptedModel(model, sites)
    found = states.mean_states(held, [Sample((5, 6), ()), SAMPLES[0]], 2)
    assert not found[0].any() and found[1].any()
    for layer in (0, 5):
        with pytest.raises(UsageError, match="layers 1 to 4"):
            states.mean_states(held, SAMPLES, layer)
