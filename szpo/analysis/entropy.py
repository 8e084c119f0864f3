"""Differential entropy of a cloud of particles, in nats, by two unrelated estimators."""

from __future__ import annotations

import numpy as np
from scipy import special
from scipy.spatial import cKDTree

from szpo.types import Floats


def gaussian(x: Floats) -> float:
    """½ log det(2πe Cov) of x (m, d): exact for a Gaussian, an upper bound for everything else.

    −∞ where the covariance is singular.
    """
    return gaussian_of(np.cov(x.T).reshape(x.shape[1], x.shape[1]))


def gaussian_of(covariance: Floats) -> float:
    """Entropy of N(·, covariance), covariance (d, d); −∞ where it is singular.

    >>> round(gaussian_of(np.eye(2)), 3)
    2.838
    """
    sign, log = np.linalg.slogdet(2 * np.pi * np.e * covariance)
    return 0.5 * float(log) if sign > 0 else -float("inf")


def nearest(x: Floats) -> float:
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
