"""Memory and processor seconds of one step of each way to improve, beside generation alone.

    python experiments/ways_memory.py smollm2 policy       # natural, zeroth, adapters, generate
    python experiments/ways_memory.py FOLDER make          # a Llama of 1.2B random weights
    python experiments/ways_memory.py FOLDER policy --quantization nf4 --rows 8 --tokens 16

Each finds where one step would move, from answers to the same prompts, four to each, whose score
is their length. *policy*, *natural*, *zeroth* (``improve.way``) move every B of an adapter of rank
1; *adapters* is zeroth order in the weights of sixteen random ones; *generate* only draws as many
answers; *measure* draws and measures 64, as every step does afterwards. Each is a process of its
own. Printed: resident memory with the model loaded, what its peak adds, and processor seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from szpo.config.schema import Config
from szpo.data.prompts import load_configured
from szpo.improvement import score_ascent
from szpo.improvement.policy_search import WAYS
from szpo.models import loading, named_models
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.stacked_adapters import Part, stack
from szpo.policies.subspaces import Subspace, every_b
from szpo.types import Answer, Floats, Prompt, Theta
from szpo_simulators.start import MachineMeter

EACH = 4
"""Answers to a prompt."""


def main() -> None:
    """Make the model, or measure one way in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("what", choices=["make", "generate", "measure", "adapters", *WAYS])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--read", type=int, default=0, help="further tokens of a prompt, some")
    parser.add_argument("--quantization", choices=["nf4", "fp4"])
    given = parser.parse_args()
    if given.what == "make":
        make(Path(given.model))
        return
    loaded = loading.load(given.model, dtype="bf16", quantization=given.quantization)
    sites, _ = LocalBackend(loaded).places(Config().adapter, None)
    if given.what == "adapters":
        parts = [Part(f"random {i}", i, sites, factors(sites, i)) for i in range(16)]
        stacked, moving, blocks, _ = stack(parts, [{} for _ in parts], conv1d=False)
        space = Subspace("adapters", stacked, moving, {}, {}, blocks=blocks)
    else:
        space = every_b(sites, factors(sites, 0))
    shipped = load_configured(Config().prompts).train[: given.rows // EACH]
    asked = tuple(Prompt.user(prompt.text + " more" * given.read) for prompt in shipped)
    sampling = Sampling(0.7, max_new_tokens=given.tokens)
    policy = LoraPolicy(loaded, space, root_seed=0, sampling=sampling)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what loading freed is used again, and not counted
    meter, drawn = MachineMeter(), given.rows
    if given.what == "generate":
        policy.sample_tokens(asked, EACH, seed=0)
    elif given.what == "measure":
        drawn = score_ascent.measure(policy, length, asked[:32], 2, seed=0).answers
    else:
        task = score_ascent.Task(length, asked, EACH, seed=0)
        found = WAYS["zeroth" if given.what == "adapters" else given.what](policy, task)
        assert found is not None
        drawn = found.answers
    spent = meter.cost()
    print(
        f"{given.model} {given.quantization or 'bf16'} {given.what}: {drawn} answers; "
        f"{meter.before / 2**20:.0f} MiB loaded, {spent['added_bytes'] / 2**20:.0f} MiB more at "
        f"the peak, {spent['cpu_seconds']:.0f} processor seconds"
    )


def length(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    """The score of each answer."""
    return np.array([len(answer.text) for answer in answers], float)


def factors(sites: tuple[Site, ...], seed: int) -> Theta:
    """Random factors of an adapter."""
    random = np.random.default_rng(seed)
    shapes = {s.a: (s.rank, s.inputs) for s in sites} | {s.b: (s.outputs, s.rank) for s in sites}
    return {name: np.float32(random.normal(0, 0.01, shape)) for name, shape in shapes.items()}


def make(folder: Path) -> None:
    """A Llama of 1.2 billion random weights with SmolLM2's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers import initialization as init

    left_out = shutil.ignore_patterns("*.safetensors", "config.json")
    shutil.copytree(named_models.locate("smollm2"), folder, ignore=left_out)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with init.no_init_weights():
        model = LlamaForCausalLM(config)
    drawn = torch.randn(2**20) * 0.02  # repeated: a billion draws take minutes
    for name, weight in model.named_parameters():
        value = torch.ones(1) if "norm" in name else drawn
        times = -(-weight.numel() // len(value))
        weight.data = value.repeat(times)[: weight.numel()].reshape(weight.shape).clone()
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
