"""This process's own model as the judge of what servers answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from szpo.cluster import member_files, rescoring
from szpo.cluster.member_files import CastMember
from szpo.cluster.vllm_messages import RowAnswer
from szpo.policies.responder import Responder, stack
from szpo.policies.row_request import RowRequest
from szpo.types import Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and the member that is to have written it."""

    prompt: tuple[int, ...]
    answer: RowAnswer
    member: CastMember


class TrustedModel:
    """The run's model with a transformers engine, for members after a server's cast."""

    def __init__(self, loaded: Any, responder: Responder, tolerance: float | None):
        """``tolerance``: mean |difference| per token, nats; None: by the model's dtype."""
        self.dtype: str = loaded.dtype
        self.tolerance = tolerance or rescoring.TOLERANCE[self.dtype]
        self.sites = responder.subspace.sites
        self._responder = responder

    def members(self, request: RowRequest) -> list[CastMember]:
        """The members of a request as servers will hold them."""
        subspace = self._responder.subspace
        still = {**subspace.fixed, **subspace.start}
        return [
            member_files.cast_member({**still, **subspace.weights(theta)}, self.sites, self.dtype)
            for theta in self._responder.members(request)
        ]

    def logprobs(self, rows: Sequence[Judged]) -> list[Floats]:
        """Log-probability of each token of each row under its member, nats, temperature 1."""
        members = list({row.member.sha256: row.member for row in rows}.values())
        number = {member.sha256: i for i, member in enumerate(members)}
        moving = self._responder.subspace.start
        thetas = [member_files.trusted_factors(member, self.sites) for member in members]
        moved = [{n: v for n, v in theta.items() if n in moving} for theta in thetas]
        return self._responder.engine.logprobs(
            [row.prompt for row in rows],
            [row.answer.tokens for row in rows],
            [number[row.member.sha256] for row in rows],
            stack(self.sites, thetas[0], moved, self._responder.adapted.model.device),
        )

    def deviations(self, groups: Sequence[Sequence[Judged]]) -> list[float]:
        """Per group of rows the mean |difference| per token from what the server reported."""
        rows = {id(row): row for group in groups for row in group}
        if not rows:
            return []
        trusted = dict(zip(rows, self.logprobs([*rows.values()]), strict=True))
        return [
            rescoring.deviation(
                [np.array(row.answer.logprobs) for row in group],
                [trusted[id(row)] for row in group],
            )
            for group in groups
        ]
