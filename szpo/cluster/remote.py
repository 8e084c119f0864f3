"""Workers hold the run's model: requests are split into chunks, sent out, and replies joined."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.cluster import ray_engine, worker
from szpo.cluster.ray_engine import RayTransport
from szpo.cluster.schedule import Bounds, Dispatcher
from szpo.config.engine import RAY_ROWS, Engine
from szpo.errors import UsageError
from szpo.policies.requests import (
    VALUES,
    AnswerRequest,
    Message,
    Reading,
    ReadRequest,
    Tokens,
    array_to_tokens,
    join_readings,
)

OF_THE_FIRST = ("base_sha256", "hardware", "canary", "judge_sha256")
"""Parts of the first worker's identity that every other worker must equal."""


Check: TypeAlias = Callable[[dict[str, Any]], str | None]
"""Takes a worker's identity; returns what is wrong with it, or None."""


SCORED = 16
"""Chunks requested at a time when scores are read."""


class RemoteAnswerer:
    """An `szpo.policies.hosts.Answerer` whose rows are answered and read by workers."""

    def __init__(
        self,
        dispatcher: Dispatcher[Message, Message],
        chunk_rows: int,
        label: Mapping[str, str] | None = None,
        wrote: Callable[[Tokens], None] = lambda answers: None,
    ):
        """Answer through a dispatcher.

        ``label`` is added to every request: which model to ask, or the coordinates' id. ``wrote``
        is called with new answers.
        """
        self._wrote = wrote
        self.dispatcher = dispatcher
        self._chunk_rows = chunk_rows
        self._label = dict(label or {})

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Answerer.answer`."""
        chunks = request.split(self._chunk_rows)
        replies = self._gather([chunk.to_message() for _, chunk in chunks])
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for (rows, _), reply in zip(chunks, replies, strict=True):
            for row, tokens in zip(rows.tolist(), array_to_tokens(reply["tokens"]), strict=True):
                found[row] = tokens
        self._wrote(tuple(found))
        return tuple(found)

    def read(self, request: ReadRequest) -> Reading:
        """See `Answerer.read`."""
        chunks = request.split(self._chunk_rows)
        return join_readings(self._gather([chunk.to_message() for chunk in chunks]))

    def read_scores(self, request: ReadRequest) -> Iterator[NDArray[np.float32]]:
        """See `Answerer.read_scores`; `SCORED` chunks at a time, since scores are large."""
        chunks = request.split(self._chunk_rows)
        for first in range(0, len(chunks), SCORED):
            few = [chunk.to_message() for chunk in chunks[first : first + SCORED]]
            for reply in self._gather(few):
                yield reply[VALUES]

    def _gather(self, messages: list[Message]) -> list[Message]:
        return self.dispatcher.gather([{**message, **self._label} for message in messages])


@dataclass(frozen=True)
class Coordinates:
    """The run's subspace, and the `Space` from which its directions are drawn."""

    subspace: Any
    space: Any


class RemoteHost:
    """A `szpo.policies.hosts.Host` whose models are held by workers, not by this process."""

    def __init__(
        self,
        engine: Engine,
        facts: Any,
        connect: Callable[[Message, Check], RayTransport],
        *,
        bounds: Bounds | None = None,
    ):
        """Start workers and wait until each has shown that it holds the model.

        Args:
            engine: The settings of the workers.
            facts: The base model as known without its weights (`szpo.models.context.Described`).
            connect: Makes the transport from a setup and a check of a worker's identity.
            bounds: Time limits; None: the defaults of `Bounds`.
        """
        self._engine, self.facts = engine, facts
        self.chunk_rows = engine.rows or RAY_ROWS
        self.written = 0
        self._judge: str | None = None
        self._coordinates: Coordinates | None = None
        self._expected = worker.expect(facts, None)
        self.transport = connect(self._setup(), self._check)
        same = _same_arrays if worker.exact(facts) else None
        self.dispatcher: Dispatcher[Message, Message] = Dispatcher(
            self.transport, time.monotonic, bounds=bounds, same=same
        )
        try:
            self.dispatcher.wait_for_workers(engine.workers)
        except BaseException:
            self.close()
            raise
        shown = {"sha256": self._expected["base_sha256"], "hardware": self._expected["hardware"]}
        self.facts = replace(facts, **shown)

    def places(self, adapter: Any, config: Mapping[str, Any] | None) -> Any:
        """See `Host.places`."""
        from szpo.models.lora_sites import Site

        asked = {"adapter": adapter.model_dump(mode="json"), "config": config}
        (reply,) = self.dispatcher.gather([{"task": "places", "head": json.dumps(asked)}])
        found = json.loads(reply["head"])
        return tuple(Site(**site) for site in found["sites"]), found["conv1d"]

    def at(self, subspace: Any, space: Any, *, run: bool = False) -> RemoteAnswerer:
        """See `Host.at`."""
        self._coordinates = Coordinates(subspace, space)
        return self._answers({"space": self._change()})

    def beside(self, name: str) -> tuple[Any, RemoteAnswerer]:
        """See `Host.beside`."""
        if (self.facts.name, self.facts.quantization) == (name, None):
            return self.facts, self._answers({"model": "base"})
        from szpo.models import context

        known = context.describe(name, dtype=self.facts.dtype, device=str(self.facts.device))
        known.tokenizer.szpo_day = self.facts.tokenizer.szpo_day
        self._judge = name
        self._change()
        self.dispatcher.wait_for_workers(self._engine.workers)
        judge = replace(known, sha256=self._expected["judge_sha256"])
        return judge, self._answers({"model": "judge"})

    def close(self) -> None:
        """See `Host.close`: ends the workers; the cluster keeps running."""
        self.transport.close()

    def _answers(self, label: Mapping[str, str]) -> RemoteAnswerer:
        from szpo.models import loading
        from szpo.policies.hosts import count_written

        stop = loading.stop_tokens(self.facts)

        def count(answers: Tokens) -> None:
            self.written += count_written(answers, stop)

        return RemoteAnswerer(self.dispatcher, self.chunk_rows, label, count)

    def _setup(self) -> Message:
        return worker.setup_message(
            self.facts, self._coordinates, threads=self._engine.cpus, judge=self._judge
        )

    def _change(self) -> str:
        """Send the current coordinates and judge to every worker; returns the coordinates' id."""
        self._expected = worker.expect(self.facts, self._coordinates)
        setup = self._setup()
        self.dispatcher.forget_ready()
        self.transport.change(setup)
        return worker.coordinates_id(setup)

    def _check(self, held: dict[str, Any]) -> str | None:
        wrong = worker.describe_difference(self._expected, held)
        if wrong is None:
            for name in OF_THE_FIRST:
                if name in held:
                    self._expected.setdefault(name, held[name])
        return wrong


def start(engine: Engine, facts: Any) -> RemoteHost:
    """Start the workers of these settings on a Ray cluster."""
    ray_engine.demand(engine)
    if (engine.gpus > 0) != (facts.device.type == "cuda") or facts.device.type == "mps":
        raise UsageError(
            f"engine.gpus {engine.gpus} does not go with model.device {facts.device}: workers "
            "compute on the run's kind of device; set engine.gpus to 1 for cuda, else to 0 with "
            "model.device cpu"
        )
    return RemoteHost(engine, facts, lambda setup, check: RayTransport(engine, setup, check))


def _same_arrays(one: Message, other: Message) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )
