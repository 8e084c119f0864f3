"""vLLM servers answer a policy's rows: adapters are written, chunks sent, answers rescored here.

Answers have the same distribution as the local engine's, for members rounded to the servers'
dtype. The tokens differ: a server samples with its own random numbers, from one seed per row.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szpo.errors import IntegrityError, RunError, StorageError
from szpo.models.answer_shares import cut_rows
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.policies.requests import AnswerRequest, Tokens
from szpo.policies.vllm_messages import Decoding, Row, RowAnswer, row_seed
from szpo.policies.vllm_servers import ChunkReply, ServedChunk, Servers, Shown
from szpo.policies.vllm_trusted_model import (
    CastMember,
    Judged,
    TrustedModel,
    pick_rows,
    save_member,
)

ASKED_AGAIN = 2
"""How often chunks answered with a wrong adapter are sent again, under new adapter names."""


class AdapterFolder:
    """A folder from which servers read adapters; no adapter name is used twice."""

    def __init__(self, root: Path, sites: tuple[Site, ...], base: str):
        """Make the folder."""
        self._nonce = secrets.token_hex(4)
        self._own = root / f"szpo-{self._nonce}"
        self._sites, self._base = sites, base
        self._number = itertools.count()
        try:
            self._own.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"{root} cannot be written ({error.strerror or error})") from None
        self.close = weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)

    def write(self, members: Sequence[CastMember]) -> dict[str, str]:
        """Write members; returns their folders by new adapter names.

        Raises:
            StorageError: the folder cannot be written.
        """
        found = {}
        for member in members:
            name = f"{self._own.name}-{next(self._number)}"
            save_member(self._own / name, member, self._sites, base=self._base)
            found[name] = str(self._own / name)
        return found

    def remove(self, names: Sequence[str]) -> None:
        """Remove files that no server will read again."""
        for name in names:
            shutil.rmtree(self._own / name, ignore_errors=True)


PROMPT, CANARY_TOKENS, SEEDS = 8, 16, 8
"""Tokens of the canary's prompt; tokens of its answers; seeds, each used twice."""
PEAKED = 1e-3
"""Equal answers for all seeds are accepted if the answer's probability is at least this."""

Write = Callable[[Sequence[CastMember]], Mapping[str, str]]
"""Writes members to files; returns their folders by new adapter names, in members' order."""


class Canary:
    """Checks a server with answers of two members; the first answers each seed twice."""

    def __init__(
        self,
        trusted: TrustedModel,
        members: tuple[CastMember, CastMember],
        write: Write,
        decoding: Decoding,
    ):
        self._trusted, self._members, self._write = trusted, members, write
        sampling = Sampling(max_new_tokens=CANARY_TOKENS)
        self._decoding = replace(decoding, sampling=sampling)
        self._prompt = tuple((7 * i + 3) % decoding.words for i in range(PROMPT))

    def chunk(self) -> ServedChunk:
        """The rows to send, with adapters under new names."""
        adapters = self._write(self._members)
        plus, minus = adapters
        rows = [Row(plus, self._prompt, seed) for seed in range(1, SEEDS + 1) for _ in range(2)]
        rows += [Row(minus, self._prompt, seed) for seed in range(1, SEEDS + 1)]
        return ServedChunk(tuple(rows), dict(adapters), self._decoding)

    def check(self, shown: Shown, reply: ChunkReply) -> str | None:
        """What is wrong with the server; None if nothing."""
        if shown.caches_prefixes:
            return "it caches prefixes; start it with --no-enable-prefix-caching"
        answers, pairs = reply.answers, 2 * SEEDS
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


@dataclass(frozen=True)
class _Asked:
    """A request, its members rounded to the servers' dtype, and the seed of each row."""

    request: AnswerRequest
    members: list[CastMember]
    seeds: list[int]

    def to_judge(self, row: int, answer: RowAnswer) -> Judged:
        prompt, member = self.request.rows[row, :2].tolist()
        return Judged(self.request.prompts[prompt], answer, self.members[member])


class ServedAnswers:
    """Answers rows by vLLM servers; this process rescores the answers."""

    def __init__(
        self,
        servers: Servers,
        folder: AdapterFolder,
        trusted: TrustedModel,
        decoding: Callable[[AnswerRequest], Decoding],
        *,
        chunk_rows: int,
        each_row: bool = False,
    ):
        """``each_row``: every row is rescored and also checked by itself."""
        self._servers = servers
        self._folder, self._trusted, self._decoding = folder, trusted, decoding
        self._chunk_rows, self._each_row = chunk_rows, each_row
        self.rescored = 0
        """Rows whose log-probabilities were also computed here."""
        self.refused = 0
        """Chunks refused because a wrong adapter had answered."""

    def close(self) -> None:
        """Give up the servers and remove all files."""
        self._servers.close()
        self._folder.close()

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `szpo.policies.backend.Backend.answer`."""
        members = self._trusted.members(request)
        seeds = [row_seed(float(words[0])) for words in request.uniforms()]
        asked = _Asked(request, members, seeds)
        todo = [rows for rows, _ in request.split(self._chunk_rows)]
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for tries in range(ASKED_AGAIN + 1):
            replies = self._gather(asked, todo)
            if request.canary and not tries:
                self._require_different(
                    asked.to_judge(int(todo[0][0]), replies[0].answers[0]), members
                )
            faults = self._faults(asked, todo, replies)
            for i, (rows, reply) in enumerate(zip(todo, replies, strict=True)):
                for row, answer in zip(rows.tolist(), reply.answers, strict=True):
                    if i not in faults:
                        found[row] = answer.tokens
            if not faults:  # checked as the servers gave them
                whole = request.sampling.whole_sentences
                return cut_rows(self._trusted.local.adapted, found) if whole else tuple(found)
            self.refused += len(faults)
            _report("; ".join(dict.fromkeys(faults.values())), last=tries == ASKED_AGAIN)
            todo = [todo[i] for i in faults]
        raise AssertionError("the last try returns or raises")

    def _gather(self, asked: _Asked, chunks: Sequence[NDArray[np.int64]]) -> list[ChunkReply]:
        """Have chunks of rows answered, with adapters under new names."""
        table = asked.request.rows
        used = np.unique(np.concatenate([table[rows, 1] for rows in chunks])).tolist()
        paths = self._folder.write([asked.members[member] for member in used])
        name_of = dict(zip(used, paths, strict=True))
        decoding = self._decoding(asked.request)
        requests = []
        for rows in chunks:
            lines = tuple(
                Row(name_of[member], asked.request.prompts[prompt], asked.seeds[row])
                for row, (prompt, member) in zip(
                    rows.tolist(), table[rows, :2].tolist(), strict=True
                )
            )
            needed = dict.fromkeys(line.model for line in lines)
            requests.append(ServedChunk(lines, {n: paths[n] for n in needed}, decoding))
        return self._servers.gather(requests)

    def _faults(
        self, asked: _Asked, chunks: Sequence[NDArray[np.int64]], replies: Sequence[ChunkReply]
    ) -> dict[int, str]:
        """Indices of chunks that a wrong adapter answered, each with a text for the user."""
        judged = [
            [
                asked.to_judge(row, answer)
                for row, answer in zip(rows.tolist(), r.answers, strict=True)
            ]
            for rows, r in zip(chunks, replies, strict=True)
        ]
        picked = [
            (i, [rows[j] for j in group])
            for i, rows in enumerate(judged)
            for group in pick_rows(
                [row.member.sha256 for row in rows], [len(row.answer.tokens) for row in rows]
            )
        ]
        if self._each_row:
            picked += [(i, [row]) for i, rows in enumerate(judged) for row in rows]
        apart = self._deviations([group for _, group in picked])
        failing = {i for (i, _), value in zip(picked, apart, strict=True) if self._wrong(value)}
        if not failing:
            return {}
        # Nothing from a server that failed once is trusted: all rows of its chunks are rescored.
        servers = {replies[i].server for i in failing}
        found = {}
        for i in (i for i, reply in enumerate(replies) if reply.server in servers):
            rows = self._deviations([[row] for row in judged[i]])
            wrong = sum(self._wrong(value) for value in rows)
            if wrong or i in failing:
                found[i] = (
                    f"{replies[i].server} answers with other adapters "
                    f"than it was asked for ({wrong} of {len(rows)} rows of a chunk)"
                )
        return found

    def _require_different(self, row: Judged, members: Sequence[CastMember]) -> None:
        """Refuse members with equal log-probabilities of a row: they are equal after rounding."""
        found = self._trusted.logprobs([replace(row, member=member) for member in members])
        for (i, one), (j, other) in itertools.combinations(enumerate(found), 2):
            if np.array_equal(one, other):
                raise RunError(
                    f"canary: members {i} and {j} are one policy in the servers' dtype; raise "
                    "optimizer.kl_radius, or serve the model in a wider dtype"
                )

    def _deviations(self, groups: Sequence[Sequence[Judged]]) -> list[float]:
        self.rescored += len({id(row) for group in groups for row in group})
        return self._trusted.deviations(groups)

    def _wrong(self, deviation: float) -> bool:
        return deviation > self._trusted.tolerance


def _report(text: str, *, last: bool) -> None:
    if last:
        raise IntegrityError(
            f"{text}, {ASKED_AGAIN + 1} times; nothing of this step was shown to anybody: restart "
            "the server, then resume the run"
        )
    logging.getLogger("szpo").warning(f"{text}; asked again under new names")
