"""Vote efficiency of the sign rule against the margin rule, and of weights of voters.

A direction v gets n votes y = ±1 with E y = 2σ(x) − 1, x the difference in logits, and θ moves by
α·X·v. To first order the value grows by α·E[X x] (in units of x), and the squared step, which the
curvature charges for, is α²·E[X²]·|v|². The best α makes the gain proportional to

    (E[X x])² / (E[X²] E[x²]),

the squared correlation of X and x about 0: the *merit* of X. While votes say little, merits are
proportional to votes, so that a ratio of merits is a ratio of votes.

Small x, with S = Σ y: E[X x] = E[x²]·E₀[X S]/2, as the score of x at 0 is S/2. The margin X = S/n
has merit ∝ (E S²/n)² / (E S²/n²) = E S² = n; the sign, which moves nothing on a tie, has
(E|S|)² / P(S ≠ 0). So the sign keeps

    R(n) = (E|S|)² / (n · P(S ≠ 0)),   E|S| = n · C(n − 1, ⌊(n − 1)/2⌋) / 2ⁿ⁻¹:

1 at n = 1 and 2 (the two rules are one), 3/4 at 3, 9/10 at 4 (a tie costs nothing), and 2/π in the
limit. By Cauchy and Schwarz R ≤ 1 always. The link does not enter.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy import special, stats

from szpo.errors import UsageError
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import Perturbations
from szpo.optim.weighted_votes import WeightedVotes
from szpo.types import Floats, Tally
from szpo_simulators.worlds import repetitions
from szpo_simulators.worlds.gridworld import DENSE


def sign_efficiency(votes: int) -> Fraction:
    """R(n): the merit of the sign relative to the margin's at small signal, exact.

    >>> [str(sign_efficiency(n)) for n in (1, 2, 3, 4)]
    ['1', '1', '3/4', '9/10']
    """
    half = math.comb(votes - 1, (votes - 1) // 2)
    mean_size = Fraction(votes * half, 2 ** (votes - 1))
    tied = Fraction(math.comb(votes, votes // 2), 2**votes) if votes % 2 == 0 else Fraction(0)
    return mean_size**2 / (votes * (1 - tied))  # R(n) = (E|S|)² / (n P(S ≠ 0))


def merits(votes: int, spread: float) -> tuple[float, float]:
    """Merits of sign and margin at x ~ N(0, spread²) under the logistic link.

    Exact sums over the binomial law, and the trapezoid rule in x, whose step of spread/100 is
    narrow beside the rise of P(S > 0); with some thousand votes take it narrower.
    """
    node = np.arange(-900, 901) / 100
    x, weight = spread * node, np.exp(-(node**2) / 2)
    weight = weight / weight.sum()
    k = np.arange(votes + 1)
    chance = stats.binom.pmf(k, votes, special.expit(x)[:, None])

    def merit(value: Floats) -> float:
        joint = float((weight * x * (chance * value).sum(-1)).sum())
        square = float((weight * (chance * value**2).sum(-1)).sum())
        return joint**2 / (square * spread**2)

    return merit(np.sign(2.0 * k - votes)), merit(2.0 * k / votes - 1)


def simulate_merit(votes: int, spread: float, rule: str, draws: int, seed: int) -> Floats:
    """Merit (40,) of a rule over groups of directions, its coefficients by `szpo.optim.optimizer`.

    A gradient of length ``spread`` and Gaussian directions: x ~ N(0, spread²).
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    along = rng.normal(size=(40, draws // 40))
    plus = rng.binomial(votes, special.expit(spread * along)).astype(np.float64)[..., None, None]
    none = np.zeros_like(plus)
    chosen = repetitions.settings_for(DENSE, rule=rule, N=1, M=votes, alpha=1.0)
    tally = Tally(plus, votes - plus, none, none > 0)
    at = Perturbations(0, 1.0, 1.0, np.ones(1), lambda: (np.ones((1, DENSE.dim)), np.ones(1)))
    how = rule_of(rule)
    found = how.move(chosen, how.init(chosen, ()), at, WeightedVotes(tally), None)
    if found.coef is None:
        raise UsageError(f"efficiency: {rule} moves by no coefficient; choose known, sign, margin")
    coef = found.coef[..., 0]
    return np.asarray((coef * along).mean(-1) ** 2 / (coef**2).mean(-1))


def weights_gain(weights: Floats, beta: Floats) -> Floats:
    """Votes that equal weights need, over those that weights (..., P) need, at small signal.

    Voter j's vote has mean β_j·x/2, so Σ w y has merit ∝ (Σ w β)²/Σ w². The best weights are β,
    and gain 1 + CV(β)².
    """
    merit = (weights * beta).sum(-1) ** 2 / (weights**2).sum(-1)
    return np.asarray(merit / (beta.sum(-1) ** 2 / beta.shape[-1]))
