"""Choose and scale the coordinates of a run, before anybody votes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.feature_basis import ANSWERS_EACH, feature_subspace
from szpo.policies.hosts import Host
from szpo.policies.kl_calibration import (
    KL_DIRECTIONS,
    draw_ruler,
    full_subspace,
    random_subspace,
)
from szpo.policies.probe import ROWS, Probe, Progress
from szpo.policies.score_basis import score_subspace
from szpo.policies.subspaces import KINDS, SetupSettings, Subspace
from szpo.types import Prompt, Theta

WORKERS_ROWS = 4096
"""Answers that workers are asked for at a time; they cut them into chunks."""
INPUT_SAMPLES = 64
"""Answers whose layer inputs give A."""


def choose_subspace(
    host: Host,
    sites: tuple[Site, ...],
    prompts: Sequence[Prompt],
    setup: SetupSettings | None = None,
    start: Theta | None = None,
    progress: Progress | None = None,
) -> Subspace:
    """Choose and scale the coordinates of a run; no vote is asked for and no reward is seen.

    Args:
        host: Holds the base model.
        sites: The layers that are adapted.
        prompts: Those the run trains on.
        setup: The kind of subspace, and how it is found.
        start: A and B by ``site.a`` and ``site.b``, from a starting adapter; None starts at the
            base model with A from each layer's inputs.
        progress: Called with (what, done, of).

    Raises:
        UsageError: A setting does not fit the model, such as more coordinates than weights.
        RunError: Scores or KL are not finite, or the adapter does not move the policy.
    """
    began = time.monotonic()
    setup = setup or SetupSettings()
    _check(setup, prompts)
    law = replace(setup.sampling, top_p=1.0, top_k=0)
    if law.temperature == 0:
        raise UsageError("temperature 0 has no score and no KL; set a temperature above 0")
    tokens = tuple(loading.encode(host.facts.tokenizer, p) for p in prompts)
    zero = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    # Where B is 0 the answers are those of the base model, whatever A is.
    blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
    report_progress = progress or (lambda what, done, of: None)
    names = [s.b for s in sites] if setup.train == "B" else [n for s in sites for n in (s.a, s.b)]

    def probe_at(weights: Theta) -> Probe:
        moving = {name: weights[name] for name in names}
        fixed = {n: v for n, v in weights.items() if n not in moving}
        whole = Subspace(setup.kind, sites, fixed, moving, {})
        space = Space(setup.root_seed, whole.layout, Law())
        answerer = host.at(whole, space)
        rows = ROWS if host.chunk_rows is None else WORKERS_ROWS
        return Probe(answerer, whole, tokens, law, setup.root_seed, report_progress, rows)

    probe = probe_at({**blank, **zero} if start is None else start)
    size = sum(v.size for v in probe.whole.start.values())
    if setup.dim > size and setup.kind != "full":
        raise UsageError(f"dim {setup.dim} is more than the {size} weights of the chosen layers")
    base: list[Sample] = []
    if setup.kind in ("score", "features"):
        each = ANSWERS_EACH if setup.kind == "features" else 1
        base = probe.start_samples(setup.samples, each)
    elif start is None:
        base = probe.start_samples(INPUT_SAMPLES)
    if start is None:
        read = probe.read_inputs(base[:INPUT_SAMPLES])
        probe = probe_at({**read, **zero})
    whole = probe.whole

    def text_of(tokens: Sequence[int]) -> str:
        return loading.answer_of(host.facts, tokens, setup.sampling.stop).text

    if setup.kind == "score":
        found = score_subspace(probe, whole, setup, base)
    elif setup.kind == "features":
        found = feature_subspace(probe, whole, setup, base, prompts, text_of)
    elif setup.kind == "random":
        found = random_subspace(probe, whole, setup)
    else:
        found = full_subspace(probe, whole, setup)
    report = {
        "kind": setup.kind, "dim": found.dim, "sites": [s.name for s in sites],
        "layers": sorted({s.depth for s in sites if s.depth is not None}),
        "weights": size, "samples": len(base), "seconds": round(time.monotonic() - began, 1),
        **found.report,
    }  # fmt: skip
    if found.basis:
        ruler = [[nats, text_of(tokens)] for nats, tokens in draw_ruler(probe, found)]
        report["ruler"] = {"prompt": prompts[0].text, "answers": ruler}
    return replace(found, report=report)


def _check(setup: SetupSettings, prompts: Sequence[Prompt]) -> None:
    if setup.kind not in KINDS:
        raise UsageError(f"subspace kind must be one of {', '.join(KINDS)} (got {setup.kind!r})")
    if setup.train not in ("B", "AB"):
        raise UsageError(f"train must be B or AB (got {setup.train!r})")
    if setup.train == "AB" and setup.kind != "full":
        raise UsageError(f"subspace {setup.kind} moves B only; choose kind full to train A and B")
    if setup.dim < 1:
        raise UsageError(f"dim must be at least 1 (got {setup.dim})")
    if setup.kind in ("score", "features") and setup.samples < 4 * setup.dim:
        raise UsageError(f"samples must be at least 4·dim = {4 * setup.dim} (got {setup.samples})")
    if setup.kl_samples < KL_DIRECTIONS:
        raise UsageError(f"kl_samples must be at least {KL_DIRECTIONS} (got {setup.kl_samples})")
    if not prompts:
        raise UsageError("the set-up needs prompts; give those the run trains on")
