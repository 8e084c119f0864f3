"""A policy's rows answered by workers elsewhere: cut into chunks, spread, put together again."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from szpo.cluster import ray_engine, worker
from szpo.cluster.ray_engine import RayTransport
from szpo.cluster.schedule import Bounds, Dispatcher, Transport
from szpo.config.engine import RAY_ROWS, Engine
from szpo.errors import UsageError
from szpo.policies.row_request import (
    Message,
    RowRequest,
    Tokens,
    array_to_tokens,
    split,
    to_message,
)


class RemoteAnswers:
    """Answers rows by the workers of a transport; see `szpo.policies.responder.Answerer`."""

    def __init__(
        self,
        transport: Transport[Message, Message],
        chunk_rows: int,
        *,
        exact: bool,
        bounds: Bounds | None = None,
    ):
        """``exact``: two answers to one chunk must be equal, as they are in fp32."""
        same = _same_tokens if exact else None
        self._chunk_rows = chunk_rows
        self.dispatcher: Dispatcher[Message, Message] = Dispatcher(
            transport, time.monotonic, bounds=bounds, same=same
        )

    def answer(self, request: RowRequest) -> Tokens:
        """See `Answerer.answer`."""
        chunks = split(request, self._chunk_rows)
        replies = self.dispatcher.gather([to_message(chunk) for _, chunk in chunks])
        found: list[tuple[int, ...]] = [()] * len(request.rows)
        for (rows, _), reply in zip(chunks, replies, strict=True):
            for row, tokens in zip(rows.tolist(), array_to_tokens(reply["tokens"]), strict=True):
                found[row] = tokens
        return tuple(found)


def connect(engine: Engine, loaded: Any, responder: Any) -> RemoteAnswers:
    """Start workers for a run whose model and coordinates this process holds as well.

    Raises:
        UsageError: The workers compute on another kind of device, or see `ray_engine.demand`.
        ResourceError: Ray does not come up.
    """
    ray_engine.demand(engine)
    if (engine.gpus > 0) != (loaded.device.type == "cuda") or loaded.device.type == "mps":
        raise UsageError(
            f"engine.gpus {engine.gpus} does not go with model.device {loaded.device}: workers "
            "compute on the run's kind of device; set engine.gpus to 1 for cuda, else to 0 with "
            "model.device cpu"
        )
    mine = worker.identity(loaded, responder)
    setup = worker.setup_message(loaded, responder, threads=engine.cpus, device=loaded.device.type)
    transport = RayTransport(engine, setup, lambda held: worker.describe_difference(mine, held))
    return RemoteAnswers(transport, engine.rows or RAY_ROWS, exact=worker.exact(loaded))


def _same_tokens(one: Message, other: Message) -> bool:
    return np.array_equal(one["tokens"], other["tokens"])
