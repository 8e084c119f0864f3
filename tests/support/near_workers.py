"""Workers in this process that get messages as in a cluster, without a network."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from szpo.cluster import remote, worker
from szpo.cluster.schedule import Answered, Event, Ready, Refused
from szpo.config.engine import Engine
from szpo.models import context
from szpo.policies.requests import Message


class NearWorkers:
    """A transport that passes messages as bytes; they may contain only strings and arrays."""

    def __init__(self, setup: Message, check: Callable[[dict[str, Any]], str | None], count: int):
        self._check = check
        self.workers = {f"w{i}": worker.Worker(crossed(setup)) for i in range(count)}
        self.tasks: list[str] = []
        """Tasks of all requests so far."""
        self.closed = False
        self._events: list[Event[Message]] = []
        self._admit()

    def _admit(self) -> None:
        for name, each in self.workers.items():
            wrong = self._check(json.loads(json.dumps(each.identify())))
            assert wrong is None, wrong
            self._events.append(Ready(name))

    def send(self, name: str, chunk: str, request: Message) -> None:
        self.tasks.append(request.get("task", "rows"))
        reply = self.workers[name].answer(crossed(request))
        if "error" in reply:
            self._events.append(Refused(name, chunk, reply["error"], reply["text"]))
        else:
            self._events.append(Answered(name, chunk, crossed(reply)))

    def poll(self, seconds: float) -> Sequence[Event[Message]]:
        events, self._events = self._events, []
        return events

    def replace(self, name: str) -> None:
        raise NotImplementedError

    def change(self, setup: Message) -> None:
        for each in self.workers.values():
            assert each.holds(setup)
            each.hold(crossed(setup))
        self._admit()

    def close(self) -> None:
        self.closed = True


def crossed(message: Message) -> Message:
    """The message after it was turned into bytes and back."""
    assert all(isinstance(value, str | np.ndarray) for value in message.values())
    return unpickle(pickle.dumps(message, protocol=5))


ALLOWED = {
    ("numpy._core.numeric", "_frombuffer"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"), ("numpy", "dtype"),
}  # fmt: skip
"""Everything that the bytes of a pickled array may name."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} crosses, which is no array")
        return super().find_class(module, name)


def unpickle(content: bytes) -> Message:
    """Read a message; anything but strings and arrays of numbers is refused.

    Raises:
        pickle.UnpicklingError: the bytes name another class or function.
    """
    found: Message = _Unpickler(io.BytesIO(content)).load()
    arrays = [value for value in found.values() if isinstance(value, np.ndarray)]
    assert all(array.dtype.kind in "biuf" for array in arrays)
    return found


def host(folder: Any, *, chunk_rows: int, count: int = 2, **options: Any) -> remote.RemoteHost:
    """A host of the model in a folder, in fp32, with ``count`` workers in this process."""
    engine = Engine(kind="ray", workers=count, chunk_rows=chunk_rows)
    facts = context.describe(str(folder), dtype="fp32", **options)
    return remote.RemoteHost(engine, facts, lambda setup, check: NearWorkers(setup, check, count))
