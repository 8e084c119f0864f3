"""A judge that rates single answers, for a feature of the user's own (``judge: …``)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Final

from szpo.config.judge import Judge
from szpo.features.own import Pair
from szpo.judges.backends import Backend
from szpo.judges.llm_judge import LanguageJudge, probability
from szpo.types import Prompt

LABELS: Final = ("yes", "no")
FINE: Final = 1000
"""Of a probability."""
MIDDLE: Final = 3
"""The grade of an answer that is not rated, where ``judge.on_error`` lets a run go on."""
AT_ONCE: Final = 32
"""Answers that a local model reads together."""


@dataclass(frozen=True)
class Ratings:
    """How far a sentence holds of answers: grades from 1 to 5; soft, p(yes) in thousandths."""

    backend: Backend
    settings: Judge
    sha256: str = ""
    """Of a local model's weights."""

    @property
    def model(self) -> str:
        """The judge's model."""
        return self.settings.model

    def __call__(self, what: str, pairs: Sequence[Pair]) -> list[int]:
        """See `szpo.features.own.Rate`."""
        ask, remote = self.settings.ask, self.settings.kind == "endpoint"
        settings = self.settings.model_copy(update={"ask": ask if ask == "soft" else "grades"})
        judge = LanguageJudge(self.backend, settings, what, labels=LABELS)

        def rate(shown: Sequence[Pair]) -> list[int]:
            found = judge.rate([(Prompt.user(prompt), text) for prompt, text in shown])
            if ask == "soft":
                odds = [0.0 if each.logit is None else each.logit for each in found]
                return [round(FINE * probability(each)) for each in odds]
            return [MIDDLE if each.grade is None else each.grade for each in found]

        size = 1 if remote else AT_ONCE
        parts = [pairs[at : at + size] for at in range(0, len(pairs), size)]
        with ThreadPoolExecutor(settings.concurrency if remote else 1) as pool:
            return list(chain(*pool.map(rate, parts)))
