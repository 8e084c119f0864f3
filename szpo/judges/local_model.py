"""A judge in this process: any causal language model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from szpo import seeds
from szpo.errors import UsageError
from szpo.generation.engine import Engine
from szpo.generation.engine_choice import engine_for
from szpo.generation.sampling import Sampling
from szpo.judges.backends import Question, Reply
from szpo.judges.prompting import Labels
from szpo.models import context, loading
from szpo.models.loading import Loaded
from szpo.models.logprobs import Sample, answer_logits, batches, vocabulary_size

LEAD = "Verdict:"
"""How a weighed reply begins; small models would else spend their mass on pleasantries."""


@dataclass(frozen=True)
class Local:
    """Asks a loaded model; questions of one call are answered in one batch."""

    loaded: Loaded
    temperature: float = 0.0
    max_tokens: int = 256

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @property
    def reserved(self) -> tuple[str, ...]:
        """Texts that the tokenizer turns into one control token, wherever they stand."""
        added = self.loaded.tokenizer.get_added_vocab()
        return tuple(sorted({*self.loaded.tokenizer.all_special_tokens, *added}))

    @cached_property
    def engine(self) -> Engine:
        """The engine that generates; choosing it takes a few tokens."""
        return engine_for(self.loaded.adapt())

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """See `Backend.write`."""
        asked = [loading.encode(self.loaded.tokenizer, each.prompt) for each in questions]
        replies = [self._too_long(ids, self.max_tokens) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        if fits:
            draws = [seeds.uniform(questions[i].key, self.max_tokens) for i in fits]
            sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_tokens)
            made = self.engine.generate(
                [asked[i] for i in fits], [0] * len(fits), None, sampling, np.stack(draws)
            )
            for i, new, ended in zip(fits, made.tokens, made.ended, strict=True):
                text = self.loaded.tokenizer.decode(
                    new[: -1 if ended else None],
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                )
                replies[i] = Reply(text, ended=ended, tokens_in=len(asked[i]), tokens_out=len(new))
        return [reply for reply in replies if reply is not None]

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """See `Backend.weigh`: one forward pass over all questions, both labels read from it.

        Raises:
            UsageError: the two labels begin with the same tokens.
        """
        lead, first, second = self.fork(labels)
        asked = [(*loading.encode(self.loaded.tokenizer, q.prompt), *lead) for q in questions]
        replies = [self._too_long(ids, 1) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        model = self.loaded.model
        samples = [Sample(asked[i], (first,), i) for i in fits]
        with torch.inference_mode():
            for batch in batches(samples, device=model.device, vocab=vocabulary_size(model)):
                found = answer_logits(model, batch, 1.0).double().log_softmax(-1)
                for at, odds in zip(batch.index, found[:, [first, second]].tolist(), strict=True):
                    ids = samples[at].prompt
                    replies[fits[at]] = Reply(odds=(odds[0], odds[1]), tokens_in=len(ids))
        return [reply for reply in replies if reply is not None]

    def fork(self, labels: Labels) -> tuple[tuple[int, ...], int, int]:
        """The tokens with which a reply begins under both labels, and the first two that differ.

        Raises:
            UsageError: there are none.
        """
        one, other = (
            self.loaded.tokenizer(f"{LEAD} {label}", add_special_tokens=False)["input_ids"]
            for label in labels
        )
        for at, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return tuple(one[:at]), a, b
        raise UsageError(f"judge {self.name}: its tokenizer cannot tell {' from '.join(labels)}")

    def _too_long(self, ids: Sequence[int], new: int) -> Reply | None:
        reader = context.reader_of(self.loaded)
        if not reader.over(len(ids) + new):
            return None
        return Reply(failure=f"{len(ids)} tokens, and the model reads {reader.most}", final=True)
