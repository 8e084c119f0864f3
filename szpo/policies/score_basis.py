"""Coordinates from principal directions of the score, whitened by the Fisher matrix."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.config.schema import KL_SAMPLES, Config
from szpo.errors import RunError
from szpo.models.logprobs import Sample, largest_eigenpairs
from szpo.policies.kl_calibration import KL_DIRECTIONS, kl_ratios, unit_directions
from szpo.policies.probe import Probe
from szpo.policies.subspaces import Subspace, split_basis
from szpo.types import Floats

KL_RADII = (0.5, 1.0)
"""Lengths |δ| at which the score subspace's scale is measured."""
KL_PRECISION = 0.06
"""Relative standard error of the scale at which measuring stops."""
KL_PASSES = 8


def score_subspace(
    probe: Probe, whole: Subspace, config: Config, base: Sequence[Sample]
) -> Subspace:
    """Find the whitened principal directions of the scores of ``base``, scaled by measured KL.

    ``base`` are answers of the starting policy, ``whole`` the subspace of all moving weights.
    """
    began = time.monotonic()
    first = halves(base)
    basis, spectrum = components(
        probe.read_scores(
            [s for s, one in zip(base, first, strict=True) if one],
            config.subspace.redraws,
            "scores that choose directions",
        ),
        probe.read_scores(
            [s for s, one in zip(base, first, strict=True) if not one],
            config.subspace.redraws,
            "scores that whiten them",
        ),
        config.dim,
    )
    seconds = time.monotonic() - began
    scaled, correction, kl = scale_by_kl(probe, whole, config, basis)
    return replace(
        scaled,
        report={
            "score_seconds": round(seconds, 1),
            "second_moment": [float(x) for x in spectrum],
            **kl,
            "correction": correction,
        },
    )


def scale_by_kl(
    probe: Probe, whole: Subspace, config: Config, basis: Floats
) -> tuple[Subspace, float, dict[str, Any]]:
    """Scale a whitened basis (D, d) so that measured KL is |z|²/2: subspace, factor, report."""
    raw = replace(whole, basis=split_basis(whole.start, basis))
    correction, report = kl_correction(probe, raw)
    scaled = replace(raw, basis=split_basis(whole.start, basis * correction))
    return scaled, correction, report


def kl_correction(
    probe: Probe, raw: Subspace, radii: Sequence[float] = KL_RADII
) -> tuple[float, dict[str, Any]]:
    """The factor on whitened coordinates with which measured KL is |z|²/2, and a report."""
    measured = _measure_ratios(probe, raw, radii)
    ratios = {radius: float(values.mean()) for radius, values in measured.items()}
    correction = math.exp(-0.5 * sum(map(math.log, ratios.values())) / len(ratios))
    return correction, {
        "raw_kl_ratio": {str(r): v for r, v in ratios.items()},
        "raw_kl_ratio_stderr": {
            str(r): float(v.std(ddof=1) / math.sqrt(v.size)) for r, v in measured.items()
        },
    }


def _measure_ratios(
    probe: Probe, subspace: Subspace, radii: Sequence[float]
) -> dict[float, Floats]:
    """Measure `kl_ratios` along new directions until their mean has `KL_PRECISION`.

    One pass is enough for most models; if KL varies much between answers, it takes more.
    """
    rows = max(1, KL_SAMPLES // (len(radii) * KL_DIRECTIONS))
    found: dict[float, list[Floats]] = {radius: [] for radius in radii}
    for i in range(KL_PASSES):
        probe.progress("KL scale", i, KL_PASSES)
        units = unit_directions(probe.root_seed, KL_DIRECTIONS, subspace.dim, f"kl {i}")
        ratios = kl_ratios(probe, subspace, units, radii, rows, f"kl {i}")
        for radius, values in ratios.items():
            found[radius].append(values)
        both = np.mean([np.concatenate(parts).mean(1) for parts in found.values()], axis=0)
        if both.std(ddof=1) / math.sqrt(len(both)) < KL_PRECISION * both.mean():
            break
    return {radius: np.concatenate(parts) for radius, parts in found.items()}


def halves(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """Mark the first half of the samples: every other prompt, or sample if there is one prompt."""
    groups = np.array([s.group for s in samples])
    ranks = np.unique(groups, return_inverse=True)[1]
    if ranks.max() == 0:
        ranks = np.arange(len(groups))
    return np.asarray(ranks % 2 == 0)


def components(
    first: Iterable[NDArray[np.float32]], second: Iterable[NDArray[np.float32]], dim: int
) -> tuple[Floats, Floats]:
    """Whitened score directions: Q of the first half's second moment, C of the second half's.

    A half with more rows than columns is never in memory as a whole.

    Args:
        first: Scores that choose the directions, in blocks (rows, D).
        second: Scores that give C = Qᵀ E[s sᵀ] Q, in blocks (rows, D); read after the first.
        dim: Number of directions.

    Returns:
        P (D, dim) with Pᵀ F̂₂ P = I, and the second half's second moment along each column of Q.

    >>> s = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    >>> components([s], [s], 1)[0].round(3).tolist()  # E[s₁²] = 4.5, so 1/√4.5
    [[0.471], [0.0]]
    """
    Q = leading_directions(first, dim)
    C, count = np.zeros((dim, dim)), 0
    for block in second:
        small = block.astype(np.float64) @ Q
        C += small.T @ small
        count += len(block)
    C /= max(count, 1)  # C = Qᵀ F̂₂ Q
    values, axes = np.linalg.eigh(C)
    if values[0] <= 1e-9 * values[-1]:
        raise RunError(
            f"too few base answers to whiten {dim} directions; lower subspace.dim or raise "
            "subspace.samples"
        )
    return Q @ (axes / np.sqrt(values)) @ axes.T, np.diag(C)  # P = Q C^{-1/2}


def leading_directions(blocks: Iterable[NDArray[np.float32]], dim: int) -> Floats:
    """Leading eigenvectors (D, dim) of Σ s sᵀ over the rows of all blocks, largest entry positive.

    With fewer rows than columns they come from the rows' inner products (n, n); with more, from
    the sum itself (D, D), to which rows are added D at a time.
    """
    rows: list[NDArray[np.float32]] = []
    moment: Floats | None = None
    for block in blocks:
        rows.append(block)
        if sum(map(len, rows)) > block.shape[1]:
            moment = _add_moment(moment, rows)
            rows = []
    if moment is None:
        S = np.concatenate(rows).astype(np.float64)
        values, vectors = largest_eigenpairs(S @ S.T, dim)
        Q = S.T @ vectors / np.sqrt(np.maximum(values, 1e-300))
    else:
        values, Q = largest_eigenpairs(_add_moment(moment, rows), dim)
    # Well above the eigenvalues' rounding errors, about 1e-16 · n of the largest.
    rank = int((values > 1e-12 * values[0]).sum())
    if len(values) < dim or rank < dim:
        raise RunError(
            f"scores span only {rank} directions of {dim}; lower subspace.dim or raise "
            "subspace.samples"
        )
    return np.asarray(Q * np.sign(Q[np.abs(Q).argmax(0), np.arange(dim)]))


def _add_moment(moment: Floats | None, rows: Sequence[NDArray[np.float32]]) -> Floats | None:
    if not rows:
        return moment
    S = np.concatenate(rows).astype(np.float64)
    return S.T @ S if moment is None else moment + S.T @ S
