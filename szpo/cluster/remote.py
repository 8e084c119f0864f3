"""Workers hold the run's model: requests are split into chunks, sent out, and replies joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.cluster import ray_engine, worker
from szpo.cluster.ray_engine import Check, Task, Workers
from szpo.cluster.worker import Coordinates, Identity, Places, Setup, Who
from szpo.config.engine import RAY_ROWS, Engine
from szpo.errors import UsageError
from szpo.policies.requests import AnswerRequest, R, Scores, Texts, Tokens, join

OF_THE_FIRST = ("base_sha256", "hardware", "canary", "judge_sha256")
"""Parts of the first worker's identity that every other worker must equal."""
SCORED = 16
"""Chunks requested at a time when scores are read."""


class RemoteAnswerer:
    """An `szpo.policies.hosts.Answerer` whose rows are answered and read by workers."""

    def __init__(
        self,
        ask: Callable[[list[Task]], list[Any]],
        who: Who,
        chunk_rows: int,
        wrote: Callable[[Tokens], None],
    ):
        """``ask`` has tasks done in one setup; ``wrote`` is called with new answers."""
        self._ask, self._who, self._chunk_rows, self._wrote = ask, who, chunk_rows, wrote

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Answerer.answer`."""
        chunks = request.split(self._chunk_rows)
        replies = self._gather([chunk for _, chunk in chunks])
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for (rows, _), answers in zip(chunks, replies, strict=True):
            for row, tokens in zip(rows.tolist(), answers, strict=True):
                found[row] = tokens
        self._wrote(tuple(found))
        return tuple(found)

    def read(self, request: Texts[R]) -> R:
        """See `Answerer.read`."""
        found: R = join(self._gather(request.split(self._chunk_rows)))
        return found

    def read_scores(self, request: Scores) -> Iterator[NDArray[np.float32]]:
        """See `Answerer.read_scores`; `SCORED` chunks at a time, since scores are large."""
        chunks = request.split(self._chunk_rows)
        for first in range(0, len(chunks), SCORED):
            yield from self._gather(chunks[first : first + SCORED])

    def _gather(self, requests: Sequence[Any]) -> list[Any]:
        return self._ask([(self._who, request) for request in requests])


class RemoteHost:
    """A `szpo.policies.hosts.Host` whose models are held by workers, not by this process."""

    def __init__(self, engine: Engine, facts: Any, workers: Workers):
        """Wait until each worker has shown that it holds the model.

        Args:
            engine: The settings of the workers.
            facts: The base model as known without its weights (`szpo.models.context.Described`).
            workers: The workers; closed with the host.
        """
        self.facts, self.workers = facts, workers
        self.chunk_rows = engine.rows or RAY_ROWS
        self.written = 0
        self._setup = worker.setup_of(facts)
        self._expected = worker.expect(facts, None)
        try:
            workers.show(self._setup, self._check(self._expected))
        except BaseException:
            self.close()
            raise
        shown = {"sha256": self._expected["base_sha256"], "hardware": self._expected["hardware"]}
        self.facts = replace(facts, **shown)

    def places(self, adapter: Any, config: Mapping[str, Any] | None) -> Any:
        """See `Host.places`."""
        (found,) = self._ask_in(self._setup, self._expected)([("run", Places(adapter, config))])
        return found

    def at(self, subspace: Any, space: Any, *, run: bool = False) -> RemoteAnswerer:
        """See `Host.at`."""
        coordinates = Coordinates(subspace, space)
        setup = worker.setup_of(self.facts, coordinates, self._setup.judge)
        return self._answers("run", setup, self._expect(coordinates))

    def beside(self, name: str) -> tuple[Any, RemoteAnswerer]:
        """See `Host.beside`."""
        if (self.facts.name, self.facts.quantization) == (name, None):
            return self.facts, self._answers("base", self._setup, self._expected)
        from szpo.models import context

        known = context.describe(name, dtype=self.facts.dtype, device=str(self.facts.device))
        known.tokenizer.szpo_day = self.facts.tokenizer.szpo_day
        setup, expected = worker.setup_of(self.facts, judge=name), self._expect(None)
        self._ask_in(setup, expected)([("judge", None)])
        judge = replace(known, sha256=expected["judge_sha256"])
        return judge, self._answers("judge", setup, expected)

    def close(self) -> None:
        """See `Host.close`: ends the workers; the cluster keeps running."""
        self.workers.close()

    def _answers(self, who: Who, setup: Setup, expected: Identity) -> RemoteAnswerer:
        from szpo.models import loading
        from szpo.policies.hosts import count_written

        stop = loading.stop_tokens(self.facts)

        def count(answers: Tokens) -> None:
            self.written += count_written(answers, stop)

        return RemoteAnswerer(self._ask_in(setup, expected), who, self.chunk_rows, count)

    def _ask_in(self, setup: Setup, expected: Identity) -> Callable[[list[Task]], list[Any]]:
        check = self._check(expected)
        return lambda tasks: self.workers.gather(setup, tasks, check)

    def _expect(self, coordinates: Coordinates | None) -> Identity:
        known = {"hardware": self.facts.hardware}
        return worker.expect(self.facts, coordinates) | known

    @staticmethod
    def _check(expected: Identity) -> Check:
        def check(held: Identity) -> str | None:
            wrong = worker.describe_difference(expected, held)
            if wrong is None:
                for name in OF_THE_FIRST:
                    if name in held:
                        expected.setdefault(name, held[name])
            return wrong

        return check


def start(engine: Engine, facts: Any) -> RemoteHost:
    """Start the workers of these settings on a Ray cluster."""
    ray_engine.demand(engine)
    if (engine.gpus > 0) != (facts.device.type == "cuda") or facts.device.type == "mps":
        raise UsageError(
            f"engine.gpus {engine.gpus} does not go with model.device {facts.device}: workers "
            "compute on the run's kind of device; set engine.gpus to 1 for cuda, else to 0 with "
            "model.device cpu"
        )
    return RemoteHost(engine, facts, Workers(engine))
