"""Weights of adapters as coordinates: stacked side by side, and whitened by KL.

Stack adapters of one base side by side, so that each coordinate scales its own block. The sum of
w_j · scale_j · B_j A_j over adapters is one product B (w ∘ A x): at each site the rows of all A_j
are stacked, and the columns of all scale_j · B_j beside them, in the order of the adapters. The
blocks differ in rank and in the sites that they adapt. A starting adapter is the first block, and
its weight stays 1.

Let s_j be an answer's score along adapter j and F_jk = E[s_j s_k] the Fisher matrix in w, both as
measured on the start's own answers (`szpo.models.scores`). With D = diag F and the matrix
C = D^{-1/2} F D^{-1/2}, T = c · D^{-1/2} C^{-1/2}: of all T that make the Fisher matrix in z a
multiple of the identity, the one whose coordinates are nearest to their own adapters. Measured KL
gives c, so that near the start KL(π_z ‖ π_0) ≈ |z|²/2 nats.

A policy gradient without a gradient: E[s_z φ_f] over the same answers, centred within prompts, is
how a feature φ_f of the texts grows along each coordinate.

Far from the start KL grows otherwise along each adapter and in each sense, most where the start
hardly ever does what the adapter does. So it is measured at two lengths in both, for words and for
mixes by hand; z and T do not depend on it.

Votes and rewards are not used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.config.schema import CURVE_ANSWERS, Config
from szpo.errors import RunError, UsageError
from szpo.features import dictionary, differences, user_features
from szpo.models import adapters
from szpo.models.logprobs import Sample
from szpo.models.lora import SERVER_RANKS, Site
from szpo.optim.named_features import LENGTHS, Curve, rising
from szpo.optim.sparse_prior import group_features
from szpo.policies.backend import Backend
from szpo.policies.basis import alike, centre, kl_correction, standardise
from szpo.policies.probe import Probe
from szpo.policies.subspaces import Blocks, FeatureMap, Subspace
from szpo.types import Floats, Ints, Prompt, Say, Theta

MOST_BYTES = 256 * 2**20
"""Largest size of all factors in fp32: the record holds them."""
STARTING = -1
"""Owner of the entries whose weight is always 1."""

Stacked: TypeAlias = tuple[tuple[Site, ...], dict[str, NDArray[np.float32]], Blocks, bool]
"""Sites; A and B of all adapters side by side, by ``site.a`` and ``site.b``, with each scale in B;
their weights, which are the coordinates (T is the identity); whether some layers are GPT-2's
transposed ``Conv1D``."""

TRIED: Final = 32
"""Answers on which the adapters' first step is measured."""
AIM: Final = 1.0
"""Nats that a step of the measurement costs: about as far as votes will move the policy."""
NOTHING: Final = 1e-6
"""An adapter whose weight of 1 costs fewer nats changes nothing."""
RIDGE: Final = 0.01
"""Ridge on C, for adapters that do the same."""
KL_RADII: Final = (1.0, 2.0)
"""Lengths |z| at which the scale is measured: up to that of a side."""


@dataclass(frozen=True)
class Part:
    """One adapter: its sites, with rank and scale, and its factors."""

    name: str
    owner: int
    sites: tuple[Site, ...]
    factors: Theta


def gather(config: Config, host: Backend, say: Say) -> Stacked:
    """Read the adapters of the settings, and the starting adapter, for this host's model.

    Raises:
        UsageError: One of them does not fit the model, or all of them are too large.
    """
    loaded, conv1d = host.facts, False
    parts: list[Part] = []
    sources: list[dict[str, Any]] = []
    if loaded.adapter is not None:
        sites, conv1d = host.places(config.adapter, loaded.adapter.config)
        own = adapters.factors(loaded.adapter, sites)
        parts.append(Part("the starting adapter", STARTING, sites, own))
    where: dict[str, tuple[tuple[Site, ...], bool]] = {}  # the adapters of a set share a config
    for place in adapters.find(config.subspace.adapters):
        adapter, facts = adapters.read(place, loaded.name, loaded.folder)
        if (key := json.dumps(adapter.config, sort_keys=True)) not in where:
            try:
                where[key] = host.places(config.adapter, adapter.config)
            except UsageError as error:
                raise UsageError(f"adapter {place.folder}: {error}") from None
        sites, transposed = where[key]
        conv1d = conv1d or transposed
        parts.append(Part(place.name, len(sources), sites, adapters.factors(adapter, sites)))
        sources.append(facts)
        if loaded.sha256 and facts["base_sha256"] not in (None, loaded.identity.files.sha256):
            say(f'warning: adapter "{place.name}" was made on another {loaded.name}')
    return stack(parts, sources, conv1d)


def stack(parts: Sequence[Part], sources: Sequence[dict[str, Any]], conv1d: bool) -> Stacked:
    """Stack the parts; ``sources`` are the facts of those with an owner, in order."""
    for part in parts:
        _require_shapes(part)
    sites: dict[str, Site] = {}
    for part in parts:
        for site in part.sites:
            before = sites.get(site.name)
            rank = site.rank + (before.rank if before else 0)
            sites[site.name] = replace(site, rank=rank, scale=1.0)
    _require_room(parts, tuple(sites.values()))
    factors: dict[str, NDArray[np.float32]] = {}
    owners: dict[str, NDArray[np.int64]] = {}
    for name, site in sites.items():
        here = [(p, own) for p in parts for own in p.sites if own.name == name]
        factors[site.a] = np.concatenate([p.factors[own.a] for p, own in here])
        scaled = [p.factors[own.b] * np.float32(own.scale) for p, own in here]
        factors[site.b] = np.concatenate(scaled, axis=1)
        owners[name] = np.concatenate([np.full(own.rank, p.owner) for p, own in here])
    names = tuple(part.name for part in parts if part.owner != STARTING)
    blocks = Blocks(names, tuple(sources), owners, np.eye(len(names), dtype=np.float32))
    return tuple(sites.values()), factors, blocks, conv1d


def _require_shapes(part: Part) -> None:
    for site in part.sites:
        shapes = {site.a: (site.rank, site.inputs), site.b: (site.outputs, site.rank)}
        for name, shape in shapes.items():
            if (its := part.factors[name].shape) != shape:
                raise UsageError(
                    f'adapter "{part.name}": {name} is {its}, and this model with its '
                    f"adapter_config.json makes it {shape}; give the adapter's own base"
                )


def _require_room(parts: Sequence[Part], sites: Sequence[Site]) -> None:
    most, rank = SERVER_RANKS[-1], max(site.rank for site in sites)
    if rank > most:
        each = ", ".join(f"{p.name} {max(s.rank for s in p.sites)}" for p in parts)
        raise UsageError(
            f"subspace.adapters: ranks add up to {rank}, more than {most} ({each}); leave some "
            "out, or lower their ranks"
        )
    size = sum(4 * site.rank * (site.inputs + site.outputs) for site in sites)
    if size > MOST_BYTES:
        raise UsageError(
            f"subspace.adapters: their factors take {size / 2**20:,.0f} MB, more than the "
            f"{MOST_BYTES // 2**20} MB that a run records; leave some out, or lower their ranks"
        )


def adapter_subspace(
    probe: Probe,
    whole: Subspace,
    config: Config,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    text_of: Callable[[Sequence[int]], str],
    rate: user_features.Rate | None = None,
) -> Subspace:
    """Whiten the adapters' weights, and measure how features respond to them.

    ``base``: the start's answers to these prompts; ``text_of`` turns their tokens into texts.
    """
    blocks = whole.blocks
    assert blocks is not None
    began = time.monotonic()
    steps = _steps(probe, base, blocks.names)
    moves = probe.read_moves(base, one_at_a_time(steps))
    T = whiten(moves[:, 1:].mean(0)) * steps[:, None]
    raw = replace(whole, blocks=replace(blocks, mixing=T.astype(np.float32)))
    seconds = time.monotonic() - began
    correction, kl = kl_correction(probe, raw, KL_RADII)
    mixed: Blocks = replace(blocks, mixing=(T * correction).astype(np.float32))
    scores = moves[:, 0] @ (mixed.mixing / steps[:, None])
    features, facts = _respond(scores, config, base, prompts, text_of, rate)
    curves, curve_facts = measure_curves(probe, mixed)
    return replace(
        raw,
        blocks=replace(mixed, curves=curves),
        features=features,
        report={
            "score_seconds": round(seconds, 1), "steps": [float(f"{x:.4g}") for x in steps],
            "nats": [float(f"{x:.4g}") for x in (moves[:, 1:].mean(0).diagonal() / 2 / steps**2)],
            **kl, "correction": correction, **facts, **curve_facts,
        },
    )  # fmt: skip


def measure_curves(probe: Probe, blocks: Blocks) -> tuple[tuple[Curve, ...], dict[str, Any]]:
    """What each adapter alone costs in both senses, and the facts of measuring it."""
    began = time.monotonic()
    steps = [sign * length for sign in (-1, 1) for length in LENGTHS]
    members = [{"z": blocks.weights(step * axis)} for axis in blocks.axes for step in steps]
    nats = probe.kl(members, CURVE_ANSWERS, "curves", "KL of each adapter alone")
    if not (np.isfinite(nats).all() and (nats.mean(1) > 0).all()):
        raise RunError("the KL of an adapter alone is not a positive number; set model.dtype=fp32")
    mean, error = nats.mean(1), nats.std(1, ddof=1) / CURVE_ANSWERS**0.5
    pairs = [rising(*pair) for pair in mean.reshape(-1, 2).tolist()]
    curves = [[float(f"{x:.4g}") for x in row] for row in np.reshape(pairs, (-1, 4))]
    return tuple(map(tuple, curves)), {
        "curve_seconds": round(time.monotonic() - began, 1),
        "curve_stderr": float(f"{np.median(error / mean):.3g}"),
    }


def one_at_a_time(steps: Floats) -> tuple[Theta, ...]:
    """Coordinates of members at each step along its own coordinate."""
    return tuple({"z": row} for row in np.diag(steps).astype(np.float32))


def _steps(probe: Probe, base: Sequence[Sample], names: Sequence[str]) -> Floats:
    """The weight (k,) at which each adapter alone costs about `AIM` nats."""
    step, few = np.ones(len(names)), base[:TRIED]
    nats = probe.read_moves(few, one_at_a_time(step))[:, 1:].mean(0).diagonal() / 2
    if still := [name for name, x in zip(names, nats, strict=True) if not x > NOTHING]:
        raise UsageError(
            f'subspace.adapters: "{still[0]}" changes nothing in this model\'s answers; leave it '
            "out, or give its own base"
        )
    return np.asarray(np.sqrt(AIM / nats))


def whiten(fisher: Floats) -> Floats:
    """T (k, k) with Tᵀ F T near the identity, whose columns stay near their own coordinates.

    >>> whiten(np.array([[4.0, 0.0], [0.0, 1.0]])).round(3).tolist()
    [[0.498, 0.0], [0.0, 0.995]]
    """
    size = np.sqrt(fisher.diagonal())
    values, axes = np.linalg.eigh(fisher / size / size[:, None] + RIDGE * np.eye(len(size)))
    return np.asarray((axes / np.sqrt(values)) @ axes.T / size[:, None])


def _respond(
    scores: Floats,
    config: Config,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    text_of: Callable[[Sequence[int]], str],
    rate: user_features.Rate | None,
) -> tuple[FeatureMap, dict[str, Any]]:
    """The features' response to the coordinates, and its facts."""
    holding = dictionary.holding([prompt.text for prompt in prompts])
    entries, described = user_features.choose(
        config.features.own, config.features.drop, holding, rate
    )
    pairs = [(prompts[s.group].text, text_of(s.answer)) for s in base]
    user_features.rate_ahead(entries, pairs)
    values = differences.values(pairs, entries)
    groups = np.array([sample.group for sample in base])
    slopes, errors = response(scores, values, groups)
    phi, spread, _ = standardise(values, groups)
    scales = tuple(differences.scale(each) for each in spread)
    names, digest = tuple(each.name for each in entries), dictionary.digest()
    added = tuple(astuple(each) for each in described)
    classes = np.array([name in {each[0] for each in added} for name in names])
    alike_in_texts = tuple(group_features(phi.T @ phi, classes).tolist())
    facts = {
        "response_stderr": float(f"{np.median(errors):.3g}"),
        "reach": np.round(np.minimum((slopes**2).sum(0), 1.0), 4).tolist(),
        "skew": [0.0] * len(entries),
        "same": np.round(alike(values, groups), 4).tolist(),
    }
    moved = slopes.astype(np.float32)
    return FeatureMap(names, scales, moved, 0, digest, added, alike_in_texts), facts


def response(scores: Floats, values: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """How features grow along coordinates, in spreads for a unit, and the standard errors (d, k).

    Each entry is shrunk by its own error (James and Stein 1961, positive part): one that is not
    longer than its error is 0. ``scores`` (n, d) and ``values`` (n, k) are of answers to the
    prompts ``groups`` (n,).
    """
    s, phi = centre(scores, groups), standardise(values, groups)[0]
    n = len(s)
    inflate = n / max(n - len(np.unique(groups)), 1)  # a mean was taken out of each prompt
    mean = s.T @ phi / n
    square = np.maximum((s**2).T @ phi**2 / n - mean**2, 0.0)
    error = np.sqrt(square / n)
    kept = np.maximum(1 - error**2 / np.maximum(mean**2, 1e-300), 0.0)
    return mean * kept * inflate, error * inflate
