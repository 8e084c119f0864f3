"""What the sign of a direction's votes keeps of what their margin says.

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


def sign_efficiency(votes: int) -> Fraction:
    """R(n): the merit of the sign relative to the margin's at small signal, exact.

    >>> [str(sign_efficiency(n)) for n in (1, 2, 3, 4)]
    ['1', '1', '3/4', '9/10']
    """
    half = math.comb(votes - 1, (votes - 1) // 2)
    mean_size = Fraction(votes * half, 2 ** (votes - 1))
    tied = Fraction(math.comb(votes, votes // 2), 2**votes) if votes % 2 == 0 else Fraction(0)
    return mean_size**2 / (votes * (1 - tied))  # R(n) = (E|S|)² / (n P(S ≠ 0))
