"""White coordinates z of the weights w of adapters, by KL: w = T z.

Let s_j be an answer's score along adapter j and F_jk = E[s_j s_k] the Fisher matrix in w, both as
measured on the start's own answers (`szpo.models.logit_moves`). With D = diag F and the matrix
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

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import Any, Final

import numpy as np

from szpo.config.schema import CURVE_ANSWERS, Config
from szpo.errors import RunError, UsageError
from szpo.features import dictionary, differences, own
from szpo.models.logprobs import Sample
from szpo.optim.named_features import LENGTHS, Curve, rising
from szpo.optim.sparse_prior import group_features
from szpo.policies.feature_basis import alike, centre, standardise
from szpo.policies.probe import Probe
from szpo.policies.score_basis import kl_correction
from szpo.policies.subspaces import Blocks, FeatureMap, Subspace
from szpo.types import Floats, Ints, Prompt, Theta

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


def adapter_subspace(
    probe: Probe,
    whole: Subspace,
    config: Config,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    text_of: Callable[[Sequence[int]], str],
    rate: own.Rate | None = None,
) -> Subspace:
    """Whiten the adapters' weights, and measure how features respond to them.

    Args:
        probe: The starting policy, in the adapters' weights w.
        whole: The subspace of w.
        config: The settings.
        base: Answers of the starting policy.
        prompts: The prompts that these answer, by `Sample.group`.
        text_of: Turns an answer's tokens into the text that people read.
        rate: Asks the judge for the user's own features, if any needs one.
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
    found = probe.kl(members, CURVE_ANSWERS, "curves", "KL of each adapter alone")
    if not (np.isfinite(found).all() and (found.mean(1) > 0).all()):
        raise RunError("the KL of an adapter alone is not a positive number; set model.dtype=fp32")
    mean, error = found.mean(1), found.std(1, ddof=1) / CURVE_ANSWERS**0.5
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


def whiten(fisher: Floats, ridge: float = RIDGE) -> Floats:
    """T (k, k) with Tᵀ F T near the identity, whose columns stay near their own coordinates.

    >>> whiten(np.array([[4.0, 0.0], [0.0, 1.0]]), ridge=0).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    size = np.sqrt(fisher.diagonal())
    values, axes = np.linalg.eigh(fisher / size / size[:, None] + ridge * np.eye(len(size)))
    return np.asarray((axes / np.sqrt(values)) @ axes.T / size[:, None])


def _respond(
    scores: Floats,
    config: Config,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    text_of: Callable[[Sequence[int]], str],
    rate: own.Rate | None,
) -> tuple[FeatureMap, dict[str, Any]]:
    """The features' response to the coordinates, and its facts."""
    holding = dictionary.holding([prompt.text for prompt in prompts])
    entries, described = own.choose(config.features.own, config.features.drop, holding, rate)
    pairs = [(prompts[s.group].text, text_of(s.answer)) for s in base]
    described = own.learn(entries, described, pairs)
    each = (dictionary.ratios(*pair, entries) for pair in pairs)
    values = np.array([[top / bottom for top, bottom in ratios] for ratios in each])
    groups = np.array([sample.group for sample in base])
    found, errors = response(scores, values, groups)
    phi, spread, _ = standardise(values, groups)
    scales = tuple(differences.scale(each) for each in spread)
    names, digest = tuple(each.name for each in entries), dictionary.digest()
    added = tuple(astuple(each) for each in described)
    classes = np.array([name in {each[0] for each in added} for name in names])
    alike_in_texts = tuple(group_features(phi.T @ phi, classes).tolist())
    facts = {
        "response_stderr": float(f"{np.median(errors):.3g}"),
        "reach": np.round(np.minimum((found**2).sum(0), 1.0), 4).tolist(),
        "skew": [0.0] * len(entries),
        "same": np.round(alike(values, groups), 4).tolist(),
    }
    moved = found.astype(np.float32)
    return FeatureMap(names, scales, moved, 0, digest, added, alike_in_texts), facts


def response(scores: Floats, values: Floats, groups: Ints) -> tuple[Floats, Floats]:
    """How features grow along coordinates, in spreads for a unit, and the standard errors (d, k).

    Each entry is shrunk by its own error (James and Stein 1961, positive part): one that is not
    longer than its error is 0.

    Args:
        scores: Scores of the answers along the coordinates (n, d).
        values: Values of the features (n, k).
        groups: The prompt of each answer (n,).
    """
    s, phi = centre(scores, groups), standardise(values, groups)[0]
    n = len(s)
    inflate = n / max(n - len(np.unique(groups)), 1)  # a mean was taken out of each prompt
    mean = s.T @ phi / n
    square = np.maximum((s**2).T @ phi**2 / n - mean**2, 0.0)
    error = np.sqrt(square / n)
    kept = np.maximum(1 - error**2 / np.maximum(mean**2, 1e-300), 0.0)
    return mean * kept * inflate, error * inflate
