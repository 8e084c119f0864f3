"""Tiny models of several architectures, built from configs with seeded random weights."""

from datetime import date
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from szpo.cache import quiet
from szpo.models.batched_lora import Deltas, find_sites
from szpo.models.identity import TENSORS, Identity
from szpo.models.loading import Loaded
from szpo.models.lora import Site

WORDS = 320
STOP = 2
ARCHITECTURES = ("llama", "gpt2", "qwen2", "mistral")
TARGETS = {"gpt2": ("c_attn", "c_fc")}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def build(name: str, dtype: torch.dtype = torch.float32, hidden: int = 32) -> Any:
    """A four-layer model; Mistral and Gemma 2 look back over a window of 8 tokens."""
    shape: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": STOP,
        "pad_token_id": 0,
    }
    torch.manual_seed(3)
    with quiet():
        match name:
            case "llama":
                model: Any = LlamaForCausalLM(LlamaConfig(**shape))
            case "qwen2":
                model = Qwen2ForCausalLM(Qwen2Config(**shape))
            case "mistral":
                model = MistralForCausalLM(MistralConfig(**shape, sliding_window=8))
            case "gemma2":
                model = Gemma2ForCausalLM(Gemma2Config(**shape, sliding_window=8, head_dim=8))
            case _:
                model = GPT2LMHeadModel(
                    GPT2Config(
                        vocab_size=WORDS, n_embd=hidden, n_layer=4, n_head=4, bos_token_id=1,
                        eos_token_id=STOP, pad_token_id=0,
                    )
                )  # fmt: skip
    # Initial weights of .02 would make all words about equally likely; larger ones do not.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0 if name != "gpt2" else 4.0)
    return model.to(dtype).eval().requires_grad_(False)


def quantised(folder: Any, kind: str, name: str = "llama") -> Any:
    """A tiny model in four bits, loaded from files that are written to the folder."""
    build(name, hidden=64).save_pretrained(folder)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.float32
    )
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=settings, dtype=torch.float32, device_map="cpu"
        ).eval()


def tokenizer(chat: bool = True, count: int = WORDS) -> Any:
    """A tokenizer of words w6 … w319 and roles; the unknown word is 0, the end token 2."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": STOP, "<user>": 3, "<assistant>": 4, "<system>": 5}
    for i in range(len(vocabulary), count):
        vocabulary[f"w{i}"] = i
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>",
    )  # fmt: skip
    if chat:
        made.chat_template = TEMPLATE
    made.szpo_day = date(2026, 1, 2)
    return made


def with_adapter(model: Any, folder: Any) -> Any:
    """The model wrapped by PEFT with the adapter of a folder."""
    with quiet():  # PEFT uses deprecated names of transformers
        return PeftModel.from_pretrained(model, str(folder)).eval()


def loaded(name: str, folder: Any = ".", **options: Any) -> Loaded:
    """A tiny model as returned by `szpo.models.loading.load`."""
    known = Identity({TENSORS: "0" * 64})
    return Loaded(build(name, **options), tokenizer(), name, folder, known, "fp32")


HEAD = list(range(40, 70))


def adapted(
    name: str, layers: list[int] | None = None, members: int = 3
) -> tuple[Any, tuple[Site, ...], Deltas]:
    model = build(name)
    targets = list(TARGETS.get(name, ("q_proj", "down_proj")))
    sites = find_sites(model, LoraConfig(r=2, target_modules=targets, layers_to_transform=layers))
    g = torch.Generator().manual_seed(1)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=g) / s.inputs**0.5 for s in sites}
    B = {s.name: torch.randn(members, s.outputs, s.rank, generator=g) * 0.3 for s in sites}
    return model, sites, Deltas(A, B)


def questions(count: int, repeats: int, members: int) -> tuple[list[list[int]], list[int]]:
    """Prompts with a common prefix and different lengths, each asked of every member."""
    rng = np.random.default_rng(2)
    prompts = [[*HEAD, *rng.integers(6, WORDS, rng.integers(1, 9)).tolist()] for _ in range(count)]
    rows = [(p, m) for m in range(members) for p in prompts for _ in range(repeats)]
    return [p for p, _ in rows], [m for _, m in rows]
