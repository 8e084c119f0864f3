"""Fresh votes on what a policy answers: a panel's judges as an `Ask`, and rounds of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from szpo import seeds
from szpo.baselines.actor import Actor
from szpo.baselines.types import Ask, Asked, Meter, ask_batches, ask_pairs
from szpo.counting import verdict
from szpo.errors import UsageError
from szpo.evaluators import Judge
from szpo.samples import number
from szpo.types import Answer, Batch, Comparison, Prompt, Row, Verdict


@dataclass(frozen=True)
class JudgesAsk:
    """The judges of a run's panel, asked in turn; the sides are drawn for each question."""

    judges: tuple[Judge, ...]

    def __post_init__(self) -> None:
        """Refuse an empty panel."""
        if not self.judges:
            raise UsageError("panel: no judges; give at least one")

    def pairs(
        self,
        prompts: Sequence[Prompt],
        first: Sequence[Answer],
        second: Sequence[Answer],
        *,
        key: bytes,
    ) -> list[Verdict]:
        """One vote on each pair of answers."""
        return self.batches(
            [(p,) for p in prompts], [(a,) for a in first], [(b,) for b in second], key=key
        )

    def batches(
        self,
        prompts: Sequence[Sequence[Prompt]],
        first: Sequence[Batch],
        second: Sequence[Batch],
        *,
        key: bytes,
    ) -> list[Verdict]:
        """One vote on each pair of batches."""
        found: list[Verdict] = []
        for i, rows in enumerate(zip(prompts, first, second, strict=True)):
            own = seeds.derive(number(key), "baseline vote", k=i)
            name = f"{key.hex()}-{i}"
            comparison = Comparison(name, 0, 0, i, tuple(map(Row, *rows)))
            side: Literal["A", "B"] = "A" if seeds.integer(own, 1, 2) else "B"
            member = i % len(self.judges)
            choice = self.judges[member].judge(
                comparison, panelist=f"panel-{member}", plus_side=side, key=own
            )
            found.append(verdict(choice, side))
        return found


def question(
    actor: Actor,
    prompts: Sequence[Prompt],
    ask: Ask,
    questions: int,
    rows: int | None,
    meter: Meter,
    seed: int,
    i: int = 0,
) -> Asked:
    """Round ``i``: two answers each to prompts of their own, and which of them is better.

    Args:
        actor: Answers as it stands.
        prompts: Drawn from in a seeded order, round after round.
        ask: Who votes.
        questions: Votes.
        rows: D of a batch vote; None: votes on single pairs.
        meter: Charged with answers and votes.
        seed: Names prompts, answers and votes.
        i: Number of the round.
    """
    size = rows or 1
    need = questions * size
    chosen = [prompts[j] for j in drawn(len(prompts), need, seed, first=i * need)]
    key = seeds.derive(seed, "baseline answers", step=i)
    answers = actor.sample(chosen, 2, seed=number(key))
    meter.generated([answer for two in answers for answer in two])
    first, second = [two[0] for two in answers], [two[1] for two in answers]
    vote = seeds.derive(seed, "baseline votes", step=i)
    if rows is None:
        return ask_pairs(ask, meter, chosen, first, second, key=vote)
    cuts = [slice(n * size, (n + 1) * size) for n in range(questions)]
    return ask_batches(
        ask,
        meter,
        [chosen[cut] for cut in cuts],
        [tuple(first[cut]) for cut in cuts],
        [tuple(second[cut]) for cut in cuts],
        key=vote,
    )


def drawn(
    count: int, need: int, seed: int, first: int = 0, purpose: str = "baseline prompts"
) -> list[int]:
    """Places ``first`` … of an endless order of 0 … count − 1: one permutation after another."""
    found: list[int] = []
    for lap in range(first // count, (first + need - 1) // count + 1):
        key = seeds.derive(seed, purpose, step=lap)
        found += seeds.permutation(key, count).tolist()
    start = first % count
    return found[start : start + need]
