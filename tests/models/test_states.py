"""Mean hidden states against a plain pass of each answer alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from szpo.errors import UsageError
from szpo.models import loading, states
from szpo.models.batched_lora import AdaptedModel, attach_deltas
from szpo.models.logprobs import Sample
from szpo.types import Answer, Prompt
from tests.support import tiny_models
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


def test_texts_are_read_after_their_own_prompts_and_long_ones_refused(monkeypatch):
    model = tiny_models.loaded("llama")
    asked = [("w7 w8", "w9 w10 w11"), ("w20", "w21"), ("w7", "")]
    texts = [(Prompt.user(prompt), Answer(answer)) for prompt, answer in asked]
    found = states.of_texts(model, texts, 2)
    samples = [
        Sample(loading.encode(model.tokenizer, prompt), tuple(loading.text_tokens(model, answer)))
        for prompt, answer in texts
    ]
    wanted = states.mean_states(model.adapt(), samples, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    alone = one_by_one(model.model, samples[:2], 2)
    np.testing.assert_allclose(found[:2], alone, rtol=2e-4, atol=2e-4)
    longest = max(len(each.prompt) + len(each.answer) for each in samples)
    reader = SimpleNamespace(over=lambda size: size >= longest, most=longest - 1)
    monkeypatch.setattr(loading, "reader_of", lambda loaded: reader)
    with pytest.raises(UsageError, match=f"1 of 3 answers are longer.*the longest has {longest}"):
        states.of_texts(model, texts, 2)
