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
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from szpo.baselines import dpo, grpo, notebook_dpo, reward_model, rloo, sft, simpo
from szpo.baselines.actor import Actor
from szpo.baselines.questions import Preferences, Task
from szpo.models import loading
from szpo.models.loading import Loaded
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


def test_the_size_on_smollm2() -> None:
    # Per layer r · (in + out): q 1152, k and v 768 each, gate and up 2112 each, down 2112, so
    # 9,024 · 32 = 288,768; of 30 layers 8,663,040; head 32 · (576 + 49,152) = 1,591,296.
    shape = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    assert notebook_dpo.trainable(on_meta(shape)) == 8_663_040 + 1_591_296 == 10_254_336
    assert by_peft(on_meta(shape)) == 10_254_336


def test_the_size_on_mistral_7b() -> None:
    # q 8192, k and v 5120 each, gate, up, down 18,432 each: 73,728 · 32 = 2,359,296 per layer,
    # of 32 layers 75,497,472; head 32 · (4,096 + 32,000) = 1,155,072.
    shape = MistralConfig(
        vocab_size=32_000, hidden_size=4_096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, sliding_window=None,
    )  # fmt: skip
    assert notebook_dpo.trainable(on_meta(shape)) == 75_497_472 + 1_155_072 == 76_652_544
    assert by_peft(on_meta(shape)) == 76_652_544


def test_the_recipe_is_the_notebooks() -> None:
    recipe = notebook_dpo.RECIPE
    assert (recipe.beta, recipe.steps, recipe.learning_rate) == (0.1, 50, 2e-5)
    assert (recipe.batch, recipe.accumulation, recipe.schedule) == (1, 4, "cosine")
    assert (recipe.optimizer, recipe.max_length, recipe.prompt_tokens) == (
        "paged_adamw_8bit", 256, 128,
    )  # fmt: skip
    config = notebook_dpo.lora()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (
        32,
        64,
        0.05,
        "none",
    )
    attention, forward = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert set(config.target_modules) == attention | forward | {"lm_head"}  # and no o_proj
    assert config.task_type == "CAUSAL_LM"
    # The type that 4 bits have where none is named, bfloat16 in the arithmetic.
    assert (notebook_dpo.QUANTIZATION, notebook_dpo.DTYPE) == ("fp4", "bf16")
    # The adapter has its dropout, and DPO switches it off as TRL then did and does.
    assert (recipe.dropout, recipe.disable_dropout) == (0.05, True)


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A small Llama in 4 bits, as bitsandbytes loads it from a folder."""
    folder: Path = tmp_path_factory.mktemp("four-bit")
    build("llama", hidden=64).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return loading.load(str(folder), dtype="bf16", quantization="fp4")


def test_its_steps_run_on_a_4_bit_base_and_move_the_head_too(four_bit: Loaded) -> None:
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
def test_adapters_stay_fp32_on_a_4_bit_base(
    four_bit: Loaded, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_reward_model_stays_fp32_on_a_4_bit_base(four_bit: Loaded) -> None:
    recipe = reward_model.Recipe(steps=2, batch=4, rank=2, learning_rate=1e-7)
    model, trained = reward_model.train(four_bit, Preferences(pairs()[:4]), recipe, seed=0)
    assert trained.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert 0 < np.abs(model.head).max() < 5e-7
    again = model([pairs()[0].prompt], [pairs()[0].chosen])
    assert again == model([pairs()[0].prompt], [pairs()[0].chosen])
