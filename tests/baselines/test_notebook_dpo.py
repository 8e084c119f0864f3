"""The notebook's recipe: its numbers, its size on two models, and a step on a 4-bit base."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from szpo.baselines import dpo, grpo, notebook_dpo, rloo, sft, simpo
from szpo.baselines.actor import Actor
from szpo.baselines.questions import Preferences, Task
from szpo.models import loading
from tests.support.baseline_actors import PROMPTS, SHORT, pairs, tiny_actor
from tests.support.tiny_models import build, tokenizer


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def by_peft(model: Any) -> int:
    """What PEFT itself leaves to train."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tied head is meant, see there
        return int(get_peft_model(model, notebook_dpo.lora()).get_nb_trainable_parameters()[0])


def test_the_size_on_smollm2():
    # Per layer r · (in + out): q 1152, k and v 768 each, gate and up 2112 each, down 2112, so
    # 9,024 · 32 = 288,768; of 30 layers 8,663,040; head 32 · (576 + 49,152) = 1,591,296.
    shape = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    assert notebook_dpo.trainable(on_meta(shape)) == 8_663_040 + 1_591_296 == 10_254_336
    assert by_peft(on_meta(shape)) == 10_254_336


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory):
    """A small Llama in 4 bits, as bitsandbytes loads it from a folder."""
    folder: Path = tmp_path_factory.mktemp("four-bit")
    build("llama", hidden=64).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return loading.load(str(folder), dtype="bf16", quantization="fp4")


def test_its_steps_run_on_a_4_bit_base_and_move_the_head_too(four_bit):
    actor = Actor.fresh(four_bit, notebook_dpo.lora(r=4, lora_alpha=8), sampling=SHORT, seed=1)
    actor.sample(
        PROMPTS[:1], seed=0
    )  # packs the weights on some CPUs, see szpo/models/four_bit.py
    recipe = replace(notebook_dpo.RECIPE, steps=2)
    log = dpo.train(actor, Preferences(pairs()[:8]), recipe, seed=0).log
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert len(log) == 2
    moved = {n: np.abs(v - actor.start()[n]).max() for n, v in actor.theta().items()}
    assert all(moved[site.b] > 0 for site in actor.sites)
    assert any(site.name == "lm_head" for site in actor.sites)


@pytest.mark.parametrize("method", ["dpo", "simpo", "sft", "grpo", "rloo"])
def test_adapters_stay_fp32_on_a_4_bit_base(four_bit, method, monkeypatch):
    actor = tiny_actor(base=four_bit)
    start = {name: value.copy() for name, value in actor.theta().items()}
    seen: set[torch.dtype] = set()
    # Steps of 1e-7 on weights of .1: in bf16 nothing would move, and A would have been rounded.
    small = 1e-7

    def look(_: object) -> None:
        assert actor._peft is not None
        seen.update(p.dtype for p in actor._peft.parameters() if p.requires_grad)

    match method:
        case "dpo":
            dpo.train(actor, Preferences(pairs()[:4]),
                      dpo.Recipe(steps=2, batch=4, learning_rate=small),
                      seed=0, on_step=look)  # fmt: skip
        case "simpo":
            simpo.train(actor, Preferences(pairs()[:4]),
                        simpo.Recipe(steps=2, batch=4, learning_rate=small),
                        seed=0, on_step=look)  # fmt: skip
        case "sft":
            examples = [(pair.prompt, pair.chosen) for pair in pairs()[:4]]
            sft.train(actor, examples, sft.Recipe(steps=2, batch=4, learning_rate=small),
                      seed=0, on_step=look)  # fmt: skip
        case _:
            kind: Any = grpo if method == "grpo" else rloo
            prompts = [pair.prompt for pair in pairs()[:2]]
            kind.train(actor, Task(prompts, lambda p, a: [float(i % 2) for i in range(len(a))]),
                       kind.Recipe(steps=2, prompts=2, samples=2, learning_rate=small),
                       seed=0, on_step=look)  # fmt: skip
    assert seen == {torch.float32}
    most = max(float(np.abs(v - start[n]).max()) for n, v in actor.theta().items())
    assert 0 < most < 5 * small
