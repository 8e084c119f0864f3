"""Acquisition functions: expected information and entropy reduction of a batch of questions.

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

from typing import Literal, TypeAlias

import numpy as np
from scipy import special

from szpo import seeds
from szpo.analysis.posterior import blocks
from szpo.errors import UsageError
from szpo.types import Floats, Ints

By: TypeAlias = Literal["bald", "entropy"]
_Joint: TypeAlias = tuple[Floats, Floats]
"""The c joint answers so far: the particles' weights (c, m) given each, each one's odds (c,)."""
RULES: tuple[By, ...] = ("bald", "entropy")
EXACT = 6
"""All 2^k answers are enumerated up to this number k of questions; further ones are sampled."""
SHORTLIST = 1000
"""The greedy choice is among at least this many questions, those with the largest gain alone."""


def gains(x: Floats, delta: Floats, rule: By = "bald") -> Floats:
    """The gain of each question δ (n, d) if it is asked alone, (n,) nats; particles x (m, d)."""
    if rule not in RULES:
        raise UsageError(f"selection: rule {rule!r} is unknown; choose {' or '.join(RULES)}")
    none = _no_answers(x)
    logits = (delta[part] @ x.T for part in blocks(len(delta), len(x)))
    parts = [_gain(s, special.expit(s), none, rule) for s in logits]
    return np.concatenate(parts) if parts else np.zeros(0)


def select(
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
        return np.asarray(_binary(after) @ chances - _binary(p) @ (chances @ weight))
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


def _binary(p: Floats) -> Floats:
    return np.asarray(special.entr(p) + special.entr(1 - p))
