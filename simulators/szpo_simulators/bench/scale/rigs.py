"""Answering processes to be measured side by side: bare ones, and workers of Ray.

Both get the same model, coordinates and chunks, and run `szpo.cluster.worker.Worker`. A bare
process holds its share of the chunks beforehand and is only asked to begin, so its seconds are
those of the work alone.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from szpo.cluster import remote, worker
from szpo.cluster.remote import Coordinates, RemoteHost
from szpo.config.engine import Engine
from szpo.config.model_sections import Adapter
from szpo.data import prompts
from szpo.errors import RunError
from szpo.generation.sampling import Sampling
from szpo.models import context, loading
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.policies.language_model import random_start
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.responder import LocalHost
from szpo.policies.row_request import Message, RowRequest, Tokens, split, to_message
from szpo.policies.subspaces import Subspace
from szpo.types import Shift

PROMPTS_PER_SIDE = 8
"""D: rows of a batch, as in a default run."""
WAIT_S = 600.0


@dataclass(frozen=True)
class Task:
    """What is answered: a model and the shape of a step."""

    model: str
    dtype: str
    rows: int
    new_tokens: int
    chunk_rows: int
    dim: int = 8


@dataclass(frozen=True)
class Rig:
    """A task made ready: the model as it is known without weights, coordinates, a setup."""

    task: Task
    facts: Any
    coordinates: Coordinates

    @property
    def setup(self) -> Message:
        """What a worker loads from."""
        return worker.setup_message(self.facts, self.coordinates, threads=1, device="cpu")

    def make_request(self, seed: int) -> RowRequest:
        """A step's request of one direction: plus and minus on the same prompts."""
        pool = prompts.load_shipped().train
        sides = max(2, self.task.rows // PROMPTS_PER_SIDE)
        each = self.task.rows // sides
        asked = [
            [pool[(i // 2 * each + j + 31 * seed) % len(pool)] for j in range(each)]
            for i in range(sides)
        ]
        capture = _Capture()
        sampling = Sampling(max_new_tokens=self.task.new_tokens)
        host: Any = capture
        policy = LoraPolicy(
            self.facts, self.coordinates.subspace, root_seed=0,
            answering=AnswerSampling(sampling), host=host,
        )  # fmt: skip
        policy.rollout(asked, [Shift(seed, 0, (-1) ** i, 0.5) for i in range(sides)], seed=seed)
        return capture.request


class _Capture:
    """A host that takes a request and answers nothing."""

    request: RowRequest

    def at(self, subspace: Subspace, space: Space) -> _Capture:
        return self

    def answer(self, request: RowRequest) -> Tokens:
        self.request = request
        return ((),) * len(request.rows)


def make_rig(task: Task) -> Rig:
    """The model at a random subspace of the default layers, which no measurement has chosen."""
    loaded = loading.load(task.model, dtype=task.dtype)  # type: ignore[arg-type]
    sites = LocalHost(loaded).places(Adapter(), None).sites
    start = random_start(sites, 0)
    moving = {site.b: start[site.b] for site in sites}
    chance = np.random.default_rng(0)
    basis = {
        name: (0.02 * chance.normal(size=(*value.shape, task.dim))).astype(np.float32)
        for name, value in moving.items()
    }
    subspace = Subspace("random", sites, {s.a: start[s.a] for s in sites}, moving, basis)
    space = Space(0, subspace.layout, Law.for_dim(task.dim))
    known = context.describe(task.model, dtype=task.dtype)  # type: ignore[arg-type]
    return Rig(task, known, Coordinates(subspace, space))


def make_messages(rig: Rig, request: RowRequest) -> list[Message]:
    """The messages of a request's chunks, as they are sent to workers."""
    label = {"space": worker.coordinates_id(rig.setup)}
    chunks = split(request, rig.task.chunk_rows)
    return [{**to_message(chunk), **label} for _, chunk in chunks]


def count_tokens(replies: Sequence[Message]) -> int:
    """Tokens that were written, end tokens included."""
    return sum(int((reply["tokens"] >= 0).sum()) for reply in replies)


def _serve(setup: Message, pipe: Connection) -> None:
    """In a bare process: load, then answer lists of chunks until there is none."""
    mine = worker.Worker(setup)
    pipe.send("ready")
    while (chunks := pipe.recv()) is not None:
        pipe.send("holds them")
        pipe.recv()
        pipe.send([mine.answer(chunk) for chunk in chunks])


class Bare:
    """Processes of one thread each, without Ray."""

    def __init__(self, rig: Rig, count: int):
        context = multiprocessing.get_context("spawn")
        setup = rig.setup
        self._pipes: list[Any] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(setup, theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            self._hear(pipe)

    def measure(self, messages: Sequence[Message], count: int) -> tuple[float, int]:
        """Seconds and tokens of the first ``count`` processes, each with its share of chunks."""
        pipes = self._pipes[:count]
        for i, pipe in enumerate(pipes):
            pipe.send(messages[i::count])
            self._hear(pipe)
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send("go")
        found = [reply for pipe in pipes for reply in self._hear(pipe)]
        seconds = time.perf_counter() - began
        if wrong := [reply["text"] for reply in found if "error" in reply]:
            raise RunError(f"bench scale: a bare process could not answer: {wrong[0]}")
        return seconds, count_tokens(found)

    def _hear(self, pipe: Any) -> Any:
        if not pipe.poll(WAIT_S):
            raise RunError(f"bench scale: a bare process was silent for {WAIT_S:.0f} s")
        try:
            return pipe.recv()
        except EOFError:
            raise RunError("bench scale: a bare process ended; it may lack memory") from None

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join(10)
            process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Rayed:
    """Workers of one thread each, by Ray."""

    controller_s: float
    """Processor time that this process, with Ray's threads in it, spent on the last request."""

    def __init__(self, rig: Rig, count: int):
        engine = Engine(kind="ray", workers=count, cpus=1, chunk_rows=rig.task.chunk_rows)
        self._host: RemoteHost = remote.start(engine, rig.facts)
        self._answers = self._host.at(rig.coordinates.subspace, rig.coordinates.space)
        self._host.dispatcher.muster(count)

    def measure(self, request: RowRequest) -> tuple[float, int]:
        """Seconds and tokens of a request; `controller_s` is set."""
        began, spent = time.perf_counter(), time.process_time()
        found = self._answers.answer(request)
        self.controller_s = time.process_time() - spent
        return time.perf_counter() - began, sum(map(len, found))

    def close(self) -> None:
        """End the workers."""
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
