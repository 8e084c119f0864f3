"""The settings of the RLHF notebook's DPO run, in the names of current libraries.

Its base is Mistral-7B-Instruct-v0.2 in 4 bits; any other model of szpo can be used.
docs/baselines.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.training_args import OptimizerNames

from szpo.baselines.dpo import Recipe

QUANTIZATION = "fp4"
"""bitsandbytes' default if only ``load_in_4bit`` is set; no double quantisation."""
DTYPE = "bf16"
"""Dtype of computations: ``bnb_4bit_compute_dtype``."""
TARGETS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
RANK, ALPHA, DROPOUT = 32, 64, 0.05

RECIPE = Recipe(
    beta=0.1,
    learning_rate=2e-5,
    steps=50,
    batch=1,
    accumulation=4,
    schedule="cosine",
    optimizer=OptimizerNames.PAGED_ADAMW_8BIT,
    dropout=DROPOUT,
    disable_dropout=True,
    max_length=256,
    prompt_tokens=128,
)


def lora(**changes: Any) -> Any:
    """The notebook's ``peft.LoraConfig``: rank 32, α 64, seven targets, no bias."""
    from peft import LoraConfig

    settings: Mapping[str, Any] = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": DROPOUT,
        "bias": "none",
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**{**settings, **changes})
