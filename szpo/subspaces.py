"""The coordinates a run moves in: all adapter weights, a random subspace, or score components.

``score`` (natural directions without votes): let s = ∇_B log π(y | x) be the score of an answer
that the starting policy drew, F = E[s sᵀ] its Fisher matrix. The leading eigenvectors Q of F's
estimate on one half of the samples give the directions, the other half C = Qᵀ F̂ Q the whitening,
P = c · Q C^{-1/2}, and one scalar c from Monte-Carlo KL the scale, so that near the start

    KL(π_δ ‖ π_0) ≈ |δ|²/2 nats per completion for z = δ.

``random`` takes orthonormal directions of the same weights and only the scalar; it needs no
gradient. ``full`` keeps every weight as a coordinate and gets a radius instead of a basis.
Nothing here sees a vote or a reward.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import coordinates, directions, models, scores, seeds
from szpo.deltas import Site, find_sites
from szpo.engine_choice import engine_for
from szpo.errors import RunError, UsageError
from szpo.layers import lora_config as lora_config
from szpo.layers import middle_layers as middle_layers
from szpo.models import Loaded
from szpo.probe import Probe, Progress
from szpo.sampling import Sampling
from szpo.scores import Sample
from szpo.types import Floats, Layout, Prompt, Theta

Kind: TypeAlias = Literal["full", "random", "score"]
KINDS = ("full", "random", "score")
KL_DIRECTIONS = 16
KL_RADII = (0.5, 1.0)
"""|δ| at which the score subspace's scale is measured."""
KL_PRECISION = 0.06
"""Relative standard error at which the scale is known well enough."""
KL_PASSES = 8
CALIBRATION_PASSES = 6


@dataclass(frozen=True)
class Subspace:
    """Frozen geometry of a run's coordinates; all arrays fp32, ready for the ledger.

    ``fixed`` holds the factors that never move, ``start`` those that do at z = 0, ``basis`` one
    array (*shape, d) per name of ``start`` (empty for ``full``). The policy of coordinates z has
    the factors ``fixed`` and ``start + basis·z`` (`szpo.coordinates.materialise`).
    """

    kind: Kind
    sites: tuple[Site, ...]
    fixed: Theta
    start: Theta
    basis: Mapping[str, NDArray[np.float32]]
    scale: float = 1.0
    """μ = scale · √(2κ/d); 1 where the basis itself is scaled."""
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        if self.basis:
            return int(next(iter(self.basis.values())).shape[-1])
        return sum(int(value.size) for value in self.start.values())

    @property
    def layout(self) -> Layout:
        """Layout of the master coordinates: one vector z, or every moving tensor."""
        if self.basis:
            return (("z", (self.dim,)),)
        return tuple((name, value.shape) for name, value in self.start.items())

    @property
    def basis_sha256(self) -> str | None:
        """Digest of the basis, None for ``full``."""
        return coordinates.basis_sha256(self.basis) if self.basis else None

    def mu(self, kl_radius: float) -> float:
        """Radius μ at which one side is ``kl_radius`` (κ, nats) away: scale · √(2κ/d)."""
        return self.scale * math.sqrt(2 * kl_radius / self.dim)

    def weights(self, theta: Theta) -> Theta:
        """The moving factors at master coordinates θ: {"z": …}, or the tensors themselves."""
        return coordinates.materialise(self.start, self.basis, theta["z"]) if self.basis else theta

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Everything replay needs besides the base model, by name, for the ledger."""
        return {
            **{f"fixed/{name}": value for name, value in self.fixed.items()},
            **{f"start/{name}": value for name, value in self.start.items()},
            **{f"basis/{name}": value for name, value in self.basis.items()},
        }


# --- set-up ------------------------------------------------------------------------------------


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
    tokens = tuple(models.encode(loaded.tokenizer, p) for p in prompts)
    engine = engine_for(loaded.model, sites, stop_tokens=models.stop_tokens(loaded))
    say = progress or (lambda what, done, of: None)
    plan = Probe(loaded, sites, tokens, law, root_seed, engine, say)
    base: list[Sample] = []
    if start is None:
        zero = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
        # Where B is 0 the answers are those of the base model, whatever A is.
        blank = {s.a: np.zeros((s.rank, s.inputs), np.float32) for s in sites}
        need = samples if kind == "score" else INPUT_SAMPLES
        base = plan.base_samples({**blank, **zero}, need)
        start = {**scores.input_directions(loaded.model, sites, base[:INPUT_SAMPLES]), **zero}
    elif kind == "score":
        base = plan.base_samples(start, samples)
    names = [s.b for s in sites] if train == "B" else [n for s in sites for n in (s.a, s.b)]
    moving = {name: start[name] for name in names}
    if dim > (size := sum(v.size for v in moving.values())) and kind != "full":
        raise UsageError(f"dim {dim} is more than the {size} weights of the chosen layers")
    whole = Subspace(kind, sites, {n: v for n, v in start.items() if n not in moving}, moving, {})
    build = {"score": _score, "random": _random, "full": _full}[kind]
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


# --- score -------------------------------------------------------------------------------------


def _score(
    plan: Probe, start: Theta, whole: Subspace, dim: int, base: Sequence[Sample],
    kl_samples: int, kl_radius: float,
) -> Subspace:  # fmt: skip
    began = time.monotonic()
    vectors = scores.score_vectors(
        plan.loaded.model, plan.sites, start, base, temperature=plan.sampling.temperature,
        progress=lambda done, of: plan.progress("scores", done, of),
    )  # fmt: skip
    seconds = time.monotonic() - began
    first = halves(base)
    basis, spectrum = components(vectors[first], vectors[~first], dim)
    raw = replace(whole, basis=split_basis(whole.start, basis))
    measured = _measured(plan, start, raw, kl_samples)
    ratios = {radius: float(values.mean()) for radius, values in measured.items()}
    correction = math.exp(-0.5 * sum(map(math.log, ratios.values())) / len(ratios))
    scaled = split_basis(whole.start, basis * correction)
    return replace(
        raw,
        basis=scaled,
        report={
            "score_seconds": round(seconds, 1),
            "second_moment": [float(x) for x in spectrum],
            "raw_kl_ratio": {str(r): v for r, v in ratios.items()},
            "raw_kl_ratio_stderr": {
                str(r): float(v.std(ddof=1) / math.sqrt(v.size)) for r, v in measured.items()
            },
            "correction": correction,
        },
    )


def _measured(
    plan: Probe, start: Theta, subspace: Subspace, kl_samples: int
) -> dict[float, Floats]:
    """`kl_ratios` along fresh directions until their mean is known to `KL_PRECISION`.

    One pass is enough for most models; answers whose KL is uneven need more.
    """
    rows = max(1, kl_samples // (len(KL_RADII) * KL_DIRECTIONS))
    found: dict[float, list[Floats]] = {radius: [] for radius in KL_RADII}
    for i in range(KL_PASSES):
        units = unit_directions(plan.root_seed, KL_DIRECTIONS, subspace.dim, f"kl {i}")
        for radius, values in kl_ratios(
            plan, start, subspace, units, KL_RADII, rows, f"kl {i}"
        ).items():
            found[radius].append(values)
        both = np.mean([np.concatenate(parts).mean(1) for parts in found.values()], axis=0)
        if both.std(ddof=1) / math.sqrt(len(both)) < KL_PRECISION * both.mean():
            break
    return {radius: np.concatenate(parts) for radius, parts in found.items()}


def halves(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """Which samples belong to the first half: every other prompt, or sample if there is one."""
    groups = np.array([s.group for s in samples])
    ranks = np.unique(groups, return_inverse=True)[1]
    if ranks.max() == 0:
        ranks = np.arange(len(groups))
    return np.asarray(ranks % 2 == 0)


def components(
    first: NDArray[np.float32], second: NDArray[np.float32], dim: int
) -> tuple[Floats, Floats]:
    """Whitened score directions: Q of the first half's second moment, Q C^{-1/2} by the second's.

    Args:
        first: Scores (n₁, D) that choose the directions.
        second: Scores (n₂, D) that give C = Qᵀ E[s sᵀ] Q.
        dim: Number of directions.

    Returns:
        P (D, dim) with Pᵀ F̂₂ P = I, and the second half's moment along each column of Q.

    Raises:
        RunError: The scores span fewer directions than ``dim``.

    >>> s = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    >>> components(s, s, 1)[0].round(3).tolist()  # E[s₁²] = 4.5, so 1/√4.5
    [[0.471], [0.0]]
    """
    _, sizes, rows = np.linalg.svd(first.astype(np.float64), full_matrices=False)
    if len(sizes) < dim or sizes[dim - 1] <= 1e-7 * sizes[0]:
        rank = int((sizes > 1e-7 * sizes[0]).sum())
        raise RunError(f"scores span {rank} directions, dim is {dim}; lower dim or read more")
    Q = rows[:dim].T
    Q *= np.sign(Q[np.abs(Q).argmax(0), np.arange(dim)])
    small = second.astype(np.float64) @ Q
    C = small.T @ small / len(small)
    values, axes = np.linalg.eigh(C)
    if values[0] <= 1e-9 * values[-1]:
        raise RunError(f"too few samples to whiten {dim} directions; lower dim or read more")
    return Q @ (axes / np.sqrt(values)) @ axes.T, np.diag(C)


def split_basis(start: Theta, matrix: Floats) -> dict[str, NDArray[np.float32]]:
    """Columns over all moving weights (D, d) as one fp32 array (*shape, d) per tensor."""
    parts, at = {}, 0
    for name, value in start.items():
        rows = matrix[at : at + value.size]
        parts[name] = np.ascontiguousarray(
            rows.reshape(*value.shape, matrix.shape[1]), dtype=np.float32
        )
        at += value.size
    return parts


def unit_directions(root_seed: int, count: int, dim: int, name: str = "kl") -> Floats:
    """Random unit vectors (count, dim) from the direction table."""
    key = seeds.derive(root_seed, "setup directions", name=name)
    rows = directions.gaussian(key, count * dim).astype(np.float64).reshape(count, dim)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def kl_ratios(
    plan: Probe,
    start: Theta,
    subspace: Subspace,
    units: Floats,
    radii: Sequence[float],
    rows: int,
    name: str,
) -> dict[float, Floats]:
    """Monte-Carlo KL(π_δ ‖ π_0) over |δ|²/2 for δ = radius·unit; per radius (directions, rows)."""
    found = {}
    for i, radius in enumerate(radii):
        members = [subspace.weights({"z": (radius * u).astype(np.float32)}) for u in units]
        kl = plan.kl(start, members, rows, f"{name} {radius}")
        if not np.isfinite(kl).all() or kl.mean() <= 0:
            raise RunError(f"KL at |δ| = {radius} is {kl.mean()}: the directions do not move it")
        found[radius] = kl / (0.5 * radius * radius)
        plan.progress("KL", i + 1, len(radii))
    return found


# --- random and full ---------------------------------------------------------------------------


def _random(
    plan: Probe, start: Theta, whole: Subspace, dim: int, base: Sequence[Sample],
    kl_samples: int, kl_radius: float,
) -> Subspace:  # fmt: skip
    size = sum(v.size for v in whole.start.values())
    key = seeds.derive(plan.root_seed, "setup directions", name="basis")
    draws = directions.gaussian(key, size * dim).astype(np.float64).reshape(size, dim)
    Q, R = np.linalg.qr(draws)
    Q *= np.sign(np.diag(R))
    units = unit_directions(plan.root_seed, KL_DIRECTIONS, dim)
    radius = math.sqrt(2 * kl_radius)
    raw = replace(whole, basis=split_basis(whole.start, Q))

    def members(scale: float) -> list[Theta]:
        return [raw.weights({"z": (scale * radius * u).astype(np.float32)}) for u in units]

    scale, report = calibrate(plan, start, members, kl_radius, kl_samples)
    return replace(raw, basis=split_basis(whole.start, Q * scale), report=report)


def _full(
    plan: Probe, start: Theta, whole: Subspace, dim: int, base: Sequence[Sample],
    kl_samples: int, kl_radius: float,
) -> Subspace:  # fmt: skip
    space = coordinates.Space(
        seeds.branch_seed(plan.root_seed, 0, "kl scale"), whole.layout, directions.Law()
    )
    mu = whole.mu(kl_radius)

    def members(scale: float) -> list[Theta]:
        found: list[Theta] = []
        for k in range(KL_DIRECTIONS):
            v = coordinates.direction(space, 0, k)
            radius = np.float32(mu * scale)
            found.append({name: whole.start[name] + radius * v[name] for name in v})
        return found

    scale, report = calibrate(plan, start, members, kl_radius, kl_samples)
    return replace(whole, scale=scale, report=report)


def calibrate(
    plan: Probe,
    start: Theta,
    members: Callable[[float], list[Theta]],
    target: float,
    kl_samples: int,
) -> tuple[float, dict[str, Any]]:
    """The scale at which the mean KL of the members is ``target`` nats per completion.

    Small samples with the same random numbers search it by secants of log KL in log scale (KL
    grows with the square of small scales); a last pass of ``kl_samples`` other answers corrects
    what was found by one more such step.

    Raises:
        RunError: No scale moves the policy, or KL is not finite.
    """
    scale, power = 1.0, 2.0
    passes: list[tuple[float, float]] = []
    for i in range(CALIBRATION_PASSES + 1):
        last = i == CALIBRATION_PASSES or (
            bool(passes) and abs(math.log(passes[-1][1] / target)) < 0.25
        )
        rows = max(1, kl_samples // KL_DIRECTIONS) if last else 4
        kl = plan.kl(start, members(scale), rows, "scale check" if last else "scale").mean(1)
        mean = float(kl.mean())
        plan.progress("KL scale", i + 1, CALIBRATION_PASSES + 1)
        if not math.isfinite(mean):
            raise RunError(f"KL is {mean} at scale {scale}: the policy's logits are not finite")
        passes.append((scale, max(mean, 1e-9)))
        if not last and len(passes) > 1 and passes[-1][0] != passes[-2][0]:
            rise = math.log(passes[-1][1] / passes[-2][1])
            power = min(max(rise / math.log(passes[-1][0] / passes[-2][0]), 1.0), 4.0)
        scale *= min(max((target / passes[-1][1]) ** (1 / power), 1 / 16), 16.0)
        if last:
            break
    if abs(math.log(passes[-1][1] / target)) > 2:
        raise RunError(
            f"no scale gives a KL of {target} (reached {passes[-1][1]:.3g}): "
            "the chosen layers do not move the policy; choose others"
        )
    return scale, {
        "scale": scale,
        "kl_passes": passes,
        "kl_stderr": float(kl.std(ddof=1) / math.sqrt(kl.size)),
    }
