"""The third part of `szpo bench hostile`: which simulated panelists are flagged for low effort?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from szpo.aggregation import low_effort
from szpo.intervals import wilson
from szpo.seeds import derive
from szpo_simulators.study import make_generator

CODES = ("fast", "side", "run", "gold", "rest", "random")
KINDS = ("honest", "hasty clicker", "patient clicker", "one side", "contrary")
WORDS = 288
"""Of a comparison: eight rows of two answers of 18 words."""
USUAL = low_effort.Usual(gold=0.95, repeat=0.8, rest=0.6)
"""Rates at which an honest simulated panelist agrees with the truth, itself and the others."""


def simulate_conduct(
    kind: str, votes: int, gold: int, draw: np.random.Generator
) -> low_effort.Conduct:
    """Counts over the votes of one simulated panelist, of which ``gold`` are gold questions.

    Of the rest a twentieth are repeats. Honest reading takes 120 ms a word, log-normal with σ ½;
    haste 2 s, σ .6. Contrary panelists prefer the worse batch, in gold questions too.
    """
    shares = {
        "honest": (USUAL.gold, USUAL.repeat, USUAL.rest),
        "contrary": (1 - USUAL.gold, USUAL.repeat, 1 - USUAL.rest),
    }.get(kind, (0.5, 0.5, 0.5))
    repeats = votes // 20
    train = votes - gold - repeats
    median = 2000.0 if kind == "hasty clicker" else 120.0 * WORDS
    times = median * np.exp(draw.normal(0, 0.6 if kind == "hasty clicker" else 0.5, votes))
    left = draw.random(votes) < (1.0 if kind == "one side" else 0.5)
    again = 0 if kind == "one side" else draw.binomial(repeats, shares[1])
    return low_effort.Conduct(
        fast=(int((times < low_effort.soonest_ms(WORDS)).sum()), votes),
        left=(int(left.sum()), votes),
        run=low_effort.longest_run("".join("AB"[int(not side)] for side in left)),
        gold=(int(draw.binomial(gold, shares[0])), gold),
        repeat=(int(again), repeats),
        rest=(int(draw.binomial(train, shares[2])), train),
    )


def measure_flags(
    people: int, *, seed: int = 0, on_people: Callable[[int], None] = lambda done: None
) -> list[dict[str, Any]]:
    """Share of each kind of panelist that is flagged, by votes and gold questions among them."""
    rows = []
    for votes, gold in ((40, 2), (40, 4), (40, 10), (400, 40)):
        for kind in KINDS:
            draw = make_generator(derive(seed, "effort", k=votes * 1000 + gold, name=kind))
            found = [
                {
                    flag.code
                    for flag in low_effort.flags(simulate_conduct(kind, votes, gold, draw), USUAL)
                }
                for _ in range(people)
            ]
            hits = sum(bool(codes) for codes in found)
            low, high = wilson(hits, people)
            by = {code: sum(code in codes for codes in found) / people for code in CODES}
            rows.append(
                {"votes": votes, "known": gold, "kind": kind, "flagged": hits / people, "low": low,
                 "high": high, "people": people, **by}
            )  # fmt: skip
            on_people(people)
    return rows
