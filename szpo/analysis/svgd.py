"""Stein variational gradient descent: particles that approximate a density (Liu & Wang 2016).

xᵢ ← xᵢ + ε φᵢ with φᵢ = (1/m) Σⱼ [k(xⱼ, xᵢ) s(xⱼ) + k(xⱼ, xᵢ)(xᵢ − xⱼ)/h], the score s = ∇ log p,
k = exp(−|x − x'|²/2h), and the bandwidth h = median|x − x'|²/(2 log(m + 1)).

The sampler that particles start from is trained by the reparameterisation trick, so its density is
known; each step's change of variables then gives an estimate of the entropy, first order in ε.
`spread` does all of it for a Bradley–Terry posterior, in units of its Laplace approximation, so
that one ε serves every posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg, special
from scipy.spatial import cKDTree

from szpo.analysis.posterior import BradleyTerry, Target, blocks
from szpo.errors import RunError
from szpo.seeds import generator
from szpo.types import Floats

MEDIAN_OF = 256
"""The bandwidth is a median over pairs of at most this many particles: its cost is quadratic."""
_LOG_2PI = math.log(2 * math.pi)
DRAWS, RATE = 32, 0.05
"""Pairs of draws, and step size, by which the sampler is trained."""


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Particles x (m, d), and log_q (m,), the log-density of each under the transported law."""

    x: Floats
    log_q: Floats

    @property
    def entropy(self) -> float:
        """−mean log q by the change of variables, nats; it drifts down as steps go on.

        Trust it over the first steps (docs/active.md), or to rank designs; `nearest_entropy` and
        `gaussian_entropy` do not drift.
        """
        return -float(self.log_q.mean())


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """A target in z, with x = centre + root·z: centre (d,), root (d, d) lower triangular."""

    target: Target
    centre: Floats
    root: Floats

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return self.target.dim

    def x(self, z: Floats) -> Floats:
        """The points z (m, d) in the target's coordinates."""
        return np.asarray(self.centre + z @ self.root.T)

    def z(self, x: Floats) -> Floats:
        """The points x (m, d) in whitened coordinates."""
        return np.asarray(linalg.solve_triangular(self.root, (x - self.centre).T, lower=True).T)

    def score(self, z: Floats) -> Floats:
        """∇_z log p = Rᵀ ∇_x log p, (m, d)."""
        return np.asarray(self.target.score(self.x(z)) @ self.root)

    def back(self, particles: Particles) -> Particles:
        """The particles, given in z, in the target's coordinates."""
        log_q = particles.log_q - np.log(np.diag(self.root)).sum()
        return Particles(self.x(particles.x), log_q)


def draw(mean: Floats, sd: Floats, count: int, key: bytes) -> Particles:
    """Draw from the initial law x = m₀ + σ₀·ξ, ξ ~ N(0, I); ``mean`` and ``sd`` are (d,)."""
    xi = normals(key, (count, len(mean)))
    log_q = -0.5 * (xi * xi).sum(1) - np.log(sd).sum() - 0.5 * xi.shape[1] * _LOG_2PI
    return Particles(mean + sd * xi, log_q)


def whiten(target: BradleyTerry) -> Whitened:
    """The posterior in units of its Laplace approximation: near N(0, I) with enough answers."""
    mode, covariance = target.laplace()
    root: Floats = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    return Whitened(target, mode, root)


def train(
    target: Target, *, key: bytes, steps: int, start: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats]:
    """The law (m₀, σ₀) with the largest ELBO, E_q[log p] + Σ log σ₀, by Adam on (m₀, log σ₀).

    Reparameterised: ∂m₀ = E s(x), ∂log σ₀ = E s(x)·σ₀ξ + 1, over `DRAWS` fixed pairs ±ξ (so the
    same key gives the same sampler). Adam is algorithm 1 of Kingma & Ba (2015). ``start``: where
    to begin, N(0, I) by default.
    """
    d = target.dim
    half = normals(key, (DRAWS, d))
    xi = np.concatenate([half, -half]) / np.sqrt((half * half).mean(0))
    here = np.zeros(2 * d)
    if start is not None:
        here = np.concatenate([start[0], np.log(start[1])])
    first, second = np.zeros(2 * d), np.zeros(2 * d)
    for number in range(steps):
        mean, sd = here[:d], np.exp(here[d:])
        score = target.score(mean + sd * xi)
        gradient = np.concatenate([score.mean(0), (score * xi * sd).mean(0) + 1])
        _finite(gradient, "the ELBO's gradient")
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999 ** (number + 1))) + 1e-8
        here = here + RATE * (1 - number / steps) * first / (1 - 0.9 ** (number + 1)) / size
    return here[:d], np.exp(here[d:])


def step(target: Target, particles: Particles, epsilon: float = 0.3) -> Particles:
    """One step of all particles, with the change of their log-density.

    log q ← log q − ε tr ∇φᵢ, tr ∇φᵢ = (1/m) Σ_{j≠i} (k_ij/h)[d − r²_ij/h − (xᵢ − xⱼ)·s_j];
    ``epsilon`` in (0, 2], where a unit Gaussian stays stable.
    """
    phi, trace = _field(particles.x, target.score(particles.x))
    x = particles.x + epsilon * phi
    _finite(x, "a particle")
    return Particles(x, particles.log_q - epsilon * trace)


def run(
    target: Target, particles: Particles, *, steps: int, epsilon: float = 0.3, every: int = 0
) -> tuple[Particles, ...]:  # fmt: skip
    """Move particles by ``steps`` steps of SVGD.

    Returns snapshots at the start, after every ``every`` steps (0: none), and at the end.
    """
    snapshots = [particles]
    for number in range(1, steps + 1):
        particles = step(target, particles, epsilon)
        if number == steps or (every and number % every == 0):
            snapshots.append(particles)
    return tuple(snapshots)


def spread(target: BradleyTerry, *, key: bytes, count: int, steps: int) -> Particles:
    """Draw particles from a Bradley–Terry posterior: train a sampler, then run SVGD, whitened."""
    view = whiten(target)
    start = draw(*train(view, key=key, steps=50), count, key)
    return view.back(run(view, start, steps=steps)[-1])


def gaussian_entropy(x: Floats) -> float:
    """½ log det(2πe Cov) of x (m, d): exact for a Gaussian, an upper bound for everything else.

    −∞ where the covariance is singular.
    """
    return entropy_of(np.cov(x.T).reshape(x.shape[1], x.shape[1]))


def entropy_of(covariance: Floats) -> float:
    """Entropy of N(·, covariance), covariance (d, d); −∞ where it is singular.

    >>> round(entropy_of(np.eye(2)), 3)
    2.838
    """
    sign, log = np.linalg.slogdet(2 * np.pi * np.e * covariance)
    return 0.5 * float(log) if sign > 0 else -float("inf")


def nearest_entropy(x: Floats) -> float:
    """Kozachenko and Leonenko's estimate from distances to the k-th neighbour (1987), k = 3.

    ψ(m) − ψ(k) + log V_d + (d/m) Σ log rᵢ for x (m, d), with V_d the volume of the unit ball.
    −∞ where k + 1 particles coincide. Its bias grows with the number of dimensions.
    """
    k, (m, d) = 3, x.shape
    distance = cKDTree(x).query(x, k=k + 1)[0][:, k]
    if not distance.all():
        return -float("inf")
    ball = 0.5 * d * np.log(np.pi) - special.gammaln(0.5 * d + 1)
    digamma = special.digamma(m) - special.digamma(k)
    return float(digamma + ball + d * np.log(distance).mean())


def bandwidth(x: Floats) -> float:
    """The kernel's h = median|x − x'|²/(2 log(m + 1)) over pairs; 1 where all coincide."""
    some = x[:: math.ceil(len(x) / MEDIAN_OF)]
    squares = _squares(some, some)[np.triu_indices(len(some), 1)]
    return float(np.median(squares)) / (2 * math.log(len(x) + 1)) or 1.0


def normals(key: bytes, shape: tuple[int, ...]) -> Floats:
    """Standard normal numbers by a key of `szpo.seeds.derive`."""
    return generator(key).standard_normal(shape)


def _field(x: Floats, score: Floats) -> tuple[Floats, Floats]:
    """φ (m, d) and tr ∇φ (m,) without j = i; rows in blocks."""
    _finite(score, "the score of a particle")
    m, d = x.shape
    h = bandwidth(x)
    own = (x * score).sum(1)
    phi, trace = np.empty_like(x), np.empty(m)
    for rows in blocks(m, m):
        squares = _squares(x[rows], x)
        k = np.exp(-squares / (2 * h))
        phi[rows] = (k @ score + (k.sum(1)[:, None] * x[rows] - k @ x) / h) / m
        dot = x[rows] @ score.T - own  # (xᵢ − xⱼ)·sⱼ
        squares /= h
        squares += dot
        trace[rows] = (d * (k.sum(1) - 1) - np.einsum("ij,ij->i", k, squares)) / (h * m)
    return phi, trace


def _squares(a: Floats, b: Floats) -> Floats:
    found = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return np.asarray(np.maximum(found, 0.0))


def _finite(values: Floats, what: str) -> None:
    if not np.isfinite(values).all():
        raise RunError(f"svgd: {what} is not finite; take a smaller epsilon or a smaller tau")
