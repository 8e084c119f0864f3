"""Which stored basis a run's settings ask for, and what a plan and a run say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.generation.sampling import Sampling
from szpo.models import devices, loading, weight_files
from szpo.policies import subspace_cache
from szpo.policies.subspaces import Subspace
from szpo.types import Prompt

SHARED = {"cache": "shared, from the cache", "shipped": "shared, it ships with szpo"}


def sampling_of(config: Config) -> Sampling:
    """How the answers of a run with these settings are sampled."""
    g = config.generation
    return Sampling(g.temperature, g.top_p, g.top_k, g.max_new_tokens, tuple(g.stop))


def setup_key(
    config: Config, sha256: str, dtype: str, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Everything that a set-up depends on, as plain JSON; the run's own seed is no part of it.

    Args:
        config: The settings. The device is left out: the law of the answers does not depend on it.
        sha256: Digest of the model's weights.
        dtype: Numbers of the base weights: fp32, bf16 or fp16.
        prompts: Those the run trains on, in their order.
    """
    quantized = config.model.quantization
    scored = config.subspace.kind == "score"
    return {
        # Scores of 4-bit models were once cut off at their layers (`szpo.models.four_bit`);
        # "whole" since.
        "base": [sha256, dtype, quantized and f"{quantized} whole"],
        "adapter": config.adapter.model_dump(mode="json"),
        "subspace": {**config.subspace.model_dump(mode="json"), "dim": config.dim},
        # Score coordinates are whitened, whatever the radius; the others are scaled to it.
        "kl_radius": None if scored else config.optimizer.kl_radius,
        # Scores and KL are those of the temperature, before a text is cut at a stop text.
        "sampling": asdict(replace(sampling_of(config), top_p=1.0, top_k=0, stop=())),
        "prompts": [p.turns for p in prompts],
    }


def find(config: Config, prompts: Sequence[Prompt]) -> Subspace | None:
    """Look for the basis of a run before its model is loaded; None: it will be made.

    Reads the weights once for their digest. A model that is not on this machine has no basis here.

    Raises:
        UsageError: The model's files are damaged.
    """
    if config.model.adapter is not None:
        return None
    try:
        files = weight_files.safetensors_in(loading.locate(config.model.name, weights=False))
    except UsageError:  # of a hub id only the small files are here
        return None
    dtype = config.model.dtype  # workers' device need not be on this machine
    if dtype == "auto":
        dtype = devices.choose(config.model.device, dtype).dtype
    key = setup_key(config, weight_files.digest(files), dtype, prompts)
    return subspace_cache.find(key)


def describe(report: Mapping[str, Any]) -> str:
    """Say whether a basis was made or is shared, and how long it took to make.

    >>> describe({"origin": "made", "seconds": 61.5})
    'made in 61.5 s'
    >>> describe({"origin": "cache", "seconds": 61.5})
    'shared, from the cache (made in 61.5 s)'
    """
    seconds = f"{report.get('seconds', 0)} s"
    origin = report.get("origin", "made")
    return f"made in {seconds}" if origin == "made" else f"{SHARED[origin]} (made in {seconds})"


def describe_plan(config: Config, found: Subspace | None) -> str:
    """Say what a run's set-up will be, in one sentence."""
    if found is not None:
        return f"basis {describe(found.report)}; nothing is measured again"
    if config.model.adapter is not None:
        return "basis will be made, for this run only: a starting adapter has no stored one"
    answers = config.subspace.kl_samples
    answers += config.subspace.samples if config.subspace.kind == "score" else 0
    return (
        f"basis will be made from some {answers:,} base answers, then shared by all runs with "
        "this model, these prompts, this sampling and subspace.setup_seed"
    )
