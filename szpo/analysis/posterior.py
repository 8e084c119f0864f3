"""The posterior of Bradley–Terry weights: particles by SVGD, and what questions would teach.

δ = winner − loser, in features; an answer weighs a = 1, a tie ½ in either direction.

Stein variational gradient descent: particles that approximate a density (Liu & Wang 2016).

xᵢ ← xᵢ + ε φᵢ with φᵢ = (1/m) Σⱼ [k(xⱼ, xᵢ) s(xⱼ) + k(xⱼ, xᵢ)(xᵢ − xⱼ)/h], the score s = ∇ log p,
k = exp(−|x − x'|²/2h), and the bandwidth h = median|x − x'|²/(2 log(m + 1)).

The sampler that particles start from is trained by the reparameterisation trick, so its density is
known; each step's change of variables then gives an estimate of the entropy, first order in ε.
`spread` does all of it for a Bradley–Terry posterior, in units of its Laplace approximation, so
that one ε serves every posterior.

Acquisition functions: expected information and entropy reduction of a batch of questions.

A question is δ = φ(A) − φ(B); the answer is A with probability σ(w·δ). Over particles wⱼ of the
posterior, with pⱼ = σ(wⱼ·δ) and s = w·δ:

* ``bald``: I(answer; w) = H(mean p) − mean H(p), in nats (Houlsby et al. 2011), within
  [0, log 2].
* ``entropy``: the expected reduction of the entropy of w. As the answer depends on w through s
  alone, H(w | answer) = H(s | answer) + H(w | s), and the last term does not change; with Gaussian
  entropies of s the reduction is ½ log Var s − E ½ log Var(s | answer). Its exact value would be
  that of ``bald``; this estimate uses second moments of particles only, and can be negative.

A batch is chosen greedily: each next question has the largest gain over the joint distribution
of the answers to those before it (BatchBALD, Kirsch et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, special
from scipy.spatial import cKDTree

from szpo import seeds
from szpo.errors import RunError, UsageError
from szpo.optim import bradley_terry
from szpo.optim.informative import verdict_entropy
from szpo.seeds import generator
from szpo.types import Choice, Floats, Ints

BLOCK = 2**21
"""The most numbers in one intermediate array; longer sums are computed in parts."""

MEDIAN_OF = 256
"""The bandwidth is a median over pairs of at most this many particles: its cost is quadratic."""
_LOG_2PI = math.log(2 * math.pi)
DRAWS, RATE = 32, 0.05
"""Pairs of draws, and step size, by which the sampler is trained."""
By: TypeAlias = Literal["bald", "entropy"]
_Joint: TypeAlias = tuple[Floats, Floats]
"""The c joint answers so far: the particles' weights (c, m) given each, each one's odds (c,)."""
RULES: tuple[By, ...] = ("bald", "entropy")
EXACT = 6
"""All 2^k answers are enumerated up to this number k of questions; further ones are sampled."""
SHORTLIST = 1000
"""The greedy choice is among at least this many questions, those with the largest gain alone."""


class Target(Protocol):
    """A density p from which particles can be drawn."""

    @property
    def dim(self) -> int:
        """The number of coordinates d."""

    def score(self, w: Floats) -> Floats:
        """∇ log p, (m, d) to (m, d)."""


@dataclass(frozen=True, slots=True, eq=False)
class BradleyTerry:
    """Answers so far and a Gaussian prior: everything the posterior depends on.

    Shapes: delta (n, d), winner − loser; weight (n,). ``tau`` is the prior's standard deviation of
    each weight, in logits per unit of feature.
    """

    delta: Floats
    weight: Floats
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and np.isfinite(self.tau)):
            raise UsageError(f"posterior: tau is {self.tau}; it must be a positive number")
        bad = np.flatnonzero(~np.isfinite(self.delta).all(1))
        if len(bad):
            raise UsageError(f"posterior: δ of answer {bad[0]} is not finite")

    @classmethod
    def prior(cls, dim: int, tau: float = 1.0) -> BradleyTerry:
        """The posterior before any answer."""
        return cls(np.zeros((0, dim)), np.zeros(0), tau)

    @classmethod
    def of(
        cls, delta: ArrayLike, choices: Sequence[Choice], tau: float = 1.0, dim: int | None = None
    ) -> BradleyTerry:
        """The posterior given δ = φ(A) − φ(B) (n, d) and the choices; see `orient`."""
        rows = np.asarray(delta, dtype=np.float64)
        rows = rows.reshape(len(choices), -1 if rows.size else dim or 1)
        return cls(*orient(rows, choices), tau)

    @property
    def dim(self) -> int:
        """The number of weights d."""
        return int(self.delta.shape[1])

    def log_likelihood(self, w: Floats) -> Floats:
        """Σ aᵢ log σ(w·δᵢ), (m, d) to (m,); −n log 2 at w = 0."""
        total = np.zeros(len(w))
        for part in blocks(len(self.delta), len(w)):
            total += special.log_expit(w @ self.delta[part].T) @ self.weight[part]
        return total

    def log_density(self, w: Floats) -> Floats:
        """The log-likelihood − |w|²/2τ², (m, d) to (m,): log p(w) up to a constant."""
        return np.asarray(self.log_likelihood(w) - (w * w).sum(1) / (2 * self.tau**2))

    def score(self, w: Floats) -> Floats:
        """∇ log p(w) = Σ aᵢ σ(−w·δᵢ) δᵢ − w/τ², (m, d) to (m, d)."""
        total = -w / self.tau**2
        for part in blocks(len(self.delta), len(w)):
            delta = self.delta[part]
            total = total + (special.expit(-(w @ delta.T)) * self.weight[part]) @ delta
        return total

    def laplace(self) -> tuple[Floats, Floats]:
        """Mode (d,) and covariance (d, d) of the Gaussian approximation there."""
        found = bradley_terry.fit_ridge(self.delta, self.weight, self.tau**-2, self.weight)
        return found.coef, found.covariance()


def orient(delta: Floats, choices: Sequence[Choice]) -> tuple[Floats, Floats]:
    """Turn δ = φ(A) − φ(B) (n, d) into winner − loser, with weights.

    A leaves δ, B negates it, a tie is half an answer in either direction, a skip is none.

    >>> rows, weight = orient(np.array([[1.0], [2.0], [3.0]]), ["A", "B", "tie"])
    >>> rows.ravel().tolist(), weight.tolist()
    ([1.0, -2.0, 3.0, -3.0], [1.0, 1.0, 0.5, 0.5])
    """
    signs: dict[str, tuple[tuple[float, float], ...]] = {
        "A": ((1.0, 1.0),), "B": ((-1.0, 1.0),), "tie": ((1.0, 0.5), (-1.0, 0.5)), "skip": (),
    }  # fmt: skip
    rows: list[Floats] = []
    weight: list[float] = []
    for row, choice in zip(delta, choices, strict=True):
        if choice not in signs:
            raise UsageError(f"answers: {choice!r} is unknown; give A, B, tie or skip")
        for sign, share in signs[choice]:
            rows.append(sign * row)
            weight.append(share)
    return np.array(rows).reshape(len(rows), delta.shape[1]), np.array(weight)


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of the rows, each of at most `BLOCK` numbers in an array of these columns."""
    size = max(1, BLOCK // max(columns, 1))
    return [slice(start, start + size) for start in range(0, rows, size)]


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Particles x (m, d), and log_q (m,), the log-density of each under the transported law."""

    x: Floats
    log_q: Floats

    @property
    def entropy(self) -> float:
        """−mean log q by the change of variables, nats; it drifts down as steps go on.

        Trust it over the first steps or to rank designs; `nearest_entropy` and
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


def draw_particles(mean: Floats, sd: Floats, count: int, key: bytes) -> Particles:
    """Draw from the initial law x = m₀ + σ₀·ξ, ξ ~ N(0, I); ``mean`` and ``sd`` are (d,)."""
    xi = normals(key, (count, len(mean)))
    log_q = -0.5 * (xi * xi).sum(1) - np.log(sd).sum() - 0.5 * xi.shape[1] * _LOG_2PI
    return Particles(mean + sd * xi, log_q)


def whiten(target: BradleyTerry) -> Whitened:
    """The posterior in units of its Laplace approximation: near N(0, I) with enough answers."""
    mode, covariance = target.laplace()
    root: Floats = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    return Whitened(target, mode, root)


def train_particles(
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


def step_particles(target: Target, particles: Particles, epsilon: float = 0.3) -> Particles:
    """One step of all particles, with the change of their log-density.

    log q ← log q − ε tr ∇φᵢ, tr ∇φᵢ = (1/m) Σ_{j≠i} (k_ij/h)[d − r²_ij/h − (xᵢ − xⱼ)·s_j];
    ``epsilon`` in (0, 2], where a unit Gaussian stays stable.
    """
    phi, trace = _field(particles.x, target.score(particles.x))
    x = particles.x + epsilon * phi
    _finite(x, "a particle")
    return Particles(x, particles.log_q - epsilon * trace)


def run_svgd(
    target: Target, particles: Particles, *, steps: int, every: int = 0
) -> tuple[Particles, ...]:
    """Move particles by ``steps`` steps of SVGD.

    Returns snapshots at the start, after every ``every`` steps (0: none), and at the end.
    """
    snapshots = [particles]
    for number in range(1, steps + 1):
        particles = step_particles(target, particles)
        if number == steps or (every and number % every == 0):
            snapshots.append(particles)
    return tuple(snapshots)


def spread(target: BradleyTerry, *, key: bytes, count: int, steps: int) -> Particles:
    """Draw particles from a Bradley–Terry posterior: train a sampler, then run SVGD, whitened."""
    view = whiten(target)
    start = draw_particles(*train_particles(view, key=key, steps=50), count, key)
    return view.back(run_svgd(view, start, steps=steps)[-1])


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


def gains(x: Floats, delta: Floats, rule: By = "bald") -> Floats:
    """The gain of each question δ (n, d) if it is asked alone, (n,) nats; particles x (m, d)."""
    if rule not in RULES:
        raise UsageError(f"selection: rule {rule!r} is unknown; choose {' or '.join(RULES)}")
    none = _no_answers(x)
    logits = (delta[part] @ x.T for part in blocks(len(delta), len(x)))
    parts = [_gain(s, special.expit(s), none, rule) for s in logits]
    return np.concatenate(parts) if parts else np.zeros(0)


def select_questions(
    x: Floats,
    delta: Floats,
    count: int,
    *,
    key: bytes,
    rule: By = "bald",
    beyond: float = -np.inf,
) -> tuple[Ints, Floats, bool]:
    """Greedily choose ``count`` of the questions δ (n, d) to ask together, or all that there are.

    Particles x (m, d). ``key`` draws the joint answers of long batches. Rows of δ that are 0 carry
    no information and are never chosen. ``beyond``: the largest gain of any question in a stream
    that the caller has dropped.

    Returns the chosen, in order, as indices (M,); the gain of each, given those before it, in
    nats; and whether no question outside the shortlist could have been chosen instead (known for
    ``bald`` only, whose gains can only fall as the batch grows).
    """
    alone = gains(x, delta, rule)
    usable = delta.any(1)
    order = np.argsort(np.where(usable, -alone, np.inf), kind="stable")[: usable.sum()]
    short = order[: max(SHORTLIST, 4 * count)]
    if len(short) < len(order):
        beyond = max(beyond, float(alone[order[len(short)]]))
    s = delta[short] @ x.T
    p = special.expit(s)
    joint = _no_answers(x)
    left = np.ones(len(short), dtype=np.bool_)
    chosen: list[int] = []
    found: list[float] = []
    while len(chosen) < min(count, len(short)):
        gain = _gain(s, p, joint, rule)
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        found.append(float(gain[best]))
        left[best] = False
        joint = _join_answer(joint, p[best], len(chosen), key)
    certain = rule == "bald" and all(gain >= beyond for gain in found)
    return short[np.array(chosen, dtype=np.int64)], np.array(found), certain


def _no_answers(x: Floats) -> _Joint:
    return np.full((1, len(x)), 1 / len(x)), np.ones(1)


def _join_answer(joint: _Joint, p: Floats, chosen: int, key: bytes) -> _Joint:
    """Add the answer to one more question, p (m,): both answers, or one sampled per row."""
    before, odds = joint
    yes = before @ p
    if chosen <= EXACT:
        weight = np.concatenate([before * p, before * (1 - p)])
        odds = np.concatenate([odds * yes, odds * (1 - yes)])
    else:
        u = seeds.uniform(key, len(yes), chosen * len(yes))
        weight = before * np.where((u < yes)[:, None], p, 1 - p)
    total = weight.sum(1, keepdims=True)
    return weight / np.where(total > 0, total, 1.0), odds


def _gain(s: Floats, p: Floats, joint: _Joint, rule: By) -> Floats:
    """The gain of questions after the answers so far, for s and p = σ(s) (n, m), (n,)."""
    weight, chances = joint
    if rule == "bald":  # H(answer | so far) − mean H(answer | w)
        after = np.clip(p @ weight.T, 0.0, 1.0)
        return np.asarray(
            verdict_entropy(after) @ chances - verdict_entropy(p) @ (chances @ weight)
        )
    # E ½ log Var(s | so far) − E ½ log Var(s | so far, answer)
    before = _log_variance(s, np.ones_like(s), weight)[1]
    after = np.zeros_like(before)
    for chance in (p, 1 - p):
        odds, log = _log_variance(s, chance, weight)
        after += odds * log
    return np.asarray(0.5 * (before - after) @ chances)


def _log_variance(s: Floats, chance: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Probability of an answer (n, c), and log Var(s | answer) over weighted particles."""
    odds = chance @ weight.T
    safe = np.maximum(odds, 1e-300)
    centred = s - s.mean(1, keepdims=True)
    mean = (chance * centred) @ weight.T / safe
    square = (chance * centred**2) @ weight.T / safe
    floor = 1e-12 * (centred**2).mean(1, keepdims=True) + 1e-300
    return odds, np.log(np.maximum(square - mean**2, floor))
