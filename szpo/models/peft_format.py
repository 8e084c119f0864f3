"""A LoRA adapter as PEFT's two files, and the tokenizer of its base: no model, no tensor library.

The ledger of a run holds all of its adapter, so the adapter can be written without the model; the
web process does so for the export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo import cache, files
from szpo.models.lora_sites import Site
from szpo.types import Theta

HUB_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that ``--max-lora-rank`` of vLLM takes."""
TOKENIZER: Final = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""Files that transformers saves for a tokenizer."""
_SNAPSHOT: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""How the hub's cache names the folder of owner/name."""


def peft_files(
    factors: Theta, sites: Sequence[Site], *, base: str, conv1d: bool = False, half: bool = False
) -> dict[str, bytes]:
    """The files of a folder that ``PeftModel.from_pretrained`` loads, by name.

    Args:
        factors: A and B by ``site.a`` and ``site.b``, fp32.
        sites: What they adapt.
        base: Name of the base model, for the record.
        conv1d: The adapted layers are GPT-2's transposed ``Conv1D``.
        half: Write fp16, for factors that it holds exactly.
    """
    from safetensors.numpy import save

    tensors = {
        f"base_model.model.{site.name}.lora_{letter}.weight": np.ascontiguousarray(
            factors[name], dtype=np.float16 if half else np.float32
        )
        for site in sites
        for name, letter in ((site.a, "A"), (site.b, "B"))
    }
    return {
        "adapter_config.json": _json(peft_config(sites, base=base, conv1d=conv1d)),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
    }


def pad(
    factors: Theta, sites: Sequence[Site], rank: int | None = None
) -> tuple[dict[str, NDArray[np.float32]], list[Site]]:
    """Factors and sites of the same policy with one rank, by default the largest: with zeros."""
    rank, padded = rank or max(site.rank for site in sites), {}
    for site in sites:
        missing = rank - site.rank
        padded[site.a] = np.pad(factors[site.a], ((0, missing), (0, 0)))
        padded[site.b] = np.pad(factors[site.b], ((0, 0), (0, missing)))
    return padded, [replace(site, rank=rank) for site in sites]


def truncate(
    factors: Theta, sites: Sequence[Site], rank: int
) -> tuple[dict[str, NDArray[np.float32]], list[Site]]:
    """The nearest factors of this rank, by singular values of scale · B A; scales are 1."""
    found = {}
    for site in sites:
        left, up = np.linalg.qr(site.scale * factors[site.b].astype(np.float64))
        right, down = np.linalg.qr(factors[site.a].astype(np.float64).T)
        u, values, v = np.linalg.svd(up @ down.T)
        root = np.sqrt(values[:rank])
        found[site.b] = ((left @ u[:, : len(root)]) * root).astype(np.float32)
        found[site.a] = (root[:, None] * (v[: len(root)] @ right.T)).astype(np.float32)
    low = [replace(site, rank=len(found[site.a]), scale=1.0) for site in sites]
    return pad(found, low)


def peft_config(sites: Sequence[Site], *, base: str, conv1d: bool = False) -> dict[str, Any]:
    """PEFT's ``adapter_config.json`` of a plain LoRA on these sites; see `peft_files`."""
    alphas = {site.name: site.scale * site.rank for site in sites}
    first = sites[0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(base),
        "r": first.rank,
        "lora_alpha": _number(alphas[first.name]),
        "target_modules": sorted(site.name for site in sites),
        "rank_pattern": {s.name: s.rank for s in sites if s.rank != first.rank},
        "alpha_pattern": {n: _number(a) for n, a in alphas.items() if a != alphas[first.name]},
        "bias": "none",
        "fan_in_fan_out": conv1d,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def base_name(base: str) -> str:
    """A base model's name as PEFT's settings give it: its id on the hub, where it has one."""
    return HUB_NAMES.get(base) or hub_name(base) or base


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _number(alpha: float) -> Any:
    """An alpha as PEFT's settings write it: whole numbers as integers."""
    return int(alpha) if float(alpha).is_integer() else alpha


def tokenizer_files(base: str) -> dict[str, bytes]:
    """The tokenizer and chat template by name; empty where the base is not on this machine.

    No model is loaded, converted or downloaded for it. ``base`` is a model's name as in the
    settings: smollm2, tiny, a folder or a hub id.
    """
    folders = (file.parent for file in _candidates(base))
    found = (folder / name for folder in islice(folders, 1) for name in TOKENIZER)
    return {file.name: file.read_bytes() for file in found if file.is_file()}


def hub_name(base: str) -> str | None:
    """The hub id behind a folder of the hub's own cache; None elsewhere.

    >>> hub_name("/home/me/hub/models--HuggingFaceTB--SmolLM2-360M/snapshots/1f2e")
    'HuggingFaceTB/SmolLM2-360M'
    """
    found = [_SNAPSHOT.fullmatch(part) for part in Path(base).parts]
    return next((f"{match[1]}/{match[2]}" for match in found if match), None)


def _candidates(base: str) -> Iterator[Path]:
    """Files named in `TOKENIZER` that are where this base model is looked for."""
    folders = [files.expand(base)]
    if base in ("smollm2", "tiny"):
        folders = sorted(cache.cache_dir().glob(f"{base}-*"), reverse=True)
    for folder in folders:
        yield from (folder / name for name in TOKENIZER if (folder / name).is_file())
    if "/" in base and not folders[0].exists():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for name in TOKENIZER:
            try:
                path = try_to_load_from_cache(base, name)
            except HFValidationError:  # a folder that is gone
                return
            if isinstance(path, str):
                yield Path(path)
