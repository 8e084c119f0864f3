"""Coordinates from principal directions of the score, and from named features of the texts.

Let s be the score of an answer that the starting policy drew, φ a feature of its text, both
centred within prompts, and F = E[s sᵀ]. The direction in which E[φ] grows fastest for a given KL
is its natural gradient g = F⁻¹ E[s φ] (Amari 1998, Natural gradient works efficiently in learning;
Kakade 2001, A natural policy gradient). The leading score components come first, so that a taste
along them is found as fast as without features. The parts of the natural gradients outside them
follow, and all are whitened, so that near the start
KL(π_z ‖ π_0) ≈ |z|²/2 nats and E[φ_f](z) ≈ E[φ_f](0) + σ_f · map[:, f]ᵀ z.

E[s φ] is a policy gradient, and credit is assigned as in those. The score of an answer is the sum
of scores s_p of its parts. Each s_p is multiplied by the growth of φ after part p instead of φ:
A_p = Σ_q λ^(q−p) (V_{q+1} − V_q), where V_p is φ as predicted from its value on the text before
part p (generalised advantage estimation: Schulman and others 2016, arXiv 1506.02438, equation 16).
At λ = 1 this is φ − V_p, without bias; λ < 1 leaves out late effects and most of the noise.

Votes and rewards are not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.config.schema import KL_SAMPLES, Config
from szpo.errors import RunError
from szpo.features import dictionary, differences, user_features
from szpo.models.logprobs import Sample, largest_eigenpairs
from szpo.policies.probe import KL_DIRECTIONS, Probe, kl_ratios, unit_directions
from szpo.policies.subspaces import FeatureMap, Subspace, split_basis
from szpo.types import Floats, Ints, Prompt

KL_RADII = (0.5, 1.0)
"""Lengths |δ| at which the scale is measured."""
KL_PRECISION = 0.06
"""Relative standard error of the scale at which measuring stops."""
KL_PASSES = 8
ANSWERS_EACH = 8
"""Fewest answers to each prompt: the set-up learns how answers to the same prompt differ."""
BLOCK = 128
"""Number of answers whose scores are read at once."""
PARTS = 12
"""Largest number of parts of an answer's score."""
DECAY = 0.85
"""λ for one token."""
COMPONENTS = 8
"""Number of leading score components, which come first."""
RIDGE = 3e-3
"""Ridge on F, as a share of its trace."""
SHORTEST = 0.05
"""Least length of a feature's natural gradient, also where held-out prompts do not confirm it."""
FLAT = 1e-3
"""Directions whose second moment is below this share of a feature's own are left out."""


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
    """Measure `kl_ratios` along new directions until their mean has `KL_PRECISION`."""
    rows = max(1, KL_SAMPLES // (len(radii) * KL_DIRECTIONS))
    ratios_at: dict[float, list[Floats]] = {radius: [] for radius in radii}
    for i in range(KL_PASSES):
        probe.progress("KL scale", i, KL_PASSES)
        units = unit_directions(probe.root_seed, KL_DIRECTIONS, subspace.dim, f"kl {i}")
        ratios = kl_ratios(probe, subspace, units, radii, rows, f"kl {i}")
        for radius, values in ratios.items():
            ratios_at[radius].append(values)
        both = np.mean([np.concatenate(parts).mean(1) for parts in ratios_at.values()], axis=0)
        if both.std(ddof=1) / math.sqrt(len(both)) < KL_PRECISION * both.mean():
            break
    return {radius: np.concatenate(parts) for radius, parts in ratios_at.items()}


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCoordinates:
    """Whitened coordinates in which named features move, and how far each can be moved."""

    basis: Floats
    """(D, d): columns over all moving weights, with unit second moment of the score."""
    map: Floats
    """(d, k): each feature's natural gradient: its change along each coordinate, in spreads."""
    spread: Floats
    """(k,): standard deviation within prompts among the start's answers; 0 where none differ."""
    reach: Floats
    """(k,): squared correlation of a feature with its direction's score on held-out prompts: the
    share of its variance that the coordinates can move; 0 where the correlation is negative."""
    skew: Floats
    """(k,): skewness of that score; above 0, a long step costs more than |z|²/2."""


def feature_subspace(
    probe: Probe,
    whole: Subspace,
    config: Config,
    base: Sequence[Sample],
    prompts: Sequence[Prompt],
    text_of: Callable[[Sequence[int]], str],
    rate: user_features.Rate | None = None,
) -> Subspace:
    """Find the coordinates of the dictionary's features, scaled by measured KL.

    ``base``: the start's answers to these prompts; ``text_of`` turns their tokens into texts.
    """
    began = time.monotonic()
    holding = dictionary.holding([prompt.text for prompt in prompts])
    entries, described = user_features.choose(
        config.features.own, config.features.drop, holding, rate
    )
    groups = np.array([sample.group for sample in base])
    longest = config.generation.max_new_tokens
    step = -(-longest // PARTS)
    cuts = tuple(range(step, longest, step))

    def pairs_at(cut: int | None) -> list[user_features.Pair]:
        return [(prompts[s.group].text, text_of(s.answer[:cut])) for s in base]

    user_features.rate_ahead(entries, pairs_at(None))
    values = differences.values(pairs_at(None), entries)
    # A judge, or a user's function, is not asked about unfinished texts.
    so_far = user_features.cheap(entries, described)
    begun = np.full((len(cuts), *values.shape), np.nan)
    for part, cut in enumerate(cuts):  # none where an answer is one token
        begun[part][:, so_far] = differences.values(pairs_at(cut), [entries[i] for i in so_far])
    credit = assign_credit(values, begun, groups, DECAY**step)
    scores, halves = read_credited(probe, base, cuts, credit, groups)
    coordinates = find_coordinates(scores, values, groups, halves, components=config.dim)
    seconds = time.monotonic() - began
    scaled, correction, kl = scale_by_kl(probe, whole, config, coordinates.basis)
    # The basis is stored, shared and shipped in fp16, so a run uses it rounded to fp16.
    basis = {n: v.astype(np.float16).astype(np.float32) for n, v in scaled.basis.items()}
    return replace(
        scaled,
        basis=basis,
        features=FeatureMap(
            tuple(each.name for each in entries),
            tuple(differences.scale(spread) for spread in coordinates.spread),
            (coordinates.map * correction).astype(np.float32),
            config.dim,
            dictionary.digest(),
            tuple(astuple(each) for each in described),
        ),
        report={
            "score_seconds": round(seconds, 1), **kl, "correction": correction,
            "reach": np.round(coordinates.reach, 4).tolist(),
            "skew": np.round(coordinates.skew, 3).tolist(),
            "same": np.round(alike(values, groups), 4).tolist(),
        },
    )  # fmt: skip


def read_credited(
    probe: Probe, base: Sequence[Sample], cuts: tuple[int, ...], credit: Floats, groups: Ints
) -> tuple[NDArray[np.float32], Floats]:
    """Scores of the start's answers (n, D), and Σ s_p A_p over each half of the prompts (2, D, k).

    ``cuts``: tokens at which the parts after the first begin. ``credit``: A_p (n, parts, k), as by
    `assign_credit`. ``groups`` (n,): the prompt of each answer.
    """
    half, whole, halves = halve(groups), [], 0.0
    for first in range(0, len(base), BLOCK):
        probe.progress("scores", first, len(base))
        here = slice(first, first + BLOCK)
        parts = probe.read_parts(base[here], cuts)
        whole.append(parts.sum(1))
        given = credit[here] * (half[here] == np.arange(2)[:, None])[..., None, None]
        halves = halves + np.einsum("npd,hnpk->hdk", parts, given, optimize=True)
    return np.concatenate(whole), np.asarray(halves)


def assign_credit(values: Floats, begun: Floats, groups: Ints, decay: float) -> Floats:
    """How much each feature grew after each part of each answer: A_p (n, parts, k), in spreads.

    ``values`` (n, k) are of whole answers, ``begun`` (parts − 1, n, k) of the text before each
    part but the first. Features with nan were not counted there: all their parts get the whole
    difference from the mean. ``groups`` (n,): the prompt of each answer. ``decay``: λ for a part.
    """
    phi, moving = standardise(values, groups)[::2]
    known = ~np.isnan(begun).any((0, 1))
    credit = np.zeros((len(values), len(begun) + 1, values.shape[1]))
    later, after = phi, np.zeros_like(phi)
    for part in reversed(range(len(begun) + 1)):
        expected = np.zeros_like(phi)
        if part:
            x = centre(np.where(known, begun[part - 1], 0.0), groups)
            square = (x * x).sum(0)
            expected = x * np.where(square > 1e-12, (x * phi).sum(0) / (square + 1e-300), 0.0)
        after = later - expected + np.where(known, decay, 1.0) * after
        credit[:, part], later = after, expected
    return np.where(moving, credit, 0.0)


def find_coordinates(
    scores: NDArray[np.float32],
    features: Floats,
    groups: Ints,
    halves: Floats,
    *,
    components: int = COMPONENTS,
    ridge: float = RIDGE,
) -> FeatureCoordinates:
    """Find the coordinates from n base answers.

    Scores at the start are (n, D), features (n, k). ``halves`` (2, D, k): Σ s φ, or Σ s_p A_p,
    over each half of the prompts (`halve`). ``ridge``: on the Fisher matrix, as a share of its
    trace.
    """
    S = centre(scores, groups)
    phi, spread, moving = standardise(features, groups)
    kernel = Fisher(S, ridge)
    P = kernel.leading(components)
    G = kernel.natural(halves.sum(0) / len(S))
    SP = S @ P
    size = np.sqrt(np.maximum(((S @ G) ** 2).mean(0), 1e-300))
    rest = (G - P @ (SP.T @ (S @ G) / len(S)))[:, moving] / size[moving]
    SR = S @ rest
    values, axes = np.linalg.eigh(SR.T @ SR / len(S))
    kept = values[::-1] > FLAT
    axes, values = axes[:, ::-1][:, kept], values[::-1][kept]
    basis = np.concatenate([P, rest @ (axes / np.sqrt(values))], axis=1)
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    reach, skew = _reach(S, phi, halve(groups), halves, ridge)
    # On its own answers a gradient seems too long: its length is R on held-out prompts.
    length = np.maximum(np.sqrt(reach), SHORTEST) / size
    slopes = (S @ basis).T @ (S @ G) / len(S) * length
    return FeatureCoordinates(
        basis, np.where(moving, slopes, 0.0), np.where(moving, spread, 0.0), reach, skew
    )


def standardise(values: Floats, groups: Ints) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Values (n, k) centred within prompts, in spreads; the spreads; which spreads are above 0."""
    phi = centre(values, groups)
    spread = phi.std(0)
    moving = spread > 1e-9
    return np.where(moving, phi / np.where(moving, spread, 1.0), 0.0), spread, moving


def halve(groups: Ints) -> Ints:
    """The half, 0 or 1, of each answer (n,), by its prompt; a single prompt's answers by turns.

    >>> halve(np.array([4, 4, 7])).tolist(), halve(np.array([4, 4, 4])).tolist()
    ([0, 0, 1], [0, 1, 0])
    """
    place = np.unique(groups, return_inverse=True)[1]
    return np.asarray((place if place.any() else np.arange(len(place))) % 2)


def centre(values: NDArray[np.floating], groups: Ints) -> Floats:
    """Values (n, m) minus their mean over the answers to the same prompt.

    >>> centre(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    place, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, place, values.astype(np.float64))
    return np.asarray(values - (sums / counts[:, None])[place], dtype=np.float64)


def alike(values: Floats, groups: Ints) -> Floats:
    """Share (k,) of pairs of answers to one prompt with equal values (n, k); 1 without pairs.

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
    """F = SᵀS/n + λI, in the smaller of two forms: weights by weights, or answers by answers."""

    def __init__(self, S: Floats, ridge: float):
        """``S`` are scores (n, D), centred; λ is ``ridge`` times the trace of SᵀS/n."""
        self.S, (n, D) = S, S.shape
        self.penalty = n * ridge * float((S * S).sum(1).mean())
        self.dual = n < D
        self.gram = S @ S.T if self.dual else S.T @ S

    def natural(self, gradient: Floats) -> Floats:
        """Natural gradients F⁻¹ g (D, k) of gradients g (D, k)."""
        ridged = self.gram + self.penalty * np.eye(len(self.gram))
        whole = len(self.S) * gradient
        if self.dual:
            inside = self.S.T @ np.linalg.solve(ridged, self.S @ whole)
            return np.asarray((whole - inside) / self.penalty)
        return np.asarray(np.linalg.solve(ridged, whole))

    def leading(self, count: int) -> Floats:
        """Leading eigenvectors (D, count) of F, of unit second moment."""
        values, vectors = largest_eigenpairs(self.gram, count)
        if len(values) < count or values[-1] <= 1e-12 * values[0]:
            raise RunError(f"scores span fewer than {count} directions; raise subspace.samples")
        columns = self.S.T @ vectors / np.sqrt(values) if self.dual else vectors
        return np.asarray(columns / np.sqrt(values / len(self.S)))


def _reach(
    S: Floats, phi: Floats, half: Ints, halves: Floats, ridge: float
) -> tuple[Floats, Floats]:
    """R² and skewness (k,) of the features' scores on the other half of the prompts."""
    squares, skews = [], []
    for number, gradients in enumerate(halves):
        used = half == number
        score = S[~used] @ Fisher(S[used], ridge).natural(gradients / used.sum())
        here = phi[~used]
        size = np.sqrt(np.maximum((score**2).mean(0), 1e-300))
        correlation = (
            (score * here).mean(0) / size / np.sqrt(np.maximum((here**2).mean(0), 1e-300))
        )
        squares.append(np.maximum(correlation, 0.0) ** 2)
        skews.append(((score / size) ** 3).mean(0))
    return np.mean(squares, axis=0), np.mean(skews, axis=0)
