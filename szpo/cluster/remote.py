"""Workers hold the run's model: requests are split into chunks, sent out, and replies joined."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.cluster import ray_engine, worker
from szpo.cluster.ray_engine import Workers
from szpo.cluster.worker import Coordinates, Identity, Places, Who
from szpo.config.engine import RAY_ROWS, Engine
from szpo.errors import UsageError
from szpo.policies.requests import AnswerRequest, R, Scores, Texts, Tokens, join

OF_THE_FIRST = ("base_sha256", "hardware", "canary", "judge_sha256")
"""Parts of the first worker's identity that every other worker must equal."""
SCORED = 16
"""Chunks requested at a time when scores are read."""


class RayBackend:
    """A `szpo.policies.backend.Backend` whose models are held by workers, not by this process."""

    def __init__(self, engine: Engine, facts: Any, workers: Workers):
        """Wait until each worker has shown that it holds the model.

        Args:
            engine: The settings of the workers.
            facts: The base model as known without its weights (`szpo.models.context.Described`).
            workers: The workers; closed with the backend.
        """
        self.workers, self.chunk_rows = workers, engine.rows or RAY_ROWS
        self._counts = [0]
        """Shared by all backends of `at`."""
        self._who: Who = "run"
        self._setup, self._expected = worker.setup_of(facts), worker.expect(facts, None)
        try:
            workers.show(self._setup, self._check)
        except BaseException:
            self.close()
            raise
        shown = {"sha256": self._expected["base_sha256"], "hardware": self._expected["hardware"]}
        self.facts = replace(facts, **shown)

    @property
    def written(self) -> int:
        """See `Backend.written`."""
        return self._counts[0]

    def places(self, adapter: Any, config: Mapping[str, Any] | None) -> Any:
        """See `Backend.places`."""
        (found,) = self._gather([Places(adapter, config)])
        return found

    def at(self, subspace: Any, space: Any, *, run: bool = False) -> RayBackend:
        """See `Backend.at`."""
        return self._asking("run", Coordinates(subspace, space))

    def beside(self, name: str) -> RayBackend:
        """See `Backend.beside`."""
        if (self.facts.name, self.facts.quantization) == (name, None):
            return self._asking("base")
        from szpo.models import context

        known = context.describe(name, dtype=self.facts.dtype, device=str(self.facts.device))
        known.tokenizer.szpo_day = self.facts.tokenizer.szpo_day
        found = self._asking("judge", judge=name)
        found._gather([None])
        found.facts = replace(known, sha256=found._expected["judge_sha256"])
        return found

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Backend.answer`."""
        from szpo.models import loading
        from szpo.policies.backend import count_written

        chunks = request.split(self.chunk_rows)
        replies = self._gather([chunk for _, chunk in chunks])
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for (rows, _), answers in zip(chunks, replies, strict=True):
            for row, tokens in zip(rows.tolist(), answers, strict=True):
                found[row] = tokens
        self._counts[0] += count_written(tuple(found), loading.stop_tokens(self.facts))
        return tuple(found)

    def read(self, request: Texts[R]) -> R:
        """See `Backend.read`."""
        found: R = join(self._gather(request.split(self.chunk_rows)))
        return found

    def read_scores(self, request: Scores) -> Iterator[NDArray[np.float32]]:
        """See `Backend.read_scores`; `SCORED` chunks at a time, since scores are large."""
        chunks = request.split(self.chunk_rows)
        for first in range(0, len(chunks), SCORED):
            yield from self._gather(chunks[first : first + SCORED])

    def close(self) -> None:
        """See `Backend.close`: ends the workers; the cluster keeps running."""
        self.workers.close()

    def _asking(
        self, who: Who, coordinates: Coordinates | None = None, judge: str | None = None
    ) -> RayBackend:
        found = copy.copy(self)
        found._who, found._setup = who, worker.setup_of(self.facts, coordinates, judge)
        known = {"hardware": self.facts.hardware}
        found._expected = worker.expect(self.facts, coordinates) | known
        return found

    def _gather(self, requests: Sequence[Any]) -> list[Any]:
        tasks = [(self._who, request) for request in requests]
        return self.workers.gather(self._setup, tasks, self._check)

    def _check(self, held: Identity) -> str | None:
        wrong = worker.describe_difference(self._expected, held)
        if wrong is None:
            for name in OF_THE_FIRST:
                if name in held:
                    self._expected.setdefault(name, held[name])
        return wrong


def start(engine: Engine, facts: Any) -> RayBackend:
    """Start the workers of these settings on a Ray cluster."""
    ray_engine.demand(engine)
    if (engine.gpus > 0) != (facts.device.type == "cuda") or facts.device.type == "mps":
        raise UsageError(
            f"engine.gpus {engine.gpus} does not go with model.device {facts.device}: workers "
            "compute on the run's kind of device; set engine.gpus to 1 for cuda, else to 0 with "
            "model.device cpu"
        )
    return RayBackend(engine, facts, Workers(engine))
