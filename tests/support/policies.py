"""LoRA policies over tiny models."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from peft import LoraConfig

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.models.batched_lora import find_sites
from szpo.models.loading import Loaded
from szpo.models.lora import lora_config
from szpo.models.sampling import Sampling
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspace_setup import choose_subspace
from szpo.policies.subspaces import Subspace
from szpo.types import Prompt, Theta
from tests.support.tiny_models import TARGETS

BASE = Sampling()
PROMPTS = [Prompt.user(text) for text in ("w7 w8 w9", "w20", "w7 w8 w30 w31 w32")]


def setup_of(
    kind: str = "features", sampling: Sampling = BASE,
    kl_radius: float = 1.62, root_seed: int = 0, **space: Any,
) -> Config:  # fmt: skip
    """Settings of a set-up; ``space`` has further settings of the table ``subspace``."""
    drawn = {"temperature": sampling.temperature, "max_new_tokens": sampling.max_new_tokens}
    return settings_file.check(
        {
            "subspace": {"kind": kind, "setup_seed": root_seed, **space},
            "generation": drawn,
            "optimizer": {"kl_radius": kl_radius},
        }
    )


def set_up_subspace(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    config: Config,
    lora: LoraConfig | None = None,
    start: Theta | None = None,
) -> Subspace:
    sites = find_sites(loaded.model, lora or lora_config(loaded.model))
    return choose_subspace(LocalBackend(loaded), sites, prompts, config, start)


def full(
    base: Loaded, rank: int = 1, train: Literal["B", "AB"] = "B", layers: list[int] | None = None
) -> Subspace:
    """All LoRA weights as coordinates, A random and B zero."""
    targets = list(TARGETS.get(base.name, ("q_proj", "v_proj", "down_proj")))
    sites = find_sites(
        base.model, LoraConfig(r=rank, target_modules=targets, layers_to_transform=layers)
    )
    rng = np.random.default_rng(0)
    A = {
        s.a: (rng.normal(size=(s.rank, s.inputs)) / s.inputs**0.5).astype(np.float32)
        for s in sites
    }
    B = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    moving = B if train == "B" else {**A, **B}
    return Subspace("full", sites, A if train == "B" else {}, moving, {})


def small(base: Loaded, dim: int = 4) -> Subspace:
    """A random subspace of B in the upper layers, z = 0 at the base model."""
    whole = full(base, layers=[2, 3])
    rng = np.random.default_rng(1)
    moved = whole.start.items()
    basis = {name: rng.normal(size=(*v.shape, dim)).astype(np.float32) for name, v in moved}
    return Subspace("features", whole.sites, whole.fixed, whole.start, basis)


def policy_of(base: Loaded, subspace: Subspace | None = None, **options: Any) -> LoraPolicy:
    options.setdefault("sampling", Sampling(max_new_tokens=10))
    return LoraPolicy(base, subspace or small(base), root_seed=5, **options)


SHORT_PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 44, 2)]
