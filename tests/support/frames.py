"""Votes on orthonormal frames."""

import numpy as np
from scipy import special

from szpo.optim.vote_regression import Votes

RADIUS = 1.8


def votes_of(seed, w, count, lead=()):
    """One vote per direction at ± RADIUS, from voters with gradient w."""
    rng, w = np.random.default_rng(seed), np.asarray(w)
    dim = len(w)
    normal = rng.normal(size=(*lead, -(-count // dim), dim, dim))
    x = 2 * RADIUS * np.linalg.qr(normal)[0].reshape(*lead, -1, dim)[..., :count, :]
    up = (rng.random((*lead, count)) < special.expit(x @ w)) * 1.0
    side = np.where(np.arange(count) % 2 == 0, 1.0, -1.0) * np.ones((*lead, 1))
    return Votes(x, up, 1 - up, side)
