"""`szpo bench scale`: do workers of Ray cost more than their work?

Two workers of Ray and two bare processes answer the same request in turns, one thread each.

Bare answering processes and workers of Ray are measured side by side. Both get the same model,
coordinates and chunks, and run `szpo.cluster.worker.Worker`. A bare process holds its share of the
chunks beforehand and is only asked to begin, so its seconds are those of the work alone.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from szpo.cluster import remote, worker
from szpo.cluster.remote import Coordinates, RemoteHost
from szpo.config.engine import Engine
from szpo.config.model_sections import Adapter
from szpo.data import prompts
from szpo.errors import RunError, UsageError
from szpo.generation.sampling import Sampling
from szpo.models import context, loading
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.language_model import random_start
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.responder import LocalHost
from szpo.policies.row_request import Message, RowRequest, Tokens, split, to_message
from szpo.policies.subspaces import Subspace
from szpo.types import Shift
from szpo_simulators.study import Study, format_interval, interval

WORKERS: Final = 2
AT_LEAST: Final = 0.95
"""Of the bare pair's tokens a second."""


def main(
    model: str = "smollm2",
    dtype: str = "bf16",
    pairs: int = 10,
    rows: int = 128,
    new_tokens: int = 24,
    chunk_rows: int = 32,
    quick: bool = False,
    folder: Path = Path("runs/bench-scale"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Tokens a second of two workers by Ray over those of two bare processes.

    Args:
        model: smollm2 or tiny.
        dtype: Of the base weights: fp32 or bf16.
        pairs: Pairs of a bare measurement and one by Ray, the first of them in turns.
        rows: Answers of a step, a multiple of 16.
        new_tokens: Tokens of an answer, at most.
        chunk_rows: Rows that a worker answers at a time.
        quick: The tiny model and small numbers, under a minute or two.
        folder: Where finished cells and tables go.
        figures: Not used; there is no figure.
    """
    if rows < 16 or rows % 16 or pairs < 2:
        raise UsageError("bench scale: --rows is a multiple of 16, --pairs at least 2")
    if quick:
        model, dtype, pairs, rows, chunk_rows = "tiny", "fp32", 2, 32, 8
    task = Task(model, dtype, rows, new_tokens, chunk_rows)
    study = Study("scale", folder, quick, figures)
    found = measure_ratio(study, task, pairs)
    if quick:
        study.console.print("--quick: too few turns and too small a model for figures")
    study.end()
    return found


def measure_ratio(study: Study, task: Task, pairs: int) -> dict[str, Any]:
    """The ratio by pair with its interval, and both against one bare process."""
    with ExitStack() as stack:
        turns = _Turns(task, stack)
        specs = [{**vars(task), "part": "throughput", "pair": pair} for pair in range(pairs)]
        found = study.cells(f"{task.model}, {pairs} pairs", specs, turns.measure)
    rows = [
        {**row, "bare": row["two"] / row["one"], "by_ray": row["ray"] / row["one"],
         "ratio": row["ray"] / row["two"]}
        for row in found
    ]  # fmt: skip
    study.table(
        f"{task.model} {task.dtype}, {task.rows} answers of {task.new_tokens} tokens, one thread "
        "a process: tokens a second",
        rows,
        {"pair": "pair", "one bare": "one", "two bare": "two", "two by Ray": "ray",
         "two bare, × one": "bare", "by Ray, × one": "by_ray", "Ray / bare": "ratio"},
    )  # fmt: skip
    study.csv("throughput", rows)
    ratio = interval([row["ratio"] for row in rows])
    bare, by_ray = (interval([row[name] for row in rows]) for name in ("bare", "by_ray"))
    study.console.print(
        f"two bare {format_interval(bare)} × one, two by Ray {format_interval(by_ray)} × one; "
        f"Ray / bare {format_interval(ratio, 3)}: {_verdict(ratio['mean'] >= AT_LEAST)} "
        f"(at least {AT_LEAST:g})"
    )
    chunk_s = interval([row["chunk_s"] for row in rows])
    study.console.print(f"controller: {1000 * chunk_s['mean']:.1f} ms of processor time a chunk")
    if bare["mean"] >= 1.9:
        study.console.print(f"by Ray at least 1.8 × one: {_verdict(by_ray['mean'] >= 1.8)}")
    return {"ratio": ratio, "bare": bare, "by_ray": by_ray, "chunk_s": chunk_s, "rows": rows}


class _Turns:
    """Bare processes and workers by Ray, started at the first pair that is not stored yet."""

    def __init__(self, task: Task, stack: ExitStack):
        self._task, self._stack = task, stack
        self._ready: Any = None

    def measure(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """One bare, two bare and two by Ray on one request; the order turns with the pair."""
        rig, bare, rayed = self._start()
        request = rig.make_request(int(spec["pair"]) + 1)
        messages = make_messages(rig, request)
        turns = {
            "one": lambda: bare.measure(messages, 1),
            "two": lambda: bare.measure(messages, WORKERS),
            "ray": lambda: rayed.measure(request),
        }
        order = list(turns) if spec["pair"] % 2 == 0 else list(turns)[::-1]
        found = {name: turns[name]() for name in order}
        rates = {name: tokens / seconds for name, (seconds, tokens) in found.items()}
        return {**rates, "chunk_s": rayed.controller_s / len(messages)}

    def _start(self) -> Any:
        if self._ready is None:
            rig = make_rig(self._task)
            bare = self._stack.enter_context(Bare(rig, WORKERS))
            rayed = self._stack.enter_context(Rayed(rig, WORKERS))
            self._ready = rig, bare, rayed
            request = rig.make_request(0)
            bare.measure(make_messages(rig, request), WORKERS)
            rayed.measure(request)  # what is loaded at the first call belongs to no pair
        return self._ready


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


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
