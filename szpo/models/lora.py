"""A LoRA adapter without a tensor library: where it sits in a model, and PEFT's files.

The layers that get an adapter by default depend only on the model's shape.

The ledger of a run holds all of its adapter, so the adapter can be written without the model; the
web process does so for the export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo import cache, files
from szpo.errors import UsageError
from szpo.models.named_models import SHIPPED, TINY
from szpo.types import Theta

OUTPUTS = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "w2", "o_proj", "out_proj")
"""Names of the MLP's output layer in the families of transformers, most usual first."""
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


@dataclass(frozen=True, slots=True)
class Site:
    """One adapted weight of the base model: y = W x + scale · B A x; A is (r, in), B (out, r)."""

    name: str
    """Path of the module inside the base model, as PEFT writes it after ``base_model.model.``."""
    depth: int | None
    """Number of the decoder layer it sits in."""
    inputs: int
    outputs: int
    rank: int
    scale: float

    @property
    def a(self) -> str:
        """Name of the A factor among the coordinates."""
        return f"{self.name}.lora_A"

    @property
    def b(self) -> str:
        """Name of the B factor among the coordinates."""
        return f"{self.name}.lora_B"


def middle_layers(depth: int, count: int = 5) -> tuple[int, ...]:
    """``count`` neighbouring layers centred at two thirds of the depth.

    >>> middle_layers(30)
    (18, 19, 20, 21, 22)
    >>> middle_layers(2)
    (0, 1)
    """
    count = min(count, depth)
    first = min(max(round(2 * depth / 3) - count // 2, 0), depth - count)
    return tuple(range(first, first + count))


def lora_config(
    model: Any,
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    rank: int = 1,
) -> Any:
    """The default ``peft.LoraConfig``: rank 1 on the MLP's output in `middle_layers`."""
    from peft import LoraConfig

    linear = linear_names(model)
    if targets is None:
        targets = [next((n for n in OUTPUTS if _is_path(model, n)), "")]
    missing = [t for t in targets if not _is_path(model, t)]
    if missing or not targets:
        raise UsageError(
            f"adapter.targets: no layer matches {', '.join(map(repr, missing)) or 'the default'}; "
            f"this model has {', '.join(sorted(linear))}"
        )
    depth = int(model.config.get_text_config().num_hidden_layers)
    chosen = list(middle_layers(depth) if layers is None else layers)
    beyond = [i for i in chosen if not 0 <= i < depth]
    if beyond or not chosen:
        raise UsageError(
            f"adapter.layers: {beyond or chosen} do not exist; this model has 0 to {depth - 1}"
        )
    return LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(targets), layers_to_transform=chosen,
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def linear_names(model: Any) -> frozenset[str]:
    """Last name parts of the linear layers inside the decoder layers."""
    return frozenset(
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if (hasattr(module, "in_features") or hasattr(module, "nx"))
        and any(part.isdigit() for part in name.split("."))
    )


def _is_path(model: Any, target: str) -> bool:
    return any(name == target or name.endswith("." + target) for name, _ in model.named_modules())


def peft_files(
    factors: Theta, sites: Sequence[Site], *, base: str, conv1d: bool = False, half: bool = False
) -> dict[str, bytes]:
    """The files of a folder that ``PeftModel.from_pretrained`` loads, by name.

    ``factors``: A and B by ``site.a`` and ``site.b``, fp32. ``base``: the base model's name, for
    the record. ``conv1d``: the adapted layers are GPT-2's transposed ``Conv1D``. ``half`` writes
    fp16, for factors that it holds exactly.
    """
    from safetensors.numpy import save

    tensors = {
        f"base_model.model.{site.name}.lora_{letter}.weight": np.ascontiguousarray(
            factors[name], dtype=np.float16 if half else np.float32
        )
        for site in sites
        for name, letter in ((site.a, "A"), (site.b, "B"))
    }
    config = json.dumps(peft_config(sites, base=base, conv1d=conv1d), indent=2, sort_keys=True)
    return {
        "adapter_config.json": f"{config}\n".encode(),
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
    cut = {}
    for site in sites:
        left, up = np.linalg.qr(site.scale * factors[site.b].astype(np.float64))
        right, down = np.linalg.qr(factors[site.a].astype(np.float64).T)
        u, values, v = np.linalg.svd(up @ down.T)
        root = np.sqrt(values[:rank])
        cut[site.b] = ((left @ u[:, : len(root)]) * root).astype(np.float32)
        cut[site.a] = (root[:, None] * (v[: len(root)] @ right.T)).astype(np.float32)
    low = [replace(site, rank=len(cut[site.a]), scale=1.0) for site in sites]
    return pad(cut, low)


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
    """A base model's name as PEFT's settings give it: its id on the hub, where it has one.

    A folder's begins with ``./``, so that no program asks the hub for a model of that name.
    """
    named = HUB_NAMES.get(base) or hub_name(base) or base
    here = named == "tiny" or files.expand(named).is_dir()
    return f"./{named}" if here and named[0] not in "./~\\" else named


def _number(alpha: float) -> Any:
    """An alpha as PEFT's settings write it: whole numbers as integers."""
    return int(alpha) if float(alpha).is_integer() else alpha


def tokenizer_files(base: str) -> dict[str, bytes]:
    """The tokenizer and chat template by name; empty where the base is not on this machine.

    No model is loaded, converted or downloaded for it. ``base`` is a model's name as in the
    settings: smollm2, tiny, a folder or a hub id.
    """
    folders = (file.parent for file in _candidates(base))
    files = (folder / name for folder in islice(folders, 1) for name in TOKENIZER)
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def hub_name(base: str) -> str | None:
    """The hub id behind a folder of the hub's own cache; None elsewhere.

    >>> hub_name("/home/me/hub/models--HuggingFaceTB--SmolLM2-360M/snapshots/1f2e")
    'HuggingFaceTB/SmolLM2-360M'
    """
    matches = [_SNAPSHOT.fullmatch(part) for part in Path(base).parts]
    return next((f"{match[1]}/{match[2]}" for match in matches if match), None)


def _candidates(base: str) -> Iterator[Path]:
    """Files named in `TOKENIZER` that are where this base model is looked for."""
    folders = [SHIPPED / TINY if base == "tiny" else files.expand(base)]
    if base == "smollm2":
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
