"""What a vLLM server shows before it is asked for rows: the run's model, adapters and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from szpo.cluster.member_files import CastMember
from szpo.cluster.trusted_model import Judged, TrustedModel
from szpo.cluster.vllm_messages import Decoding, Row
from szpo.cluster.vllm_transport import Look, ServedChunk
from szpo.generation.sampling import Sampling

PROMPT, TOKENS, SEEDS = 8, 16, 8
"""Tokens of the canary's prompt and answers; seeds that are each asked twice."""
PEAKED = 1e-3
"""Equal answers to all seeds are no fault where one answer is at least as likely as this."""

Write = Callable[[Sequence[CastMember]], Mapping[str, str]]
"""Writes members to files; returns the folders by new names, in the order of the members."""


class Canary:
    """Asks for answers of two members, each seed of the first one twice, and judges them."""

    def __init__(
        self,
        trusted: TrustedModel,
        members: tuple[CastMember, CastMember],
        write: Write,
        decoding: Decoding,
    ):
        self._trusted, self._members, self._write = trusted, members, write
        sampling = Sampling(max_new_tokens=TOKENS)
        self._decoding = replace(decoding, sampling=sampling)
        self._prompt = tuple((7 * i + 3) % decoding.words for i in range(PROMPT))

    def chunk(self) -> ServedChunk:
        """The rows to ask for, with adapters of new names."""
        adapters = self._write(self._members)
        plus, minus = adapters
        rows = [Row(plus, self._prompt, seed) for seed in range(1, SEEDS + 1) for _ in range(2)]
        rows += [Row(minus, self._prompt, seed) for seed in range(1, SEEDS + 1)]
        return ServedChunk(tuple(rows), dict(adapters), self._decoding)

    def check(self, look: Look) -> str | None:
        """What is wrong with a server that showed this; None if nothing is."""
        if look.shown.caches_prefixes:
            return "it caches prefixes; start it with --no-enable-prefix-caching"
        answers, pairs = look.reply.answers, 2 * SEEDS
        (apart, other) = self._trusted.deviations(
            [
                [Judged(self._prompt, answer, member) for answer in part]
                for part, member in zip(
                    (answers[:pairs], answers[pairs:]), self._members, strict=True
                )
            ]
        )
        if max(apart, other) > self._trusted.tolerance:
            return (
                f"its log-probabilities are {max(apart, other):.3g} nats per token from those of "
                f"this run's model, {self._trusted.tolerance:g} are allowed: another model or "
                "dtype, or adapters that are not applied"
            )
        first, second = answers[:pairs:2], answers[1:pairs:2]
        differ = sum(a.tokens != b.tokens for a, b in zip(first, second, strict=True))
        if differ > SEEDS // 2:
            return f"it ignores seeds: {differ} of {SEEDS} rows had another answer the second time"
        likely = float(np.exp(sum(first[0].logprobs)))
        if len({answer.tokens for answer in first}) == 1 and likely < PEAKED:
            return f"it ignores seeds: {SEEDS} of them gave one answer of probability {likely:.1g}"
        return None
