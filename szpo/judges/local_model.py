"""A judge in this process or its workers: any causal language model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from szpo.errors import UsageError
from szpo.judges.prompting import Labels, Question, Reply
from szpo.models import context, loading
from szpo.models.loading import ModelFacts
from szpo.models.sampling import Sampling
from szpo.policies.backend import Backend
from szpo.policies.requests import AnswerRequest, Odds

REPLY_START = "Verdict:"
"""The start of a weighed reply; else small models most likely begin with pleasantries."""


@dataclass(frozen=True)
class Local:
    """Asks a model that this process or its workers hold, all questions of a call at once."""

    backend: Backend
    """Answers with that model, without adapters."""
    temperature: float = 0.0
    max_tokens: int = 256

    @property
    def facts(self) -> ModelFacts:
        """The model."""
        return self.backend.facts

    @property
    def name(self) -> str:
        """The model's name."""
        return self.facts.name

    @property
    def reserved(self) -> tuple[str, ...]:
        """Texts that the tokenizer turns into one control token, wherever they occur."""
        added = self.facts.tokenizer.get_added_vocab()
        return tuple(sorted({*self.facts.tokenizer.all_special_tokens, *added}))

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """See `Backend.write`."""
        asked = [loading.encode(self.facts.tokenizer, each.prompt) for each in questions]
        replies = [self._too_long(ids, self.max_tokens) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        if fits:
            sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_tokens)
            rows = [(n, 0, n, 0) for n in range(len(fits))]
            request = AnswerRequest(
                {}, (), tuple(asked[i] for i in fits), tuple(questions[i].key for i in fits),
                np.array(rows, np.int64), sampling,
            )  # fmt: skip
            stop = frozenset(loading.stop_tokens(self.facts))
            for i, new in zip(fits, self.backend.answer(request), strict=True):
                ended = bool(new) and new[-1] in stop
                text = self.facts.tokenizer.decode(
                    new[: -1 if ended else None],
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                )
                replies[i] = Reply(text, ended=ended, tokens_in=len(asked[i]), tokens_out=len(new))
        return [reply for reply in replies if reply is not None]

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """See `Backend.weigh`: one forward pass over all questions, both labels read from it."""
        lead, first, second = self.fork(labels)
        asked = [(*loading.encode(self.facts.tokenizer, q.prompt), *lead) for q in questions]
        replies = [self._too_long(ids, 1) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        if fits:
            pairs = ((first, second),) * len(fits)
            request = Odds(tuple(asked[i] for i in fits), pairs)
            odds = self.backend.read(request).tolist()
            for i, (one, other) in zip(fits, odds, strict=True):
                replies[i] = Reply(odds=(one, other), tokens_in=len(asked[i]))
        return [reply for reply in replies if reply is not None]

    def fork(self, labels: Labels) -> tuple[tuple[int, ...], int, int]:
        """The tokens that begin a reply under either label, and the first token of each after."""
        one, other = (
            loading.tokenize(self.facts.tokenizer, f"{REPLY_START} {label}") for label in labels
        )
        for at, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return tuple(one[:at]), a, b
        raise UsageError(
            f"judge {self.name}: its tokenizer cannot tell {' from '.join(labels)}; set judge.ask "
            "to verdict or grades, or take another judge.model"
        )

    def _too_long(self, ids: Sequence[int], new: int) -> Reply | None:
        reader = context.reader_of(self.facts)
        if not reader.over(len(ids) + new):
            return None
        return Reply(failure=f"{len(ids)} tokens, but the model reads {reader.most}", final=True)
