"""Checks servers' answers with this process's own model, and writes members as adapter files.

A server rounds adapters to the dtype of its model. The files hold the rounded values, so both
sides use the same numbers. vLLM servers read one rank and one scale for all weights and ignore
PEFT's ``rank_pattern`` and ``alpha_pattern``: the scale is multiplied into B, and smaller ranks
are padded with zeros.

No field of a reply proves which adapter wrote it, but its log-probabilities come from that
adapter. So this model computes the log-probabilities of the same tokens under the requested
member, and the mean |difference| per token is compared with what rounding explains. For each
chunk and member the rows with the longest answers are rescored, at least one, until they hold
`TOKENS` tokens. Where people vote, every row is also checked by itself. Rounding can make single
tokens differ by much, so `SLACK` tokens without difference are added to each mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.models import adapters, lora
from szpo.models.loading import DTYPES
from szpo.models.lora import SERVER_RANKS, Site
from szpo.policies.backend import LocalBackend, stack
from szpo.policies.requests import AnswerRequest
from szpo.policies.vllm_messages import RowAnswer
from szpo.types import Floats, Theta

SLACK = 8
TOKENS = 144
"""Tokens that are rescored for each member in a chunk, if the chunk has that many."""
TOLERANCE = {"fp32": 0.005, "bf16": 0.09, "fp16": 0.02}
"""Largest mean |difference| in nats per token between two implementations, by the model's dtype.

For SmolLM2 in bf16, the flat engine and PEFT differ by .05 on average.
"""


@dataclass(frozen=True)
class CastMember:
    """A member's factors as a server rounds them."""

    factors: Mapping[str, NDArray[np.float32]]
    """A and scale · B by ``site.a`` and ``site.b``, rounded to the server's dtype."""
    sha256: str
    """Digest of the factors: members with the same digest are one policy on the server."""


def cast_member(factors: Theta, sites: Sequence[Site], dtype: str) -> CastMember:
    """Round a member's factors as a server of this dtype does; B is first scaled."""
    found, digest = {}, hashlib.sha256()
    for site in sites:
        found[site.a] = _round(factors[site.a], dtype)
        found[site.b] = _round(factors[site.b] * np.float32(site.scale), dtype)
        for name in (site.a, site.b):
            digest.update(np.ascontiguousarray(found[name], "<f4").tobytes())
    return CastMember(found, digest.hexdigest())


def trusted_factors(member: CastMember, sites: Sequence[Site]) -> Theta:
    """The factors with which this process computes the same policy as the server.

    B is divided by the scale in fp32, since this process multiplies by the scale.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for site in sites:
        found[site.a] = member.factors[site.a]
        found[site.b] = member.factors[site.b] / np.float32(site.scale)
    return found


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
    found: NDArray[np.float32] = rounded.to(torch.float32).numpy()
    return found


@dataclass(frozen=True, slots=True)
class Judged:
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

    def logprobs(self, rows: Sequence[Judged]) -> list[Floats]:
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

    def deviations(self, groups: Sequence[Sequence[Judged]]) -> list[float]:
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
    found: dict[object, list[int]] = {}
    count: dict[object, int] = {}
    for row in sorted(range(len(members)), key=lambda i: (-lengths[i], i)):
        member = members[row]
        if count.get(member, 0) < TOKENS:
            found.setdefault(member, []).append(row)
            count[member] = count.get(member, 0) + lengths[row]
    order = list(dict.fromkeys(members))
    return [found[member] for member in order]


def deviation(reported: Sequence[Floats], trusted: Sequence[Floats]) -> float:
    """Mean |difference| of log-probabilities per token, with `SLACK`, nats; inf if not finite."""
    apart = np.abs(np.concatenate(list(reported)) - np.concatenate(list(trusted)))
    if not np.isfinite(apart).all():
        return math.inf
    return float(apart.sum()) / (len(apart) + SLACK)
