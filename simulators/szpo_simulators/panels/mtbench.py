"""The public set of human votes on chat answers behind the panels ``mtbench`` and ``close``.

A vote is one of three answers to an *item*: one question, one turn, two chatbots a and b. The
model is Davidson's with effects that all judges of an item share,

    x = θ_a − θ_b + s·z₁,   log ν = η + t·z₂,   z₁, z₂ ~ N(0, 1),

answers in the shares of `szpo_simulators.panels.raters.law`, and lapses spread evenly over the
three. What is committed, ``data/mtbench.json``, are its constants, how many items had how many
votes, and the statistics that follow; the votes are not. docs/archive.md has the command that
made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import exp
from typing import Any, Final

import numpy as np

from szpo.types import Floats, Ints
from szpo_simulators.panels.raters import Rater, law

STATISTICS: Final = ("agreement", "agreement where nobody tied", "tie rate", "unanimity")
"""Share of pairs of votes on one item that agree; the same among pairs without a tie; share of
ties; share of items with three votes or more where all agree."""
NODES: Final = (25, 15)
"""Gauss–Hermite nodes in z₁ and z₂."""


@dataclass(frozen=True)
class Constants:
    """What is fitted: strengths θ by chatbot (their mean is 0) and the law of a judge."""

    theta: Mapping[str, float]
    log_tie: float
    """η: log of Davidson's ν on the middle item."""
    lapse: float
    item_spread: float
    """s, logits."""
    tie_spread: float
    """t."""

    @property
    def rater(self) -> Rater:
        """The law of a judge whose differences come in logits."""
        return Rater(
            tie=exp(self.log_tie),
            lapse=self.lapse,
            item_spread=self.item_spread,
            tie_spread=self.tie_spread,
        )


Design = Mapping[str, Mapping[str, int]]
"""How many items have how many votes, by pair of chatbots: {"a/b": {"2": 40, …}, …}."""


@cache
def nodes() -> tuple[Floats, Floats]:
    """Places (nodes, 2) of the two item effects and their weights (nodes,)."""
    (x, v), (y, w) = (np.polynomial.hermite_e.hermegauss(n) for n in NODES)
    places = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(v / v.sum(), w / w.sum()).ravel()
    return places, weights


def shares(rater: Rater, gaps: Floats) -> Floats:
    """Shares (nodes, n, 3) of the answers a, b, tie at each item effect, for gaps (n,)."""
    return law(rater, gaps[None, :], True, nodes()[0][:, None, :])


def sums(counts: Ints) -> Floats:
    """What the statistics are ratios of, per item (n, 8), from its votes for a, b, tie (n, 3)."""
    m, sided = counts.sum(-1), counts[:, :2].sum(-1)
    agreeing = (counts * (counts - 1)).sum(-1)
    sided_agreeing = (counts[:, :2] * (counts[:, :2] - 1)).sum(-1)
    many = m >= 3
    columns = [
        agreeing, m * (m - 1), sided_agreeing, sided * (sided - 1), counts[:, 2], m,
        many & (counts.max(-1) == m), many,
    ]  # fmt: skip
    return np.stack(columns, axis=-1).astype(np.float64)


def ratios(total: Floats) -> Floats:
    """The four statistics (..., 4) from sums (..., 8) over items."""
    return np.asarray(total[..., ::2] / total[..., 1::2])


def expected_statistics(constants: Constants, design: Design) -> Floats:
    """The four statistics (4,) that the model gives a set of this design; by quadrature.

    >>> fair = Constants({"x": 0.0, "y": 0.0}, log_tie=float(np.log(1.0)), lapse=0.0,
    ...                  item_spread=0.0, tie_spread=0.0)
    >>> expected_statistics(fair, {"x/y": {"3": 10}}).round(4).tolist()
    [0.3333, 0.5, 0.3333, 0.1111]
    """
    weight = nodes()[1]
    total = np.zeros(8)
    for pair, votes in design.items():
        first, second = pair.split("/")
        gap = np.array([constants.theta[first] - constants.theta[second]])
        p = shares(constants.rater, gap)[:, 0]
        sided = p[:, :2].sum(-1)
        for count, items in votes.items():
            m = int(count)
            agreeing = [(p**2).sum(-1), np.ones(len(p)), (p[:, :2] ** 2).sum(-1), sided**2]
            one = [m * (m - 1) * (weight @ part) for part in agreeing]
            same = weight @ (p**m).sum(-1) if m >= 3 else 0.0
            total += items * np.array([*one, m * (weight @ p[:, 2]), m, same, m >= 3])
    return ratios(total)


def favourite(rater: Rater, gaps: Floats) -> float:
    """Win rate of the better side among votes for a side: mean over gaps (n,).

    >>> round(favourite(Rater(beta=1.0), np.array([0.0, 2.0])), 4)
    0.6904
    """
    p = np.tensordot(nodes()[1], shares(rater, np.abs(gaps)), axes=1).mean(0)
    return float(p[0] / (p[0] + p[1]))


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the digest itself, as canonical JSON."""
    content = {name: value for name, value in body.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def load_committed() -> dict[str, Any]:
    """The constants, design and table that are committed with the code."""
    file = resources.files("szpo_simulators") / "data" / "mtbench.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def constants(part: str = "preset") -> Constants:
    """The committed constants: of the ``preset``, of the ``training`` half, of ``close`` pairs."""
    return Constants(**load_committed()["constants"][part])
