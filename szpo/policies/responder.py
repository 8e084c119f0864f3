"""Answers and reads rows with the model of this process: the same code here and in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.generation.engine import Engine
from szpo.models import logprobs, scores
from szpo.models.batched_lora import AdaptedModel, Deltas
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from szpo.models.scores import ScoredLaw
from szpo.optim import parameters
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.policies import read_request, row_request
from szpo.policies.read_request import VALUES, Reading, ReadRequest
from szpo.policies.row_request import RowRequest, Tokens
from szpo.policies.subspaces import Subspace
from szpo.types import Theta

NOWHERE = Subspace("full", (), {}, {}, {})
"""For a model without an adapter: there is nothing to move."""
NO_SPACE = Space(0, (("none", (1,)),), Law())


class Answerer(Protocol):
    """Whatever answers rows: this process, or workers elsewhere."""

    def answer(self, request: RowRequest) -> Tokens:
        """The new tokens of each row, in the order of the request, an end token included.

        Raises:
            RunError: the canary found two members that are the same policy.
            ResourceError: nobody is there to answer.
        """


class Respondent(Answerer, Protocol):
    """Whatever answers rows and reads given answers."""

    def read(self, request: ReadRequest) -> Reading:
        """What the request wants of each of its answers, in their order.

        Raises:
            RunError: a score is not finite.
            ResourceError: nobody is there to read.
        """

    def read_scores(self, request: ReadRequest) -> Iterator[NDArray[np.float32]]:
        """`read` of ``scores`` in blocks (rows, D), so that they are never in memory together."""


class Responder:
    """A base model and a subspace, held once; every request brings its own coordinates."""

    def __init__(
        self, subspace: Subspace, space: Space, engine: Engine, model: AdaptedModel,
        *, chunk_rows: int | None = None,
    ):  # fmt: skip
        """``chunk_rows``: rows answered at a time, as workers do; None: all at once."""
        self.subspace = subspace
        self.space = space
        self.engine = engine
        self.adapted = model
        self.chunk_rows = chunk_rows
        self.plain_start = is_zero({**subspace.fixed, **subspace.start}, subspace.sites)
        """The start is the base model itself."""

    def answer(self, request: RowRequest) -> Tokens:
        """See `Answerer.answer`."""
        if self.chunk_rows is None:
            return self.answer_chunk(request)
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for rows, chunk in row_request.split(request, self.chunk_rows):
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

    def read(self, request: ReadRequest) -> Reading:
        """See `Respondent.read`."""
        if self.chunk_rows is None:
            return self.read_chunk(request)
        chunks = read_request.split(request, self.chunk_rows)
        return read_request.join([self.read_chunk(chunk) for chunk in chunks])

    def read_chunk(self, request: ReadRequest) -> Reading:
        """Read all answers of a request in passes of this process."""
        model, prompts, answers = self.adapted.model, request.prompts, request.answers
        samples = [Sample(p, a, i) for i, (p, a) in enumerate(zip(prompts, answers, strict=True))]
        if request.what == "inputs":
            return logprobs.input_directions(self.adapted, samples)
        if request.what == "odds":
            return {VALUES: logprobs.label_odds(model, prompts, answers)}
        if request.what == "features":
            return {VALUES: logprobs.hidden_features(model, prompts, answers)}
        if request.what == "scores":
            return {VALUES: np.concatenate(list(self._score_blocks(request)))}
        deltas = self._start_deltas() if request.start else self.deltas(request.thetas)
        owner = request.owner or (0,) * len(samples)
        if request.what == "kl":
            assert deltas is not None  # `kl` always names members
            found = logprobs.kl_of_members(
                self.adapted, deltas, samples, owner,
                reference=self._start_deltas(), temperature=request.temperature,
            )  # fmt: skip
            return {VALUES: found}
        rows = self.engine.logprobs(
            prompts, answers, owner, deltas, temperature=request.temperature
        )
        return {VALUES: np.concatenate([np.zeros(0), *rows])}

    def read_scores(self, request: ReadRequest) -> Iterator[NDArray[np.float32]]:
        """See `Respondent.read_scores`."""
        if self.chunk_rows is None:
            return self._score_blocks(request)
        chunks = read_request.split(request, self.chunk_rows)
        return (self.read_chunk(chunk)[VALUES] for chunk in chunks)

    def _score_blocks(self, request: ReadRequest) -> Iterator[NDArray[np.float32]]:
        start = {**self.subspace.fixed, **self.subspace.start}
        law = ScoredLaw(request.temperature, request.redraws, request.seed)
        samples = [Sample(p, a) for p, a in zip(request.prompts, request.answers, strict=True)]
        for _, found in scores.iterate_scores(self.adapted, start, samples, law):
            yield found.reshape(-1, found.shape[-1])

    def members(self, request: RowRequest) -> list[Theta]:
        """The master coordinates of each member."""
        if request.thetas:
            return list(request.thetas)
        return [parameters.shift(self.space, request.theta, shift) for shift in request.shifts]

    def deltas(self, thetas: Sequence[Theta]) -> Deltas | None:
        """The members at these master coordinates, on the model's device; None without any."""
        if not thetas:
            return None
        members = [self.subspace.weights(theta) for theta in thetas]
        still = {**self.subspace.fixed, **self.subspace.start}
        return stack(self.subspace.sites, still, members, self.adapted.model.device)

    def _start_deltas(self) -> Deltas | None:
        """The starting policy as a member; None where it is the base model itself."""
        return None if self.plain_start else self.deltas([start_of(self.subspace)])


def start_of(subspace: Subspace) -> Theta:
    """The master coordinates of a run's start: zeros in a subspace, else its factors."""
    if subspace.basis:
        return parameters.zeros(subspace.layout)
    return {name: np.array(value, np.float32) for name, value in subspace.start.items()}


def is_zero(start: Theta, sites: tuple[Site, ...]) -> bool:
    """Whether the start is the base model itself: every B is 0."""
    return all(not start[s.b].any() for s in sites)


def stack(
    sites: tuple[Site, ...],
    start: Theta,
    members: Sequence[Theta],
    device: torch.device | str = "cpu",
) -> Deltas:
    """Stack members that each replace some tensors of ``start`` into deltas.

    A stays shared where no member replaces it.
    """

    def whole(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.get(name, start[name]) for m in members])).to(device)

    moved = {name for m in members for name in m}
    A = {
        s.name: whole(s.a) if s.a in moved else torch.from_numpy(start[s.a]).to(device)
        for s in sites
    }
    return Deltas(A, {s.name: whole(s.b) for s in sites})
