"""Choose and scale the coordinates of a run, before any vote."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from szpo.config.schema import NAMED, SCORED, Config
from szpo.errors import UsageError
from szpo.evaluators.panel_factory import find_rate
from szpo.generation.sampling import Sampling
from szpo.models import loading
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.adapter_metric import adapter_subspace
from szpo.policies.backend import Backend
from szpo.policies.feature_basis import ANSWERS_EACH, feature_subspace
from szpo.policies.kl_calibration import draw_ruler, full_subspace, random_subspace
from szpo.policies.probe import ROWS, Probe, Progress
from szpo.policies.score_basis import score_subspace
from szpo.policies.subspace_cache import sampling_of
from szpo.policies.subspaces import Blocks, Subspace, every_b
from szpo.types import Prompt, Theta

WORKERS_ROWS = 4096
"""Answers that workers are asked for at once; they cut them into chunks."""
INPUT_SAMPLES = 64
"""Number of answers whose layer inputs give A."""


def read_factors(
    host: Backend, sites: tuple[Site, ...], prompts: Sequence[Prompt], config: Config
) -> Theta:
    """A of each site from its layer's inputs while the base answers, and B = 0."""
    whole, seed = every_b(sites, {}), config.subspace.setup_seed
    probe = probe_of(host, whole, prompts, sampling_of(config), seed)
    return {**whole.start, **probe.read_inputs(probe.start_samples(INPUT_SAMPLES))}


def probe_of(
    host: Backend,
    whole: Subspace,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    progress: Progress = lambda what, done, of: None,
) -> Probe:
    """A probe of the start in these coordinates, by the law that scores and KL are of."""
    backend = host.at(whole, Space(seed, whole.layout, Law()))
    tokens = tuple(loading.encode(host.facts.tokenizer, p) for p in prompts)
    law = replace(sampling, top_p=1.0, top_k=0)
    rows = ROWS if host.chunk_rows is None else WORKERS_ROWS
    return Probe(backend, whole, tokens, law, seed, progress, rows)


def choose_subspace(
    host: Backend,
    sites: tuple[Site, ...],
    prompts: Sequence[Prompt],
    config: Config,
    start: Theta | None = None,
    blocks: Blocks | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Subspace:
    """Choose and scale the coordinates of a run; no vote is asked for and no reward is seen.

    Args:
        host: Holds the base model.
        sites: The layers that are adapted.
        prompts: The training prompts.
        config: The settings: the kind of subspace, and how it is found.
        start: A and B by ``site.a`` and ``site.b``, such as a starting adapter's; None: the run
            starts at the base model, with A from each layer's inputs.
        blocks: Adapters whose weights are the coordinates; ``start`` then holds their factors.
        progress: Called with (what, done, of).
    """
    began = time.monotonic()
    kind, seed, sampling = config.coordinates, config.subspace.setup_seed, sampling_of(config)
    if not prompts:
        raise UsageError("the set-up needs prompts; give those the run trains on")
    rate = find_rate(config, host) if kind in NAMED else None
    zero = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    # Where B is 0 the answers are those of the base model, whatever A is.
    blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
    only_b = config.adapter.train == "B"
    names = [s.b for s in sites] if only_b else [n for s in sites for n in (s.a, s.b)]

    def probe_at(weights: Theta) -> Probe:
        moving = {name: weights[name] for name in names}
        fixed = {n: v for n, v in weights.items() if n not in moving}
        return probe_in(Subspace(kind, sites, fixed, moving, {}))

    def probe_in(whole: Subspace) -> Probe:
        return probe_of(host, whole, prompts, sampling, seed, progress)

    if blocks is not None and start is not None:
        probe = probe_in(Subspace(kind, sites, start, {}, {}, blocks=blocks))
        size = sum(v.size for v in start.values())
    else:
        probe = probe_at({**blank, **zero} if start is None else start)
        size = sum(v.size for v in probe.whole.start.values())
    if config.dim > size and kind not in ("full", "adapters"):
        raise UsageError(
            f"subspace.dim {config.dim} is more than the {size} weights of the chosen layers; "
            "lower it, or choose more adapter.layers"
        )
    base: list[Sample] = []
    if kind in SCORED:
        each = ANSWERS_EACH if kind in NAMED else 1
        base = probe.start_samples(config.samples, each)
    elif start is None:
        base = probe.start_samples(INPUT_SAMPLES)
    if start is None:
        read = probe.read_inputs(base[:INPUT_SAMPLES])
        probe = probe_at({**read, **zero})
    whole = probe.whole

    def text_of(tokens: Sequence[int]) -> str:
        return loading.answer_of(host.facts, tokens, sampling.stop).text

    if kind == "score":
        found = score_subspace(probe, whole, config, base)
    elif kind == "features":
        found = feature_subspace(probe, whole, config, base, prompts, text_of, rate)
    elif kind == "adapters":
        found = adapter_subspace(probe, whole, config, base, prompts, text_of, rate)
    elif kind == "random":
        found = random_subspace(probe, whole, config)
    else:
        found = full_subspace(probe, whole, config)
    report = {
        "kind": kind, "dim": found.dim, "sites": [s.name for s in sites],
        "layers": sorted({s.depth for s in sites if s.depth is not None}),
        "weights": size, "samples": len(base), "seconds": round(time.monotonic() - began, 1),
        **found.report,
    }  # fmt: skip
    if found.in_z:
        ruler = [[nats, text_of(tokens)] for nats, tokens in draw_ruler(probe, found)]
        report["ruler"] = {"prompt": prompts[0].text, "answers": ruler}
    return replace(found, report=report)
