"""Answers rows with the model of this process: the same code in the controller and in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from szpo.generation.engine import Engine
from szpo.models.batched_lora import Deltas
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.policies.probe import is_zero, stack
from szpo.policies.row_request import RowRequest, Tokens, split
from szpo.policies.subspaces import Subspace
from szpo.types import Theta


class Answerer(Protocol):
    """Whatever answers rows: this process, or workers elsewhere."""

    def answer(self, request: RowRequest) -> Tokens:
        """The new tokens of each row, in the order of the request, an end token included.

        Raises:
            RunError: the canary found two members that are the same policy.
            ResourceError: nobody is there to answer.
        """


class Responder:
    """A base model and a subspace, held once; every request brings its own coordinates."""

    def __init__(
        self,
        subspace: Subspace,
        space: Space,
        engine: Engine,
        device: torch.device,
        *,
        chunk_rows: int | None = None,
    ):
        """``chunk_rows``: rows answered at a time, as workers do; None: all at once."""
        self.subspace = subspace
        self.space = space
        self.engine = engine
        self.device = device
        self.chunk_rows = chunk_rows
        self.plain_start = is_zero({**subspace.fixed, **subspace.start}, subspace.sites)
        """The start is the base model itself."""

    def answer(self, request: RowRequest) -> Tokens:
        """See `Answerer.answer`."""
        if self.chunk_rows is None:
            return self.answer_chunk(request)
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for rows, chunk in split(request, self.chunk_rows):
            for row, tokens in zip(rows.tolist(), self.answer_chunk(chunk), strict=True):
                found[row] = tokens
        return tuple(found)

    def answer_chunk(self, request: RowRequest) -> Tokens:
        """Answer all rows of a request in one generation call."""
        return self.engine.generate(
            request.row_prompts(),
            request.members(),
            None if request.base and self.plain_start else self.deltas(self.members(request)),
            request.sampling,
            request.uniforms(),
            canary=request.canary,
        ).tokens

    def members(self, request: RowRequest) -> list[Theta]:
        """The master coordinates of each member."""
        return [parameters.shift(self.space, request.theta, shift) for shift in request.shifts]

    def deltas(self, thetas: Sequence[Theta]) -> Deltas:
        """The members at these master coordinates, on the model's device."""
        members = [self.subspace.weights(theta) for theta in thetas]
        still = {**self.subspace.fixed, **self.subspace.start}
        return stack(self.subspace.sites, still, members, self.device)
