"""A run without a model whose answers have two attributes and whose voters like one or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from szpo import seeds
from szpo.types import Answer, Batch, Comparison, Prompt, Shift
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from tests.support.quadratic import QuadraticPolicy, ValueJudge, go, start

GOOD, BAD = ("lovely", "warm", "bright", "happy"), ("dull", "cold", "awful", "sad")
MORE = ("We went by train.", "It took all day.", "My aunt came along.", "There was soup.")


def text(u: Sequence[float]) -> str:
    """A short note whose mood and length are drawn independently."""
    words = GOOD if u[0] < 0.5 else BAD
    extra = MORE[: int(u[1] * 5)]
    return " ".join([f"It was {words[int(u[2] * 4)]} and {words[int(u[3] * 4)]}.", *extra])


def mood(answer: Answer) -> float:
    return 1.0 if any(word in answer.text for word in GOOD) else -1.0


def extent(answer: Answer) -> float:
    """How long the answer is, in [-1, 1]."""
    return (answer.text.count(".") - 1) / 2 - 1


class Notes(QuadraticPolicy):
    """Answers with notes of `text`, independent of θ."""

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        self.rollouts += 1
        return [
            tuple(
                Answer(text(u), tokens=2)
                for u in seeds.uniform(
                    seeds.derive(seed, "notes", step=shift.step, k=i), 4 * len(asked)
                ).reshape(-1, 4)
            )
            for i, (asked, shift) in enumerate(zip(prompts, shifts, strict=True))
        ]


class Taster(ValueJudge):
    """Votes by mood and extent with these weights, by Bradley–Terry; weights 0, 0 guess."""

    def __init__(self, likes_mood: float, likes_extent: float):
        super().__init__()
        self.likes = likes_mood, likes_extent

    def gap(self, comparison: Comparison) -> float:
        gap = 0.0
        for row in comparison.rows:
            for weight, trait in zip(self.likes, (mood, extent), strict=True):
                gap += weight * (trait(row.plus) - trait(row.minus)) / len(comparison.rows)
        return gap


def voted(
    folder: Path, judges: Sequence[Any], steps: int, *, name: str = "notes.db", **changes: Any
) -> Path:
    """The file of a run of ``steps`` steps with the votes of these judges."""
    settings, ledger, policy = start(folder, name, **{"rule": "sign", **changes})
    with ledger:
        notes = Notes(settings)
        panel = PanelEvaluator(VoteService(ledger), judges)
        go(settings, ledger, notes, panel, until_step=steps)
        path: Path = ledger.path
    assert policy.rollouts == 0
    return path
