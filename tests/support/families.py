"""Models of the families that people have: tiny, with random weights, a tokenizer and a template.

    python -m tests.support.families

prints the table of docs/how-to/your-model.md. Each is built from the
family's own configuration class, and
its template has the family's traits: end tokens, a system turn that is refused, thinking, a first
token that both template and tokenizer write, a date.
"""

import io
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from szpo.cache import quiet
from szpo.cli.app import call
from szpo.models import loading
from szpo.models.batched_lora import Deltas, attach_deltas, find_sites
from szpo.models.forced_answers import Forced
from szpo.models.local_engines import engine_for
from szpo.models.logprobs import Sample
from szpo.models.lora import lora_config
from szpo.models.sampling import Sampling, draw
from tests.support import folder_run
from tests.support.tiny_models import with_adapter

WORDS: Final = 272
"""Eight more than the tokenizer has, as models have rows without a token."""
SHAPE: Final[dict[str, Any]] = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
LOOK: Final = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}BOT{{ m['content'] }}STOP"
    "{% elif m['role'] == 'system' %}SYSTEM{% else %}USER{{ m['content'] }}STOP"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}BOTTHINK{% endif %}"
)
REFUSED: Final = "{{ raise_exception('no system turn') }}"
TURN: Final = "{{ m['content'] }}STOP"
DATE: Final = "{{ strftime_now('%d %b %Y') }}"
QUIET: Final = (
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What makes a family's tiny model; ``config`` is the name of its configuration's class."""

    config: str
    options: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, str, str, str] = ("<s>", "<user>", "<bot>", "</s>")
    """First token, user, assistant, end of a turn: tokens 1, 3, 4 and 5; 2 ends a text."""
    first: bool = False
    """The template writes the first token, and the tokenizer adds one too."""
    head: str = ""
    think: str = ""
    system: str = TURN
    template: bool = True
    engine: str = "FlatEngine"
    traits: str = ""


CHATML = ("<s>", "<|im_start|>user", "<|im_start|>assistant", "<|im_end|>")
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: Final = {
    "Llama 3": Family(
        "LlamaConfig",
        words=("<|begin_of_text|>", "<|user|>", "<|assistant|>", "<|eot_id|>"),
        first=True, head=DATE, traits="two end tokens, first token doubled, date",
    ),
    "Qwen 2.5": Family(
        "Qwen2Config", {"tie_word_embeddings": True}, CHATML, traits="two end tokens, tied"
    ),
    "Qwen 3": Family(
        "Qwen3Config", {"head_dim": 8}, CHATML, think=QUIET,
        traits="two end tokens, thinking",
    ),
    "Gemma 3": Family(
        "Gemma3TextConfig",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True, **SLIDING},
        ("<bos>", "<start_of_turn>user", "<start_of_turn>model", "<end_of_turn>"),
        first=True, traits="window, tied, first token doubled",
    ),
    "Gemma 2": Family(
        "Gemma2Config",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 30.0, **SLIDING},
        ("<bos>", "<start_of_turn>user", "<start_of_turn>model", "<end_of_turn>"),
        first=True, system=REFUSED, engine="GenerateEngine",
        traits="soft caps, window, system turn refused",
    ),
    "Mistral": Family(
        "MistralConfig", {"sliding_window": 8}, ("<s>", "[INST]", "[/INST]", "</t>"),
        first=True, system=REFUSED, traits="window, system turn refused",
    ),
    "Phi 3": Family(
        "Phi3Config", {"sliding_window": 8}, ("<s>", "<|user|>", "<|assistant|>", "<|end|>"),
        traits="two end tokens, window, joined projections",
    ),
    "SmolLM 2": Family(
        "LlamaConfig", {"tie_word_embeddings": True, "rope_theta": 1e5}, CHATML, traits="tied"
    ),
    "SmolLM 3": Family(
        "SmolLM3Config", {"no_rope_layers": [1, 0]}, CHATML, head=DATE, think=QUIET,
        traits="a layer without positions, thinking, date",
    ),
    "OLMo 2": Family("Olmo2Config", words=CHATML, first=True, traits="first token doubled"),
    "DeepSeek distilled": Family(
        "Qwen2Config", words=("<begin>", "<User>", "<Assistant>", "<end>"), first=True,
        think="<think>", traits="first token doubled, the template opens the thinking",
    ),
    "GPT-NeoX": Family(
        "GPTNeoXConfig", {"rotary_pct": 0.25}, template=False, traits="no template, parallel"
    ),
    "Falcon": Family(
        "FalconConfig", {"multi_query": True, "parallel_attn": True}, template=False,
        traits="no template, one key head", engine="GenerateEngine",
    ),
    "Falcon RW": Family(
        "FalconConfig", {"alibi": True, "multi_query": False, "parallel_attn": False},
        template=False, traits="no template, ALiBi", engine="GenerateEngine",
    ),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """A family's model and tokenizer as downloaded from the hub."""
    family = FAMILIES[name]
    torch.manual_seed(3)
    with quiet():
        options = {**SHAPE, **family.options, "eos_token_id": 2}
        config = getattr(transformers, family.config)(**options)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:  # at .02 all words would be about equally likely
                    parameter.mul_(6.0)
        model.generation_config.eos_token_id = [2, 5] if family.template else 2
        model.save_pretrained(folder)
        tokenizer(family).save_pretrained(folder)
    return folder


def tokenizer(family: Family) -> Any:
    first, user, bot, turn = family.words
    special = ["<pad>", first, "<|endoftext|>", user, bot, turn]
    words = [*special, "<think>", "</think>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if family.first:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0", special_tokens=[(first, 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=first, eos_token=special[2], pad_token="<pad>",
        extra_special_tokens=[user, bot, turn],
    )  # fmt: skip
    made.add_tokens(["<think>", "</think>"])
    if family.template:
        start = "{{ bos_token }}" if family.first else ""
        text = LOOK.replace("SYSTEM", family.system).replace("USER", user).replace("BOT", bot)
        text = text.replace("STOP", turn).replace("THINK", family.think)
        made.chat_template = start + family.head + text
    return made


@dataclass(frozen=True)
class Decoded:
    """What an engine made of a family's prompts, against plain passes of transformers."""

    engine: str
    equal: int
    rows: int
    worst: float
    """Largest difference of a token's log-probability, nats."""


def decode(folder: Path) -> Decoded:
    """Decode prompts under three members, by szpo's engine and one row at a time."""
    loaded = loading.load(str(folder), dtype="fp32")
    model, sites = loaded.model, find_sites(loaded.model, lora_config(loaded.model, rank=2))
    engine, g = engine_for(loaded.adapt(sites)), torch.Generator().manual_seed(1)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=g) / s.inputs**0.5 for s in sites}
    B = {s.name: torch.randn(3, s.outputs, s.rank, generator=g) * 0.3 for s in sites}
    rng = np.random.default_rng(2)
    prompts = [[*range(100, 112), *rng.integers(8, 264, n).tolist()] for n in (1, 5, 8)] * 3
    members, sampling = [0] * 3 + [1] * 3 + [2] * 3, Sampling(max_new_tokens=12)
    draws = rng.random((9, 12))
    made = engine.generate(prompts, members, Deltas(A, B), sampling, draws, canary=True)
    found = engine.logprobs(prompts, made, members, Deltas(A, B))
    worst, equal = 0.0, 0
    for prompt, member, new, mine, uniforms in zip(
        prompts, members, made, found, draws, strict=True
    ):
        one = Deltas(A, {name: b[member : member + 1] for name, b in B.items()})
        with torch.inference_mode(), attach_deltas(model, sites, one):
            logits = model(torch.tensor([[*prompt, *new]]), use_cache=False).logits[0]
        plain = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
        theirs = plain.gather(1, torch.tensor(new)[:, None])[:, 0].numpy()
        (alone,) = engine.logprobs([prompt], [new], [0], one)
        worst = max(worst, float(np.abs(mine - theirs).max()), abs(alone.sum() - theirs.sum()))
        drawn = draw(
            plain, torch.from_numpy(uniforms[: len(new)]), sampling, loading.wordless(loaded)
        )
        equal += list(new) == drawn.tolist()
    return Decoded(type(engine).__name__, equal, len(made), worst)


def force(folder: Path) -> tuple[float, float]:
    """How far states, and a gradient of log-probability, are off those of plain passes.

    Largest differences, as shares of the largest number.
    """
    loaded = loading.load(str(folder), dtype="fp32")
    model, sites = loaded.model, find_sites(loaded.model, lora_config(loaded.model, rank=2))
    g = torch.Generator().manual_seed(3)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=g) / s.inputs**0.5 for s in sites}
    B = {s.name: torch.randn(1, s.outputs, s.rank, generator=g) * 0.3 for s in sites}
    texts = [Sample(tuple(range(100, 104 + n)), tuple(range(120, 126 - n))) for n in (0, 2, 3)]
    forced = Forced(loaded.adapt(sites), texts, layer=1)
    theta = {s.a: A[s.name].numpy() for s in sites} | {s.b: B[s.name][0].numpy() for s in sites}
    moving = [s.b for s in sites]
    gradient, _ = forced.gradient(theta, moving, np.ones((len(texts), 1)))
    total, states = torch.zeros(()), []
    B = {name: value.requires_grad_() for name, value in B.items()}
    for text in texts:
        ids, start = torch.tensor([[*text.prompt, *text.answer]]), len(text.prompt)
        with torch.inference_mode():
            read = model(ids, use_cache=False, output_hidden_states=True).hidden_states[1]
        states.append(read[0, start:].mean(0).numpy())
        with attach_deltas(model, sites, Deltas(A, B)):
            logits = model(ids, use_cache=False).logits[0, start - 1 : -1]
        total = total + logits.log_softmax(-1).gather(1, ids[0, start:, None]).sum()
    total.backward()
    plain = np.concatenate([B[s.name].grad[0].numpy().ravel() for s in sites])
    mine = np.concatenate([gradient[name].ravel() for name in moving])
    pairs = ((forced.states, np.stack(states)), (mine, plain))
    a, b = (float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)
    return a, b


def vote_and_export(folder: Path) -> tuple[float, float]:
    """Sixteen votes on the model of a folder, then exports: how far PEFT and the merge are off.

    Largest differences of logits: PEFT's from the base's, and the merged model's from PEFT's.
    """
    line = folder_run.arguments(folder.parent, "run.votes=16", model_folder=folder)
    path = folder.parent / "runs" / "folder.db"
    lines = [line]
    for name in ("adapter", "merged"):
        merged = ["--merged"] if name == "merged" else []
        lines += [["export", str(path), "--anyway", *merged, "--out", str(folder.parent / name)]]
    for each in lines:
        if (code := call(each)) != 0:
            raise RuntimeError(f"szpo {' '.join(each)} returned {code}")
    logits, ids = [], torch.tensor([[*range(100, 114)]])
    for place, adapter in ((folder, False), (folder, True), (folder.parent / "merged", False)):
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        if adapter:
            model = with_adapter(model, folder.parent / "adapter")
        with torch.no_grad():
            logits.append(model(ids).logits)
    base, peft, merged = logits
    return float((peft - base).abs().max()), float((merged - peft).abs().max())


def main() -> None:
    print(
        "| family | traits | engine | log-probabilities, states, gradient, merged off by |"
    )  # Gemma 2 has no gradient
    print("|---|---|---|---|")
    for name, family in FAMILIES.items():
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as place, redirect_stdout(said), redirect_stderr(said):
            folder = write(name, Path(place, "model"))
            found, (_, merged) = decode(folder), vote_and_export(folder)
            read = () if name == "Gemma 2" else force(folder)  # it squeezes its logits
        engine = "own" if found.engine == "FlatEngine" else "`generate`"
        off = ", ".join(f"{each:.0e}" for each in (found.worst, *read, merged))
        print(f"| {name} | {family.traits} | {engine} | {off} |", flush=True)


if __name__ == "__main__":
    main()
