"""Links σ: the probability that plus is preferred, as a function of the value difference.

Every link is increasing, with σ(0) = ½ and σ(−x) = 1 − σ(x). Functions take arrays of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo.errors import UsageError
from szpo.types import Floats

LOG_2 = math.log(2.0)


@dataclass(frozen=True)
class Link:
    """A link by name: its probability, its inverse (±inf at 1 and 0) and its slope at 0."""

    name: str
    prob: Callable[[ArrayLike], Floats]
    inverse: Callable[[ArrayLike], Floats]
    slope0: float


def link(name: str) -> Link:
    """The link of that name: logistic, probit, cauchit, cloglog, linear or linear:B.

    >>> link("logistic").prob([0.0, 2.0]).round(4).tolist()
    [0.5, 0.8808]
    >>> link("linear:4").inverse(0.75).item()
    2.0
    """
    kind, _, width = name.partition(":")
    if kind == "linear":
        try:
            return linear(float(width) if width else 2.0)
        except ValueError:
            raise UsageError(f"link: {name!r} needs a number after the colon") from None
    if name not in LINKS:
        names = ", ".join((*LINKS, "linear:B"))
        raise UsageError(f"link: {name!r} is unknown; choose one of {names}")
    return LINKS[name]


def linear(width: float) -> Link:
    """½ + x / 2B, clipped to [0, 1]; its inverse is exact for |x| < B."""
    if not (width > 0 and math.isfinite(width)):
        raise UsageError(f"link: linear needs a positive width, not {width}")
    return Link(
        f"linear:{width:g}",
        lambda x: np.clip(0.5 + _array(x) / (2 * width), 0.0, 1.0),
        lambda p: 2 * width * (_array(p) - 0.5),
        1 / (2 * width),
    )


def _array(x: ArrayLike) -> Floats:
    return np.asarray(x, dtype=np.float64)


def _cauchit_inverse(p: ArrayLike) -> Floats:
    q = _array(p)
    with np.errstate(divide="ignore"):
        # The cotangent of the nearer tail gives ±inf at 0 and 1.
        tail = 1 / np.tan(np.pi * np.minimum(q, 1 - q))
    return np.asarray(np.where(q == 0.5, 0.0, np.where(q > 0.5, tail, -tail)))


def _cloglog_tail(x: Floats) -> Floats:
    """1 − σ(x) of the symmetric link, without cancellation for large x."""
    return 0.5 * (np.exp(-np.exp(x) * LOG_2) - np.expm1(-np.exp(-x) * LOG_2))


def _cloglog_prob(x: ArrayLike) -> Floats:
    y = _array(x)
    with np.errstate(over="ignore"):
        tail = _cloglog_tail(np.abs(y))
    return np.where(y > 0, 1 - tail, tail)


def _cloglog_inverse(p: ArrayLike) -> Floats:
    """Bisection on the tail, whose range 0 … 45 covers every double below 1."""
    q = _array(p)
    goal = np.minimum(q, 1 - q)
    low, high = np.zeros_like(q), np.full_like(q, 750.0)
    with np.errstate(over="ignore"):
        for _ in range(64):
            middle = (low + high) / 2
            above = _cloglog_tail(middle) > goal
            low, high = np.where(above, middle, low), np.where(above, high, middle)
    size = np.where(goal == 0, np.inf, np.where(goal == 0.5, 0.0, (low + high) / 2))
    return np.asarray(np.where(q > 0.5, size, -size))


LINKS: dict[str, Link] = {
    "logistic": Link("logistic", special.expit, special.logit, 0.25),
    "probit": Link("probit", special.ndtr, special.ndtri, 1 / math.sqrt(2 * math.pi)),
    "cauchit": Link(
        "cauchit", lambda x: 0.5 + np.arctan(_array(x)) / np.pi, _cauchit_inverse, 1 / np.pi
    ),
    # 1 − exp(−eˣ ln 2), made symmetric: it stands in for the published Weibull link.
    "cloglog": Link("cloglog", _cloglog_prob, _cloglog_inverse, LOG_2 / 2),
}
