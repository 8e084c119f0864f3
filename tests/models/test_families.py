"""Models of the families that people have, decoded, tuned and exported, against transformers."""

from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from szpo.errors import RunError, UsageError
from szpo.models import loading
from szpo.models.flat_attention import flat_attention
from szpo.policies import text_guards
from szpo.types import Answer, Prompt
from tests.support import families
from tests.support.families import FAMILIES

SYSTEM = Prompt((("system", "Be brief."), ("user", "Hi")))


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_decoded_and_read_as_by_transformers(name, tmp_path, capfd):
    family = FAMILIES[name]
    made = families.decode(families.write(name, tmp_path))
    assert capfd.readouterr().err == ""
    assert (made.engine, made.equal) == (family.engine, made.rows) and made.worst < 1e-4
    loaded = loading.load(str(tmp_path), dtype="fp32")
    loaded.tokenizer.szpo_day = date(2026, 1, 2)
    ids = loading.encode(loaded.tokenizer, Prompt.user("Hi"))
    assert ids.count(1) == family.first  # never doubled
    text = loaded.tokenizer.decode(ids)
    assert ("02 Jan 2026" in text) == bool(family.head)
    assert ("<think></think>" in text) == (family.think == families.QUIET)
    assert loading.end_token(loaded) == (5 if family.template else 2)
    if family.system == families.REFUSED:
        with pytest.raises(UsageError, match="template refuses the prompt: no system turn"):
            loading.encode(loaded.tokenizer, SYSTEM)
    else:
        assert "Be brief." in loaded.tokenizer.decode(loading.encode(loaded.tokenizer, SYSTEM))


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
def test_each_familys_states_and_gradient_are_those_of_plain_passes(name, tmp_path):
    folder = families.write(name, tmp_path)
    if name == "Gemma 2":  # it squeezes its logits
        with pytest.raises(UsageError, match="take the best of several answers"):
            families.force(folder)
        return
    states, gradient = families.force(folder)
    assert states < 1e-5 and gradient < 1e-4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name == "Gemma 3" else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_each_family_takes_votes_and_leaves_as_adapter_and_merged(name, tmp_path):
    moved, off = families.vote_and_export(families.write(name, tmp_path / "model"))
    assert moved > 1e-3 > 10 * off


@pytest.mark.parametrize("kind", ["sliding_attention", "chunked_attention"])
def test_layers_that_look_back_in_an_unknown_way_are_refused(kind):
    q = torch.zeros(1, 1, 1, 4)
    module = SimpleNamespace(layer_idx=0, config=SimpleNamespace(layer_types=[kind]))
    with pytest.raises(RunError, match=kind):  # the trial then leaves the model to `generate`
        flat_attention(module, q, q, q, None)


def test_answers_without_a_token_have_figures():
    """A model that says nothing, of which log-probabilities per token would be nan."""
    found = text_guards.measure(Silent(), [SYSTEM] * 3, [[Answer("", "length", 0)]] * 3, seed=0)
    assert (found.logprob, found.tokens) == (0.0, 0.0)


class Silent:
    def logprob_base(self, prompts, answers):
        return np.full(len(answers), np.nan)
