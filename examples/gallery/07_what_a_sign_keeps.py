"""What the sign of many votes keeps.

The rule `sign` moves by the majority's side, whatever its size. With n votes on one direction the
sign keeps a share of what they say, exactly a sum over a binomial law: all of one or two, three
quarters of three, nine tenths of four, since a tie then moves nothing, and 2/π of many.
"""

import math
from fractions import Fraction

import matplotlib.pyplot as plt


def sign_efficiency(n):
    """(E|S|)² / (n · P(S ≠ 0)), S the sum of n fair votes ±1."""
    half = math.comb(n - 1, (n - 1) // 2)
    mean_size = Fraction(n * half, 2 ** (n - 1))  # E|S|
    tied = 0 if n % 2 else Fraction(math.comb(n, n // 2), 2**n)
    return mean_size**2 / (n * (1 - tied))


votes = range(1, 41)
shares = [float(sign_efficiency(n)) for n in votes]
for n in (1, 2, 3, 4, 12, 40):
    print(f"{n:3} votes: {sign_efficiency(n)} = {float(sign_efficiency(n)):.3f}"[:70])
plt.plot(votes, shares, "o-", ms=4)
plt.axhline(2 / math.pi, ls="--", color="grey", label="2/π, the limit")
plt.xlabel("votes per direction")
plt.ylabel("share that the sign keeps")
plt.ylim(0.6, 1.02)
plt.legend()
plt.tight_layout()
plt.savefig("what_a_sign_keeps.svg")
