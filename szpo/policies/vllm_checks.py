"""vLLM servers answer a policy's rows: adapters are written for them, answers rescored here.

Answers have the same distribution as the local engine's, for members rounded to the servers'
dtype. The tokens differ: a server samples with its own random numbers, from one seed per row.

A server rounds adapters to the dtype of its model. The files hold the rounded values, so both
sides use the same numbers. Some vLLM servers (not 0.32) ignore PEFT's ``rank_pattern`` and
``alpha_pattern``, so the files have one rank and one scale for all weights: the scale is
multiplied into B, and smaller ranks are padded with zeros.

No field of a reply proves which adapter wrote it, but its log-probabilities come from that
adapter. So this model computes the log-probabilities of the same tokens under the requested
member, and the mean |difference| per token is compared with what rounding explains. For each
chunk and member the rows with the longest answers are rescored, at least one, until they hold
`TOKENS` tokens. Where people vote, every row is also checked by itself. Rounding can make single
tokens differ by much, so `SLACK` tokens without difference are added to each mean.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import secrets
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import IntegrityError, RunError, StorageError, UsageError
from szpo.models import adapters, lora
from szpo.models.answer_shares import cut_rows
from szpo.models.loading import DTYPES
from szpo.models.lora import SERVER_RANKS, Site
from szpo.models.sampling import Sampling
from szpo.policies.backend import AnswerRequest, LocalBackend, Tokens, stack
from szpo.policies.vllm_servers import (
    ChunkReply,
    Decoding,
    Row,
    RowAnswer,
    ServedChunk,
    Servers,
    Shown,
    row_seed,
)
from szpo.types import Floats, Theta

SLACK = 8
TOKENS = 144
"""Tokens that are rescored for each member in a chunk, if the chunk has that many."""
TOLERANCE = {"fp32": 0.005, "bf16": 0.09, "fp16": 0.02}
"""Largest mean |difference| in nats per token between two implementations, by the model's dtype.

For SmolLM2 in bf16, the flat engine and PEFT differ by .05 on average.
"""

ASKED_AGAIN = 2
"""How often chunks answered with a wrong adapter are sent again, under new adapter names."""
PROMPT, CANARY_TOKENS, SEEDS = 8, 16, 8
"""Tokens of the canary's prompt; tokens of its answers; seeds, each used twice."""
PEAKED = 1e-3
"""Equal answers for all seeds are accepted if the answer's probability is at least this."""
Write: TypeAlias = "Callable[[Sequence[CastMember]], Mapping[str, str]]"
"""Writes members to files; returns their folders by new adapter names, in members' order."""


@dataclass(frozen=True)
class CastMember:
    """A member's factors as a server rounds them."""

    factors: Mapping[str, NDArray[np.float32]]
    """A and scale · B by ``site.a`` and ``site.b``, rounded to the server's dtype."""
    sha256: str
    """Digest of the factors: members with the same digest are one policy on the server."""


def cast_member(factors: Theta, sites: Sequence[Site], dtype: str) -> CastMember:
    """Round a member's factors as a server of this dtype does; B is first scaled."""
    rounded, digest = {}, hashlib.sha256()
    for site in sites:
        rounded[site.a] = _round(factors[site.a], dtype)
        rounded[site.b] = _round(factors[site.b] * np.float32(site.scale), dtype)
        for name in (site.a, site.b):
            digest.update(np.ascontiguousarray(rounded[name], "<f4").tobytes())
    return CastMember(rounded, digest.hexdigest())


def trusted_factors(member: CastMember, sites: Sequence[Site]) -> Theta:
    """The factors with which this process computes the same policy as the server.

    B is divided by the scale in fp32, since this process multiplies by the scale.
    """
    factors: dict[str, NDArray[np.float32]] = {}
    for site in sites:
        factors[site.a] = member.factors[site.a]
        factors[site.b] = member.factors[site.b] / np.float32(site.scale)
    return factors


def save_member(path: Path, member: CastMember, sites: Sequence[Site], *, base: str) -> None:
    """Write a new folder of PEFT files with one rank for all weights and a scale of 1."""
    padded, one_rank = lora.pad(member.factors, sites)
    plain = tuple(replace(site, scale=1.0) for site in one_rank)
    adapters.save_adapter(path, padded, plain, base=base)


def require_rank(sites: Sequence[Site]) -> int:
    """The smallest ``--max-lora-rank`` of a vLLM server that takes these adapters."""
    rank = max(site.rank for site in sites)
    for limit in SERVER_RANKS:
        if rank <= limit:
            return limit
    raise UsageError(
        f"adapter.rank {rank} is more than any vLLM server takes ({SERVER_RANKS[-1]}); lower it, "
        "or use another engine.kind"
    )


def _round(value: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    rounded = torch.from_numpy(np.array(value, np.float32)).to(DTYPES[dtype])
    values: NDArray[np.float32] = rounded.to(torch.float32).numpy()
    return values


@dataclass(frozen=True, slots=True)
class ClaimedAnswer:
    """An answer, and the member that should have written it."""

    prompt: tuple[int, ...]
    answer: RowAnswer
    member: CastMember


class TrustedModel:
    """The run's model in this process, for members as a server rounds them."""

    def __init__(self, loaded: Any, local: LocalBackend):
        self.dtype: str = loaded.dtype
        self.tolerance = TOLERANCE[self.dtype]
        self.sites = local.subspace.sites
        self.local = local

    def members(self, request: AnswerRequest) -> list[CastMember]:
        """The members of a request, rounded as servers round them."""
        factors = map(self.local.subspace.factors, self.local.members(request))
        return [cast_member(each, self.sites, self.dtype) for each in factors]

    def logprobs(self, rows: Sequence[ClaimedAnswer]) -> list[Floats]:
        """Log-probability of each token of each row under its member, nats, temperature 1."""
        members = list({row.member.sha256: row.member for row in rows}.values())
        number = {member.sha256: i for i, member in enumerate(members)}
        subspace = self.local.subspace
        moving = subspace.start or {site.b for site in self.sites}
        thetas = [trusted_factors(member, self.sites) for member in members]
        moved = [{n: v for n, v in theta.items() if n in moving} for theta in thetas]
        return self.local.engine.logprobs(
            [row.prompt for row in rows],
            [row.answer.tokens for row in rows],
            [number[row.member.sha256] for row in rows],
            stack(self.sites, thetas[0], moved, self.local.adapted.model.device),
        )

    def deviations(self, groups: Sequence[Sequence[ClaimedAnswer]]) -> list[float]:
        """For each group of rows the `deviation` of the server's log-probabilities."""
        rows = {id(row): row for group in groups for row in group}
        if not rows:
            return []
        trusted = dict(zip(rows, self.logprobs([*rows.values()]), strict=True))
        return [
            deviation(
                [np.array(row.answer.logprobs) for row in group],
                [trusted[id(row)] for row in group],
            )
            for group in groups
        ]


def pick_rows(members: Sequence[object], lengths: Sequence[int]) -> list[list[int]]:
    """For each member the rows of a chunk to rescore, longest answers first.

    >>> pick_rows(["a", "b", "a", "a"], [3, 24, 70, 90])
    [[3, 2], [1]]
    """
    rows_of: dict[object, list[int]] = {}
    count: dict[object, int] = {}
    for row in sorted(range(len(members)), key=lambda i: (-lengths[i], i)):
        member = members[row]
        if count.get(member, 0) < TOKENS:
            rows_of.setdefault(member, []).append(row)
            count[member] = count.get(member, 0) + lengths[row]
    order = list(dict.fromkeys(members))
    return [rows_of[member] for member in order]


def deviation(reported: Sequence[Floats], trusted: Sequence[Floats]) -> float:
    """Mean |difference| of log-probabilities per token, with `SLACK`, nats; inf if not finite."""
    apart = np.abs(np.concatenate(list(reported)) - np.concatenate(list(trusted)))
    if not np.isfinite(apart).all():
        return math.inf
    return float(apart.sum()) / (len(apart) + SLACK)


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
        folders = {}
        for member in members:
            name = f"{self._own.name}-{next(self._number)}"
            save_member(self._own / name, member, self._sites, base=self._base)
            folders[name] = str(self._own / name)
        return folders

    def remove(self, names: Sequence[str]) -> None:
        """Remove files that no server will read again."""
        for name in names:
            shutil.rmtree(self._own / name, ignore_errors=True)


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
                [ClaimedAnswer(self._prompt, answer, member) for answer in part]
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

    def to_judge(self, row: int, answer: RowAnswer) -> ClaimedAnswer:
        prompt, member = self.request.rows[row, :2].tolist()
        return ClaimedAnswer(self.request.prompts[prompt], answer, self.members[member])


class ServedAnswers:
    """Answers rows by vLLM servers; this process rescores the answers."""

    def __init__(
        self,
        servers: Servers,
        folder: AdapterFolder,
        trusted: TrustedModel,
        decoding: Callable[[AnswerRequest], Decoding],
        *,
        each_row: bool,
    ):
        """``each_row``: every row is rescored and also checked by itself."""
        self._servers = servers
        self._folder, self._trusted, self._decoding = folder, trusted, decoding
        self._each_row = each_row
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
        todo = [rows for rows, _ in request.split(self._servers.rows)]
        answers: list[tuple[int, ...]] = [()] * len(request.rows)
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
                        answers[row] = answer.tokens
            if not faults:  # checked as the servers gave them
                whole = request.sampling.whole_sentences
                return cut_rows(self._trusted.local.adapted, answers) if whole else tuple(answers)
            self.refused += len(faults)
            text = "; ".join(dict.fromkeys(faults.values()))
            if tries == ASKED_AGAIN:
                raise IntegrityError(
                    f"{text}, {tries + 1} times; nothing of this step was shown to anybody: "
                    "restart the server, then resume the run"
                )
            logging.getLogger("szpo").warning(f"{text}; asked again under new names")
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
        faults = {}
        for i in (i for i, reply in enumerate(replies) if reply.server in servers):
            rows = self._deviations([[row] for row in judged[i]])
            wrong = sum(self._wrong(value) for value in rows)
            if wrong or i in failing:
                faults[i] = (
                    f"{replies[i].server} answers with other adapters "
                    f"than it was asked for ({wrong} of {len(rows)} rows of a chunk)"
                )
        return faults

    def _require_different(self, row: ClaimedAnswer, members: Sequence[CastMember]) -> None:
        """Refuse members with equal log-probabilities of a row: they are equal after rounding."""
        logprobs = self._trusted.logprobs([replace(row, member=member) for member in members])
        for (i, one), (j, other) in itertools.combinations(enumerate(logprobs), 2):
            if np.array_equal(one, other):
                raise RunError(
                    f"canary: members {i} and {j} are one policy in the servers' dtype; raise "
                    "optimizer.kl_radius, or serve the model in a wider dtype"
                )

    def _deviations(self, groups: Sequence[Sequence[ClaimedAnswer]]) -> list[float]:
        self.rescored += len({id(row) for group in groups for row in group})
        return self._trusted.deviations(groups)

    def _wrong(self, deviation: float) -> bool:
        return deviation > self._trusted.tolerance
