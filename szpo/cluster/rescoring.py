"""Whether a server's answers are those of the adapter that was asked: by rescoring some of them.

No field of a reply proves which adapter wrote it. Its log-probabilities are those of whatever did,
so a trusted model computes the same tokens' log-probabilities under the member that was asked, and
the mean of |difference| per token is compared with what rounding explains. The rows with the
longest answers are taken, at least one per chunk and member, until they hold `TOKENS` tokens;
where people vote, every row is taken as well, by itself.
Rounding makes single tokens differ by much: few tokens are judged as if `SLACK` more were equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from szpo.types import Floats

SLACK = 8
TOKENS = 144
"""Tokens of a member in a chunk that are rescored, if it has as many there."""
TOLERANCE = {"fp32": 0.005, "bf16": 0.09, "fp16": 0.02}
"""Mean |difference| in nats per token that two implementations may have, by the model's dtype.

Of SmolLM2 in bf16, the flat engine and PEFT differ by .05 on average.
"""


def pick_rows(members: Sequence[object], lengths: Sequence[int]) -> list[list[int]]:
    """Per member the rows of a chunk to rescore, those with most tokens first.

    >>> pick_rows(["a", "b", "a", "a"], [3, 24, 70, 90])
    [[3, 2], [1]]
    """
    found: dict[object, list[int]] = {}
    count: dict[object, int] = {}
    for row in sorted(range(len(members)), key=lambda i: (-lengths[i], i)):
        member = members[row]
        if count.get(member, 0) < TOKENS:
            found.setdefault(member, []).append(row)
            count[member] = count.get(member, 0) + lengths[row]
    order = list(dict.fromkeys(members))
    return [found[member] for member in order]


def deviation(reported: Sequence[Floats], trusted: Sequence[Floats]) -> float:
    """Mean |difference| of log-probabilities per token over some rows, nats; nan counts as inf."""
    apart = np.abs(np.concatenate(list(reported)) - np.concatenate(list(trusted)))
    if not np.isfinite(apart).all():
        return math.inf
    return float(apart.sum()) / (len(apart) + SLACK)
