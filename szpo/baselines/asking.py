"""Fresh votes on what a policy answers: a panel's judges as an `Ask`, and rounds of questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from szpo import seeds
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Meter
from szpo.baselines.questions import Ask, Asked, ask_batches, ask_pairs
from szpo.errors import UsageError
from szpo.evaluators.protocol import Judge
from szpo.seeds import as_seed
from szpo.types import Answer, Batch, Comparison, Prompt, Row, Verdict
from szpo.voting.counting import verdict


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
        asked = rows_of(prompts, first, second)
        keys = [seeds.derive(as_seed(key), "baseline vote", k=i) for i in range(len(asked))]
        return in_turn(self.judges, asked, keys, lambda i: "AB"[1 - seeds.integer(keys[i], 1, 2)])


def rows_of(
    prompts: Sequence[Sequence[Prompt]], first: Sequence[Batch], second: Sequence[Batch]
) -> list[tuple[Row, ...]]:
    """The rows of each question about two batches."""
    return [tuple(map(Row, *batch)) for batch in zip(prompts, first, second, strict=True)]


def in_turn(
    judges: Sequence[Judge],
    asked: Sequence[tuple[Row, ...]],
    keys: Sequence[bytes],
    side: Callable[[int], str],
) -> list[Verdict]:
    """One vote on each question, of one judge after another.

    Args:
        judges: Of a panel.
        asked: Rows of each question.
        keys: Name the draws of each.
        side: On which side, "A" or "B", question ``i`` shows the first batch.
    """
    found: list[Verdict] = []
    for i, (rows, key) in enumerate(zip(asked, keys, strict=True)):
        member, plus = i % len(judges), side(i)
        choice = judges[member].judge(
            Comparison(key.hex(), 0, 0, i, rows),
            panelist=f"panel-{member}",
            plus_side="A" if plus == "A" else "B",
            key=key,
        )
        found.append(verdict(choice, plus))
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
    purpose: str = "baseline",
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
        purpose: Names answers and votes beside the seed.
    """
    size = rows or 1
    need = questions * size
    chosen = [prompts[j] for j in drawn(len(prompts), need, seed, first=i * need)]
    key = seeds.derive(seed, f"{purpose} answers", step=i)
    answers = actor.sample(chosen, 2, seed=as_seed(key))
    meter.generated([answer for two in answers for answer in two])
    first, second = [two[0] for two in answers], [two[1] for two in answers]
    vote = seeds.derive(seed, f"{purpose} votes", step=i)
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
    """Places ``first`` … of the endless order of 0 … count − 1 that the seed gives a purpose."""
    return seeds.endless_order(
        count, need, lambda lap: seeds.derive(seed, purpose, step=lap), first=first
    )
