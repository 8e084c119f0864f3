"""Workers in this process that get requests as bytes, as in a cluster, without a network."""

import pickle
from collections.abc import Sequence
from typing import Any

from szpo.config.tables import Engine
from szpo.models import loading
from szpo.policies import ray_engine, worker
from szpo.policies.ray_engine import Check, Task, Workers
from szpo.policies.worker import Setup


class NearWorkers(Workers):
    """Each task goes to the next worker; what crosses is read-only there, as Ray's arrays are."""

    def __init__(self, count: int):
        self.workers = [worker.Worker(1) for _ in range(count)]
        self.tasks: list[str] = []
        """Names of the kinds of all requests so far."""
        self.closed = False

    def show(self, setup: Setup, check: Check) -> None:
        for each in self.workers:
            held, _ = each.show(crossed(setup))
            assert (wrong := check(held)) is None, wrong

    def gather(self, setup: Setup, tasks: Sequence[Task], check: Check) -> list[Any]:
        found = []
        for i, (who, request) in enumerate(tasks):
            self.tasks.append(type(request).__name__)
            one = self.workers[i % len(self.workers)]
            held, reply = crossed(one.answer(crossed(setup), who, crossed(request)))
            assert (wrong := check(held)) is None, wrong
            found.append(reply)
        return found

    def close(self) -> None:
        self.closed = True


def crossed(value: Any) -> Any:
    """The value after it was turned into bytes and back."""
    parts: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
    return pickle.loads(content, buffers=[bytes(part.raw()) for part in parts])


def host(folder: Any, *, chunk_rows: int, count: int = 2, **options: Any) -> ray_engine.RayBackend:
    """A host of the model in a folder, in fp32, with ``count`` workers in this process."""
    engine = Engine(kind="ray", workers=count, chunk_rows=chunk_rows)
    facts = loading.describe(str(folder), dtype="fp32", **options)
    return ray_engine.RayBackend(engine, facts, NearWorkers(count))
