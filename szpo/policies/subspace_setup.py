"""Choose and scale the coordinates of a run, before anybody is asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from szpo.errors import UsageError
from szpo.generation.engine_choice import engine_for
from szpo.generation.sampling import Sampling
from szpo.models import loading, logprobs
from szpo.models.batched_lora import find_sites
from szpo.models.loading import Loaded
from szpo.models.logprobs import Sample
from szpo.policies.kl_calibration import KL_DIRECTIONS, full_subspace, random_subspace
from szpo.policies.layer_choice import lora_config
from szpo.policies.probe import Probe, Progress
from szpo.policies.score_basis import score_subspace
from szpo.policies.subspaces import KINDS, Kind, Subspace
from szpo.types import Prompt, Theta


def setup(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    *,
    kind: Kind = "score",
    dim: int = 8,
    config: Any = None,
    train: Literal["B", "AB"] = "B",
    start: Theta | None = None,
    samples: int = 384,
    kl_samples: int = 96,
    kl_radius: float = 1.62,
    sampling: Sampling | None = None,
    root_seed: int = 0,
    progress: Progress | None = None,
) -> Subspace:
    """Choose and scale the coordinates of a run; asks nobody and sees no reward.

    Args:
        loaded: The base model.
        prompts: Those the run trains on.
        kind: ``score``, ``random`` or ``full``.
        dim: Coordinates d of a subspace; ignored by ``full``.
        config: A ``peft.LoraConfig``; None is `lora_config`'s choice.
        train: Which factors move. A subspace moves B only.
        start: A and B by ``site.a`` and ``site.b``, from a starting adapter; None starts at the
            base model with A from each layer's inputs.
        samples: Answers of the start that are read for scores (``score``).
        kl_samples: Answers read to measure KL.
        kl_radius: κ, nats; ``random`` and ``full`` are scaled to have this KL at its radius.
        sampling: The run's; scores are those of its temperature without top-p and top-k.
        root_seed: Of the run.
        progress: Called with (what, done, of).

    Raises:
        UsageError: A setting does not fit the model, such as more coordinates than weights.
        RunError: Scores or KL are not finite, or the adapter does not move the policy.
    """
    began = time.monotonic()
    _check(kind, dim, train, samples, kl_samples, prompts)
    sites = find_sites(loaded.model, lora_config(loaded.model) if config is None else config)
    law = replace(sampling or Sampling(), top_p=1.0, top_k=0)
    if law.temperature == 0:
        raise UsageError("temperature 0 has no score and no KL; set a temperature above 0")
    tokens = tuple(loading.encode(loaded.tokenizer, p) for p in prompts)
    engine = engine_for(loaded.adapt(sites))
    say = progress or (lambda what, done, of: None)
    plan = Probe(loaded, sites, tokens, law, root_seed, engine, say)
    base: list[Sample] = []
    if start is None:
        zero = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
        # Where B is 0 the answers are those of the base model, whatever A is.
        blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
        need = samples if kind == "score" else INPUT_SAMPLES
        base = plan.base_samples({**blank, **zero}, need)
        start = {**logprobs.input_directions(loaded.adapt(sites), base[:INPUT_SAMPLES]), **zero}
    elif kind == "score":
        base = plan.base_samples(start, samples)
    names = [s.b for s in sites] if train == "B" else [n for s in sites for n in (s.a, s.b)]
    moving = {name: start[name] for name in names}
    if dim > (size := sum(v.size for v in moving.values())) and kind != "full":
        raise UsageError(f"dim {dim} is more than the {size} weights of the chosen layers")
    whole = Subspace(kind, sites, {n: v for n, v in start.items() if n not in moving}, moving, {})
    build = {"score": score_subspace, "random": random_subspace, "full": full_subspace}[kind]
    found = build(plan, start, whole, dim, base, kl_samples, kl_radius)
    report = {
        "kind": kind, "dim": found.dim, "sites": [s.name for s in sites],
        "layers": sorted({s.depth for s in sites if s.depth is not None}),
        "weights": size, "samples": len(base), "seconds": round(time.monotonic() - began, 1),
        "kl_radius": kl_radius, "mu": found.mu(kl_radius), **found.report,
    }  # fmt: skip
    return replace(found, report=report)


INPUT_SAMPLES = 64
"""Answers whose layer inputs give A."""


def _check(
    kind: str, dim: int, train: str, samples: int, kl_samples: int, prompts: Sequence[Prompt]
) -> None:
    if kind not in KINDS:
        raise UsageError(f"subspace kind must be one of {', '.join(KINDS)} (got {kind!r})")
    if train not in ("B", "AB"):
        raise UsageError(f"train must be B or AB (got {train!r})")
    if train == "AB" and kind != "full":
        raise UsageError(f"subspace {kind} moves B only; choose kind full to train A and B")
    if dim < 1:
        raise UsageError(f"dim must be at least 1 (got {dim})")
    if kind == "score" and samples < 4 * dim:
        raise UsageError(f"samples must be at least 4·dim = {4 * dim} (got {samples})")
    if kl_samples < KL_DIRECTIONS:
        raise UsageError(f"kl_samples must be at least {KL_DIRECTIONS} (got {kl_samples})")
    if not prompts:
        raise UsageError("the set-up needs prompts; give those the run trains on")
