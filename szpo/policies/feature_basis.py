"""Coordinates from named features of the texts: the natural gradient of each, whitened.

Let s be the score of an answer that the starting policy drew, φ a feature of its text, both
centred within prompts, and F = E[s sᵀ]. The direction in which E[φ] grows fastest for a given KL
is its natural gradient g = F⁻¹ E[s φ] (Amari 1998, Natural gradient works efficiently in learning;
Kakade 2001, A natural policy gradient). The leading score components come first, as in
`szpo.policies.score_basis`: what they carry is found as fast as before. The parts of the natural
gradients outside them follow, and all are whitened, so that near the start
KL(π_z ‖ π_0) ≈ |z|²/2 nats and E[φ_f](z) ≈ E[φ_f](0) + σ_f · map[:, f]ᵀ z.

No vote is seen, and no reward.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from szpo.errors import RunError
from szpo.features import dictionary, differences, own
from szpo.models.logprobs import Sample, largest_eigenpairs
from szpo.policies.probe import Probe
from szpo.policies.score_basis import scale_by_kl
from szpo.policies.subspaces import FeatureMap, SetupSettings, Subspace
from szpo.types import Floats, Ints, Prompt

ANSWERS_EACH = 8
"""Answers to each prompt, at least: what is learned is how answers to the same prompt differ."""
BLOCK = 256
"""Answers whose scores are read at a time."""
COMPONENTS = 8
"""Leading score components that come first."""
RIDGE = 1e-3
"""Added to F, as a share of its trace."""
FLAT = 1e-3
"""Directions whose second moment is below this share of a feature's own are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCoordinates:
    """Whitened coordinates in which named features move, and how far each can be moved."""

    basis: Floats
    """(D, d): columns over all moving weights, of unit second moment."""
    map: Floats
    """(d, k): each feature's natural gradient; its change along each coordinate, in spreads."""
    spread: Floats
    """(k,): standard deviation within prompts among the start's answers; 0 where none differ."""
    reach: Floats
    """(k,): squared correlation of a feature with its direction's score on prompts not used, the
    share of its variance that the coordinates can move; 0 where it is negative."""
    skew: Floats
    """(k,): skewness of that score: above 0 a long step costs more than |z|²/2."""


def feature_subspace(
    probe: Probe,
    whole: Subspace,
    setup: SetupSettings,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    texts: Sequence[str],
) -> Subspace:
    """Find the coordinates of the dictionary's features, scaled by measured KL.

    Args:
        probe: The starting policy.
        whole: The subspace of all moving weights.
        setup: Of the set-up; ``dim`` score components come first.
        base: Answers of the starting policy.
        prompts: Those that they answer, by `Sample.group`.
        texts: The answers as people read them.
    """
    began = time.monotonic()
    scores = np.concatenate(
        [
            probe.read_scores_in_order(base[first : first + BLOCK])
            for first in range(0, len(base), BLOCK)
        ]
    )
    holding = dictionary.holding([prompt.text for prompt in prompts])
    entries, described = own.choose(setup.add, setup.drop, holding, setup.rate)
    groups = np.array([sample.group for sample in base])
    pairs = [(prompts[g].text, text) for g, text in zip(groups, texts, strict=True)]
    own.rate_ahead(entries, pairs)
    values = np.array(
        [[top / bottom for top, bottom in dictionary.ratios(*p, entries)] for p in pairs]
    )
    found = find_coordinates(scores, values, groups, components=setup.dim)
    seconds = time.monotonic() - began
    scaled, correction, kl = scale_by_kl(probe, whole, setup, found.basis)
    # What is stored, shared and shipped is exactly what a run uses.
    basis = {n: v.astype(np.float16).astype(np.float32) for n, v in scaled.basis.items()}
    return replace(
        scaled,
        basis=basis,
        features=FeatureMap(
            tuple(each.name for each in entries),
            tuple(differences.scale(spread) for spread in found.spread),
            (found.map * correction).astype(np.float32),
            setup.dim,
            dictionary.digest(),
            tuple(astuple(each) for each in described),
        ),
        report={
            "score_seconds": round(seconds, 1), **kl, "correction": correction,
            "reach": np.round(found.reach, 4).tolist(), "skew": np.round(found.skew, 3).tolist(),
            "same": np.round(alike(values, groups), 4).tolist(),
        },
    )  # fmt: skip


def find_coordinates(
    scores: NDArray[np.float32],
    features: Floats,
    groups: Ints,
    *,
    components: int = COMPONENTS,
    ridge: float = RIDGE,
) -> FeatureCoordinates:
    """Find the coordinates from n base answers.

    Args:
        scores: Of the answers at the start (n, D).
        features: Values of each named feature (n, k).
        groups: The prompt of each answer (n,).
        components: How many leading score components come first.
        ridge: Added to the Fisher matrix, as a share of its trace.

    Raises:
        RunError: The scores span fewer directions than ``components``.
    """
    S, phi = centre(scores, groups), centre(features, groups)
    spread = phi.std(0)
    moving = spread > 1e-9
    phi = np.where(moving, phi / np.where(moving, spread, 1.0), 0.0)
    kernel = Fisher(S, ridge)
    G = kernel.natural(phi)
    P = kernel.leading(components)
    SP = S @ P
    size = np.sqrt(np.maximum(((S @ G) ** 2).mean(0), 1e-300))
    rest = (G - P @ (SP.T @ (S @ G) / len(S)))[:, moving] / size[moving]
    SR = S @ rest
    values, axes = np.linalg.eigh(SR.T @ SR / len(S))
    kept = values[::-1] > FLAT
    axes, values = axes[:, ::-1][:, kept], values[::-1][kept]
    basis = np.concatenate([P, rest @ (axes / np.sqrt(values))], axis=1)
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    found = (S @ basis).T @ (S @ G) / len(S)
    return FeatureCoordinates(
        basis,
        np.where(moving, found, 0.0),
        np.where(moving, spread, 0.0),
        *_reach(S, phi, groups, ridge),
    )


def centre(values: NDArray[np.floating], groups: Ints) -> Floats:
    """Values (n, m) less their mean over the answers to the same prompt.

    >>> centre(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    place, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, place, values.astype(np.float64))
    return np.asarray(values - (sums / counts[:, None])[place], dtype=np.float64)


def alike(values: Floats, groups: Ints) -> Floats:
    """Share (k,) of pairs of answers to one prompt that have equal values (n, k); 1 without pairs.

    >>> alike(np.array([[0.0], [0.0], [1.0], [5.0]]), np.array([0, 0, 0, 1])).round(2).tolist()
    [0.33]
    """
    hits, pairs = np.zeros(values.shape[1]), 0
    for group in np.unique(groups):
        here = values[groups == group]
        pairs += len(here) * (len(here) - 1) // 2
        hits += ((here[:, None] == here).sum((0, 1)) - len(here)) / 2
    return hits / pairs if pairs else np.ones(values.shape[1])


class Fisher:
    """F = SᵀS/n + λI by the smaller of its forms: weights by weights, or answers by answers."""

    def __init__(self, S: Floats, ridge: float):
        """``S`` are scores (n, D), centred; λ is ``ridge`` times the trace of SᵀS/n."""
        self.S, (n, D) = S, S.shape
        self.penalty = n * ridge * float((S * S).sum(1).mean())
        self.dual = n < D
        self.gram = S @ S.T if self.dual else S.T @ S

    def natural(self, phi: Floats) -> Floats:
        """Natural gradients (D, k) of features (n, k): F⁻¹ Sᵀφ/n."""
        ridged = self.gram + self.penalty * np.eye(len(self.gram))
        if self.dual:
            return np.asarray(self.S.T @ np.linalg.solve(ridged, phi))
        return np.asarray(np.linalg.solve(ridged, self.S.T @ phi))

    def leading(self, count: int) -> Floats:
        """Leading eigenvectors (D, count) of F, of unit second moment.

        Raises:
            RunError: The scores span fewer.
        """
        values, vectors = largest_eigenpairs(self.gram, count)
        if len(values) < count or values[-1] <= 1e-12 * values[0]:
            raise RunError(f"scores span fewer than {count} directions; read more base answers")
        columns = self.S.T @ vectors / np.sqrt(values) if self.dual else vectors
        return np.asarray(columns / np.sqrt(values / len(self.S)))


def _reach(S: Floats, phi: Floats, groups: Ints, ridge: float) -> tuple[Floats, Floats]:
    """R² and skewness (k,) of the features' scores on the half of the prompts not used."""
    half = np.unique(groups, return_inverse=True)[1] % 2 == 0
    squares, skews = [], []
    for used in (half, ~half):
        score = S[~used] @ Fisher(S[used], ridge).natural(phi[used])
        here = phi[~used]
        size = np.sqrt(np.maximum((score**2).mean(0), 1e-300))
        correlation = (
            (score * here).mean(0) / size / np.sqrt(np.maximum((here**2).mean(0), 1e-300))
        )
        squares.append(np.maximum(correlation, 0.0) ** 2)
        skews.append(((score / size) ** 3).mean(0))
    return np.mean(squares, axis=0), np.mean(skews, axis=0)
