"""Workers on a Ray cluster hold the run's model, one actor for each."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from szpo import files
from szpo.config.schema import Config
from szpo.config.tables import Engine
from szpo.errors import EngineError, IntegrityError, ResourceError, RunError, SzpoError, UsageError
from szpo.keyed_requests import HOSTS, is_here, may_go_unencrypted
from szpo.models.identity import Identity
from szpo.plugins import how_to_install
from szpo.policies import worker
from szpo.policies.backend import AnswerRequest, R, Texts, Tokens, count_written, join
from szpo.policies.worker import SETUPS, Coordinates, Holding, Places, Setup, Who, Worker
from szpo.types import Prompt

Task: TypeAlias = tuple[Who, Any]
"""Which model is asked, and the request."""
Check: TypeAlias = Callable[[Holding], str | None]
"""Takes what a worker holds; returns what is wrong with it, or None."""
REACH_S = 5.0
"""How long an address may take to accept a connection."""
LOADS = 5
"""The run stops after one worker has died this many times in a row while loading the model."""
DEATHS = 3
"""The run stops once this many workers were lost while they worked on one chunk."""
LOAD_S, ANSWER_S = 3600.0, 900.0
"""Longest wait for any worker, while all of them load the model, and while some answer."""
POLL_S = 0.1

RAY_LIMIT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own setting; raise it if a head with external storage takes longer to come back."""
RAY_LIMIT_S = 60.0
LOOK_S = 2.0
OF_THE_FIRST = ("hardware", "canary", *worker.MODELS)
"""Entries in which every other worker must equal the first, tensors of models among them."""


def demand(engine: Engine) -> None:
    """Check the settings before a cluster is started or joined."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"engine.kind ray needs ray: {how_to_install('ray')}")
    if engine.cluster is None:
        cores = os.cpu_count() or 1
        if engine.workers > cores:
            raise UsageError(
                f"engine.workers {engine.workers} need a core each, this machine has {cores}; "
                "lower it, or give engine.address"
            )
        return
    host, _, port = engine.cluster.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"engine.address {engine.cluster} is not host:port")
    host = host.strip("[]")
    if not is_here(host) and os.environ.get("RAY_USE_TLS") != "1":
        if os.environ.get("RAY_AUTH_MODE") == "disabled":
            raise UsageError(
                f"engine.address {engine.cluster} with RAY_AUTH_MODE=disabled lets whoever "
                "reaches it run code; leave token authentication on, or set RAY_USE_TLS=1"
            )
        if _has_token() and not may_go_unencrypted(host):
            raise UsageError(
                f"engine: the token of Ray would travel unencrypted to {engine.cluster}; set "
                f"RAY_USE_TLS=1, or {HOSTS} to {host}"
            )
    if (reason := unreachable(engine)) is not None:
        raise UsageError(
            f"engine.address {engine.cluster} cannot be reached ({reason}); start the cluster "
            "there, or leave engine.address out"
        )


def unreachable(engine: Engine) -> str | None:
    """Why the address in the settings does not answer; None if it does, or if none is set."""
    if engine.cluster is None:
        return None
    return why_not_listening(engine.cluster.removeprefix("ray://"), REACH_S)


def leave() -> None:
    """Leave the cluster that this process joined, so that it can join one again."""
    if "ray" in sys.modules:
        with contextlib.suppress(Exception):  # the cluster may be gone
            sys.modules["ray"].shutdown()


def connect(engine: Engine, gpus: int = 0) -> Any:
    """Join the cluster at the address, or start one on this machine, bound to 127.0.0.1.

    ``gpus``: GPUs of a worker, 0 or 1.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own: dict[str, Any] = {}
    if engine.cluster is None:
        own = {"num_cpus": engine.workers, "include_dashboard": False}
        # With clusters of several machines off, Ray listens on 127.0.0.1, not on all addresses.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    elif _has_token():  # Ray sends the token only in this mode
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if not ray.is_initialized():
            ray.init(
                address=engine.cluster or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                **own,
            )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # Ray raises the same error for an address without a cluster and for a refused token.
        hint = f"; is it a Ray cluster, and has it {_describe_token()}?" if engine.cluster else ""
        raise EngineError(f"ray does not start: {reason}{hint}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray replaces the handler
    here = ray.util.get_node_ip_address()
    if engine.cluster is None and not is_here(here):
        # Ray was imported before the variable above was set, or was started elsewhere.
        raise ResourceError(
            f"ray listens on {here}, where others can reach it; import szpo before ray, or name "
            "the cluster by engine.address"
        )
    there, free = ray.cluster_resources(), ray.available_resources()
    for name, wanted in (("CPU", 1), ("GPU", gpus)):
        need = engine.workers * wanted
        if need > there.get(name, 0):
            raise UsageError(
                f"engine.workers {engine.workers} need {need:g} {name}s, the cluster has "
                f"{there.get(name, 0):g}; lower engine.workers or add machines"
            )
        if need > free.get(name, 0) and engine.cluster is not None:
            logging.getLogger("szpo").warning(
                f"engine.workers {engine.workers} need {need:g} {name}s, of which the cluster has "
                f"{free.get(name, 0):g} free; the run waits until others give theirs back"
            )
    return ray


def _describe_token() -> str:
    """The token that this process sends to a cluster, worded to follow "has it"."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return "token authentication switched off, as RAY_AUTH_MODE=disabled says here"
    if _has_token():
        return "this machine's token (RAY_AUTH_TOKEN, ~/.ray/auth_token)"
    return "no token (RAY_AUTH_TOKEN and ~/.ray/auth_token are missing here)"


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or files.expand("~/.ray/auth_token").is_file()


class Workers:
    """Ray actors that each hold the model.

    Ray restarts those that die. Their chunks are given to others at once: Ray's own retries would
    wait for the same worker, whose machine may not come back.
    """

    def __init__(self, engine: Engine, ray: Any = None, *, gpus: int = 0):
        """Start the workers; nothing is loaded yet. ``ray``: Ray, once it is connected."""
        self._ray = connect(engine, gpus) if ray is None else ray
        head = self._ray.get_runtime_context().gcs_address
        self._head = HeadWatch(head, lambda: _leave(self._ray, head))
        kind = self._ray.remote(Worker).options(
            num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=0
        )
        self._actors = {f"w{i}": kind.remote(1) for i in range(engine.workers)}
        self._loading: dict[Any, tuple[str, Any, Check]] = {}
        """The worker of each call to `Worker.show`, the setup, and what checks the worker."""
        self._died_loading: Counter[str] = Counter()
        self._setups: dict[int, Any] = {}
        """Ray's references to the last setups."""
        self.pids: dict[str, int] = {}
        """Each worker's process, when it was last asked."""

    def show(self, setup: Setup, check: Check) -> None:
        """Wait until each worker holds a setup, so that a faulty one is found early."""
        held = self._put(setup)
        for name in self._actors:
            self._load(name, held, check)
        while self._loading:
            self._wait({})

    def gather(self, setup: Setup, tasks: Sequence[Task], check: Check) -> list[Any]:
        """Have tasks done, by whichever worker is free; results in the order of the tasks.

        ``check`` takes what a worker holds, and returns what is wrong with it, or None.
        """
        held, todo = self._put(setup), deque(range(len(tasks)))
        results: dict[int, Any] = {}
        working: dict[Any, tuple[str, int]] = {}
        deaths: Counter[int] = Counter()
        while len(results) < len(tasks):
            busy = {each[0] for each in (*self._loading.values(), *working.values())}
            for name in self._actors:
                if todo and name not in busy:
                    chunk = todo.popleft()
                    working[self.send(name, held, tasks[chunk])] = name, chunk
            if (done := self._wait(working)) is None:
                continue
            name, chunk, reply = done
            if reply is not None:
                results[chunk] = _checked(name, reply, check)
                continue
            deaths[chunk] += 1
            if deaths[chunk] >= DEATHS:
                raise RunError(
                    f"{DEATHS} workers were lost on one chunk of rows; give workers more memory, "
                    "or lower engine.chunk_rows"
                )
            todo.appendleft(chunk)
            self._load(name, held, check)
        return [results[i] for i in range(len(tasks))]

    def send(self, name: str, held: Any, task: Task) -> Any:
        """Send a worker a task; returns Ray's reference to the reply."""
        with self._head.present():
            return self._actors[name].answer.remote(held, *task)

    def close(self) -> None:
        """End the workers and stop watching the head; the cluster keeps running."""
        self._head.stop()
        for actor in self._actors.values():
            with contextlib.suppress(Exception), self._head.present():  # the cluster may be gone
                self._ray.kill(actor)
        self._actors.clear()

    def _put(self, setup: Setup) -> Any:
        if setup.number not in self._setups:
            with self._head.present():
                self._setups[setup.number] = self._ray.put(setup)
            if len(self._setups) > SETUPS:
                del self._setups[next(iter(self._setups))]
        return self._setups[setup.number]

    def _load(self, name: str, held: Any, check: Check) -> None:
        actor = self._actors[name]
        with self._head.present():
            # Calls to an actor that restarts fail at once: `present` is tried until it is back.
            present = actor.present.options(max_task_retries=-1).remote()
            self._loading[actor.show.remote(held, present)] = name, held, check

    def _wait(self, working: dict[Any, tuple[str, int]]) -> tuple[str, int, Any] | None:
        """A worker's reply to its chunk, None if it has died; or None after a worker's loading."""
        limit = ANSWER_S if working else LOAD_S
        end = time.monotonic() + limit
        done: list[Any] = []
        while not done:
            if time.monotonic() > end:
                raise EngineError(
                    f"no worker has answered for {limit:.0f} s; look at the cluster, then resume "
                    "the run"
                )
            with self._head.present():
                try:
                    done, _ = self._ray.wait([*working, *self._loading], timeout=POLL_S)
                except (self._ray.exceptions.RaySystemError, ConnectionError) as error:
                    raise EngineError(
                        f"the Ray cluster is gone ({error}); start a cluster, then resume the run"
                    ) from None
        if done[0] in working:
            name, chunk = working.pop(done[0])
            return name, chunk, self._reply(done[0], name, loading=False)
        name, held, check = self._loading.pop(done[0])
        if (reply := self._reply(done[0], name, loading=True)) is None:
            self._died_loading[name] += 1
            if self._died_loading[name] >= LOADS:
                raise ResourceError(_describe_deaths(name))
            self._load(name, held, check)
            return None
        del self._died_loading[name]
        self.pids[name] = _checked(name, reply, check)
        return None

    def _reply(self, call: Any, name: str, *, loading: bool) -> Any:
        """What a worker replied; None if it died."""
        errors = self._ray.exceptions
        try:
            with self._head.present():
                return self._ray.get(call)
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError):
            return None
        except errors.RayTaskError as error:
            raise _raised(error.cause, name, loading=loading) from None


def _describe_deaths(name: str) -> str:
    unasked = os.environ.get("RAY_AUTH_MODE") == "token"
    hint = "; if the cluster asks for no token, set RAY_AUTH_MODE=disabled"
    return (
        f"worker {name} died {LOADS} times while it loaded the model; give workers more memory, "
        f"or fewer workers to a machine{hint if unasked else ''}"
    )


def _checked(name: str, reply: tuple[Holding, Any], check: Check) -> Any:
    held, result = reply
    if (wrong := check(held)) is not None:
        raise IntegrityError(f"worker {name} is not the run's: {wrong}")
    return result


def _raised(cause: BaseException, name: str, *, loading: bool) -> SzpoError:
    """What a worker raised, as the run's own error."""
    if loading:
        kind = type(cause) if isinstance(cause, SzpoError) else ResourceError
        return kind(f"worker {name} cannot load the model: {cause}")
    if isinstance(cause, SzpoError):
        return cause
    return RunError(f"worker {name}: {type(cause).__name__}: {cause}")


def _leave(ray: Any, head: str) -> None:
    """Leave the cluster with this head, unless this process has since joined another one."""
    if ray.is_initialized() and ray.get_runtime_context().gcs_address == head:
        ray.shutdown()


def patience_s() -> float:
    """Seconds without a head after which a run leaves the cluster: half of Ray's own limit."""
    try:
        return float(os.environ.get(RAY_LIMIT, RAY_LIMIT_S)) / 2
    except ValueError:
        return RAY_LIMIT_S / 2


class HeadWatch:
    """A thread that checks whether the head answers, and calls ``leave`` once it is gone for good.

    Ray ends a process that has not reached the head for a minute, with exit code 1 and no error
    that could be caught. This includes a controller that is only waiting for votes. So the
    process leaves Ray after half of that time: votes are still accepted, and the next step stops
    with a one-line error and exit code 6.
    """

    def __init__(self, address: str, leave: Callable[[], None]):
        """``address`` is host:port; ``leave`` is called once, outside every `present` block."""
        self.address = address
        self._leave = leave
        self._patience_s = patience_s()
        self._lock = threading.RLock()
        self._gone = False
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="head watch", daemon=True).start()

    @contextmanager
    def present(self) -> Iterator[None]:
        """A block of calls to the cluster, during which ``leave`` is not called."""
        with self._lock:
            if self._gone:
                raise EngineError(
                    f"the Ray cluster's head at {self.address} has not answered for "
                    f"{self._patience_s:.0f} s; start a cluster there, then resume the run"
                )
            yield

    def stop(self) -> None:
        """End the watch."""
        self._over.set()

    def _watch(self) -> None:
        seen = time.monotonic()
        look_s = min(LOOK_S, self._patience_s / 4)
        while not self._over.wait(look_s):
            if why_not_listening(self.address, look_s) is None:
                seen = time.monotonic()
            elif time.monotonic() - seen > self._patience_s:
                with self._lock:
                    self._gone = True
                    self._leave()
                return


def why_not_listening(address: str, seconds: float) -> str | None:
    """Why host:port does not accept a connection within ``seconds``; None if it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, ValueError) as error:
        return str(error)
    return None


class RayBackend:
    """A `szpo.policies.backend.Backend` whose models are held by workers, not by this process."""

    def __init__(self, engine: Engine, facts: Any, workers: Workers):
        """Wait until each worker has shown that it holds the model.

        ``facts``: the base model as known without its weights. The workers are closed with the
        backend.
        """
        self.workers, self.chunk_rows = workers, engine.rows or 1
        self._counts = [0]
        """Shared by all backends of `at`."""
        self._who: Who = "run"
        self._setup, self._expected = worker.setup_of(facts), worker.expect(facts, None)
        try:
            workers.show(self._setup, self._check)
        except BaseException:
            self.close()
            raise
        held = Identity(self._expected["model"]).beside(facts.adapter and facts.adapter.parts)
        self.facts = replace(facts, identity=held, hardware=self._expected["hardware"])

    @property
    def written(self) -> int:
        """See `Backend.written`."""
        return self._counts[0]

    def places(self, adapter: Any, config: Mapping[str, Any] | None) -> Any:
        """See `Backend.places`."""
        (places,) = self._gather([Places(adapter, config)])
        return places

    def at(self, subspace: Any, space: Any, *, run: bool = False) -> RayBackend:
        """See `Backend.at`."""
        return self._asking("run", Coordinates(subspace, space))

    def beside(self, name: str) -> RayBackend:
        """See `Backend.beside`."""
        if (self.facts.name, self.facts.quantization) == (name, None):
            return self._asking("base")
        from szpo.models import loading

        known = loading.describe(name, dtype=self.facts.dtype, device=str(self.facts.device))
        known.tokenizer.szpo_day = self.facts.tokenizer.szpo_day
        backend = self._asking("judge", judge=name)
        backend._expected["judge"] = dict(known.identity.parts)
        backend._gather([None])
        backend.facts = replace(known, identity=Identity(backend._expected["judge"]))
        return backend

    def answer(self, request: AnswerRequest) -> Tokens:
        """See `Backend.answer`."""
        from szpo.models import loading

        chunks = request.split(self.chunk_rows)
        answers = request.join(chunks, self._gather([chunk for _, chunk in chunks]))
        self._counts[0] += count_written(answers, loading.stop_tokens(self.facts))
        return answers

    def read(self, request: Texts[R]) -> R:
        """See `Backend.read`."""
        values: R = join(self._gather(request.split(self.chunk_rows)))
        return values

    def close(self) -> None:
        """See `Backend.close`: ends the workers; the cluster keeps running."""
        self.workers.close()

    def _asking(
        self, who: Who, coordinates: Coordinates | None = None, judge: str | None = None
    ) -> RayBackend:
        backend = copy.copy(self)
        backend._who, backend._setup = who, worker.setup_of(self.facts, coordinates, judge)
        known = {"hardware": self.facts.hardware}
        backend._expected = worker.expect(self.facts, coordinates) | known
        return backend

    def _gather(self, requests: Sequence[Any]) -> list[Any]:
        tasks = [(self._who, request) for request in requests]
        return self.workers.gather(self._setup, tasks, self._check)

    def _check(self, held: Holding) -> str | None:
        wrong = worker.describe_difference(self._expected, held)
        if wrong is None:
            for name in OF_THE_FIRST:
                if name in held:
                    self._expected[name] = held[name]
        return wrong


def start_workers(engine: Engine, facts: Any) -> RayBackend:
    """Start the workers of these settings on a Ray cluster."""
    demand(engine)
    if facts.device.type not in ("cpu", "cuda"):
        raise UsageError(f"workers compute on cpu or cuda; model.device is {facts.device}")
    return RayBackend(engine, facts, Workers(engine, gpus=int(facts.device.type == "cuda")))


def load(config: Config, *, adapter: bool) -> RayBackend:
    """Start workers that hold the settings' model, of which this process reads only the facts."""
    from szpo.policies import language_model

    return start_workers(config.engine, language_model.describe(config, adapter=adapter))


def measure(config: Config, prompt: Prompt) -> tuple[str, int, float]:
    """What the workers are, their number, and the seconds in which each answers a chunk.

    They answer one chunk each, twice; the second time counts.
    """
    from szpo.models import loading
    from szpo.policies import subspace_setup

    engine = config.engine
    with contextlib.closing(load(config, adapter=False)) as host:
        asked = host.beside(host.facts.name)
        facts = asked.facts
        table = np.array([(0, 0, 0, i) for i in range(host.chunk_rows * engine.workers)], np.int64)
        tokens = loading.encode(facts.tokenizer, prompt)
        sampling = replace(subspace_setup.sampling_of(config), stop=())
        request = AnswerRequest({}, (), (tokens,), (bytes(16),), table, sampling)
        asked.answer(request)
        began = time.monotonic()
        asked.answer(request)
        seconds = time.monotonic() - began
    where = engine.cluster or "a cluster of its own on 127.0.0.1"
    what = (
        f"{engine.workers} workers at {where}: {facts.name}, {facts.dtype} on "
        f"{facts.hardware or facts.device}, equal models and versions"
    )
    return what, engine.workers, seconds
