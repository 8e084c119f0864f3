"""PEFT LoRA folders with random factors, as other programs write them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from szpo.cache import quiet
from szpo.config.schema import Config
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.policies import stacked_adapters
from szpo.policies.backend import LocalBackend
from szpo.policies.subspaces import Subspace
from tests.support.policies import setup_of
from tests.support.tiny_models import build

SHORT = Sampling(max_new_tokens=6)
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "low": {
        "r": 2, "lora_alpha": 2, "target_modules": ["k_proj", "up_proj", "down_proj"],
        "layers_to_transform": [2, 3],
        "rank_pattern": {"down_proj": 3}, "alpha_pattern": {"layers.3.mlp.down_proj": 9},
    },
    "stable": {"r": 3, "lora_alpha": 3, "target_modules": ["o_proj"], "use_rslora": True},
}  # fmt: skip
"""Adapters of three shapes: other layers, ranks and scales."""


def write(folder: Path, seed: int = 0, size: float = 0.1, model: Any = None, **lora: Any) -> Path:
    """Write one adapter of a tiny model with random factors."""
    with quiet():
        made = get_peft_model(model or build("llama"), LoraConfig(**lora))
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in made.named_parameters():
                if "lora_B" in name:
                    value.copy_(size * torch.randn(value.shape, generator=rng))
        made.save_pretrained(str(folder))
    return folder


def write_shapes(place: Path, **options: Any) -> list[str]:
    """Write the adapters of `SHAPES` into folders of their names."""
    each = enumerate(SHAPES.items())
    return [str(write(place / name, i, **options, **lora)) for i, (name, lora) in each]


def config_of(folders: list[str], **options: Any) -> Config:
    """The settings of a run in these adapters, with short answers."""
    return setup_of("adapters", SHORT, adapters=folders, **options)


def gathered(model: Loaded, folders: list[str]) -> tuple[Any, ...]:
    """What `szpo.policies.stacked_adapters.gather` makes of these adapters."""
    return stacked_adapters.gather(config_of(folders), LocalBackend(model), lambda line: None)


def unmixed(model: Loaded, folders: list[str]) -> Subspace:
    """These adapters as coordinates, each with its own weight."""
    sites, factors, blocks, _ = gathered(model, folders)
    return Subspace("adapters", sites, factors, {}, {}, blocks=blocks)


def mixed(folders: list[str], weights: Any) -> PeftModel:
    """The tiny model as PEFT sums these adapters with these weights: several are active."""
    with quiet():
        found = PeftModel.from_pretrained(build("llama"), folders[0], adapter_name="0")
        for i, folder in enumerate(folders[1:], 1):
            found.load_adapter(folder, adapter_name=str(i))
        found.base_model.set_adapter([str(i) for i in range(len(folders))])
    for module in found.modules():
        for i, weight in enumerate(np.asarray(weights, float)):
            if hasattr(module, "lora_A") and str(i) in module.lora_A:
                module.scaling[str(i)] *= weight
    return found.eval()
