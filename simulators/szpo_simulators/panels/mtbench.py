"""The public set of human votes on chat answers behind the panels ``mtbench`` and ``close``.

A vote is one of three answers to an *item*: one question, one turn, two chatbots a and b. The
model is Davidson's, with effects that all judges of an item share,

    x = θ_a − θ_b + s·z₁,   log ν = η + t·z₂,   z₁, z₂ ~ N(0, 1),

answer probabilities of `szpo_simulators.panels.raters.law`, and lapses spread evenly over the
three answers. ``data/mtbench.json`` has the model's constants, how many items had how many votes,
and statistics computed from these, but not the votes. experiments/LOG.md names the command that
made the file.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from math import exp
from typing import Any, Final

import numpy as np

from szpo.types import Floats
from szpo_simulators.panels.raters import Rater, law

NODES: Final = (25, 15)
"""Gauss–Hermite nodes in z₁ and z₂."""


@cache
def nodes() -> tuple[Floats, Floats]:
    """Quadrature nodes (nodes, 2) in the two item effects and their weights (nodes,)."""
    (x, v), (y, w) = (np.polynomial.hermite_e.hermegauss(n) for n in NODES)
    places = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(v / v.sum(), w / w.sum()).ravel()
    return places, weights


def shares(rater: Rater, gaps: Floats) -> Floats:
    """Probabilities (nodes, n, 3) of the answers a, b, tie at each node, for gaps (n,)."""
    return law(rater, gaps[None, :], True, nodes()[0][:, None, :])


def favourite(rater: Rater, gaps: Floats) -> float:
    """Win rate of the better side among votes that are no ties, over gaps (n,).

    >>> round(favourite(Rater(beta=1.0), np.array([0.0, 2.0])), 4)
    0.6904
    """
    p = np.tensordot(nodes()[1], shares(rater, np.abs(gaps)), axes=1).mean(0)
    return float(p[0] / (p[0] + p[1]))


@cache
def load_committed() -> dict[str, Any]:
    """The content of ``data/mtbench.json``."""
    file = resources.files("szpo_simulators") / "data" / "mtbench.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def rater(part: str = "preset") -> Rater:
    """A rater fitted to a part of the votes, for gaps in logits.

    Parts are ``preset``, the ``training`` half and ``close`` pairs. The file has for each part the
    strengths θ by chatbot (their mean is 0), η, lapses, and the item spreads s and t.
    """
    found = load_committed()["constants"][part]
    same = {name: found[name] for name in ("lapse", "item_spread", "tie_spread")}
    return Rater(tie=exp(found["log_tie"]), **same)
