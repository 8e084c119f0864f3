"""Sends messages to workers over Ray: one actor per worker, restarted when it dies.

`szpo.cluster.schedule` retries lost chunks; Ray's own retries are off.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from szpo import files
from szpo.cluster.schedule import KNOWN_ERRORS, Answered, Event, Lost, Ready, Refused
from szpo.cluster.worker import setup_id
from szpo.config.engine import Engine
from szpo.errors import EngineError, IntegrityError, ResourceError, UsageError
from szpo.outgoing import is_here
from szpo.plugins import how_to_install
from szpo.policies.requests import Message, message_bytes

REACH_S = 5.0
"""How long an address may take to accept a connection."""
RESTART_S = 0.5
"""Pause before an actor that died is asked whether it is back."""
LOADS = 5
"""The run stops after one worker has died this many times in a row while loading the model."""
NOT_LOADED = "NotLoaded"


class _Actor:
    """A worker in a Ray actor; errors come back as messages."""

    def __init__(self) -> None:
        self._worker: Any = None

    def load(self, setup: Message) -> Message:
        """Load the model unless it is loaded already, and report what this worker holds."""
        try:
            from szpo.cluster.worker import Worker

            if self._worker is not None and self._worker.holds(setup):
                self._worker.hold(setup)
            else:
                self._worker = Worker(setup)
            identity = self._worker.identify()
            return {"identity": identity, "pid": os.getpid(), "setup": setup_id(setup)}
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)}

    def answer(self, message: Message) -> Message:
        """Answer a chunk."""
        if self._worker is None:  # the actor died and was restarted while it was idle
            return {"error": NOT_LOADED, "text": ""}
        found: Message = self._worker.answer(message)
        return found


def demand(engine: Engine) -> None:
    """Check the settings before a cluster is started or joined."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"engine.kind ray needs ray: {how_to_install('ray')}")
    if engine.address is None:
        cores = os.cpu_count() or 1
        if engine.workers * engine.cpus > cores:
            raise UsageError(
                f"engine.workers {engine.workers} with engine.cpus {engine.cpus} each need "
                f"{engine.workers * engine.cpus} cores, this machine has {cores}; lower one of "
                "them, or give engine.address"
            )
        return
    host, _, port = engine.address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"engine.address {engine.address} is not host:port")
    host = host.strip("[]")
    if not is_here(host) and os.environ.get("RAY_USE_TLS") != "1":
        if os.environ.get("RAY_AUTH_MODE") == "disabled":
            raise UsageError(
                f"engine.address {engine.address} with RAY_AUTH_MODE=disabled lets whoever "
                "reaches it run code; leave token authentication on, or set RAY_USE_TLS=1"
            )
        if _has_token() and host.lower() not in {name.lower() for name in engine.insecure_hosts}:
            raise UsageError(
                f"engine: the token of Ray would travel unencrypted to {engine.address}; set "
                f"RAY_USE_TLS=1, or engine.insecure_hosts to {json.dumps([host])}"
            )
    if (reason := unreachable(engine)) is not None:
        raise UsageError(
            f"engine.address {engine.address} cannot be reached ({reason}); start the cluster "
            "there, or leave engine.address out"
        )


def unreachable(engine: Engine) -> str | None:
    """Why the address in the settings does not answer; None if it does, or if none is set."""
    if engine.address is None:
        return None
    return why_not_listening(engine.address.removeprefix("ray://"), REACH_S)


def leave() -> None:
    """Leave the cluster that this process joined, so that it can join one again."""
    if "ray" in sys.modules:
        with contextlib.suppress(Exception):  # the cluster may be gone
            sys.modules["ray"].shutdown()


def connect(engine: Engine) -> Any:
    """Join the cluster at the address, or start one on this machine, bound to 127.0.0.1."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own: dict[str, Any] = {}
    if engine.address is None:
        own = {"num_cpus": engine.workers * engine.cpus, "include_dashboard": False}
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
                address=engine.address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                **own,
            )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # Ray raises the same error for an address without a cluster and for a refused token.
        hint = f"; is it a Ray cluster, and has it {_describe_token()}?" if engine.address else ""
        raise EngineError(f"ray does not start: {reason}{hint}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray replaces the handler
    here = ray.util.get_node_ip_address()
    if engine.address is None and not is_here(here):
        # Ray was imported before the variable above was set, or was started elsewhere.
        raise ResourceError(
            f"ray listens on {here}, where others can reach it; import szpo before ray, or name "
            "the cluster by engine.address"
        )
    there, free = ray.cluster_resources(), ray.available_resources()
    for name, wanted in (("CPU", engine.cpus), ("GPU", engine.gpus)):
        need = engine.workers * wanted
        if need > there.get(name, 0):
            raise UsageError(
                f"engine.workers {engine.workers} need {need:g} {name}s, the cluster has "
                f"{there.get(name, 0):g}; lower engine.workers or add machines"
            )
        if need > free.get(name, 0) and engine.address is not None:
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


@dataclass
class _Seat:
    """One worker's place: its actor, and when to ask the actor to load the model."""

    actor: Any
    load_at: float
    loads: int = 0
    pid: int | None = None
    """Process id of the worker, once it is ready."""


class RayTransport:
    """A `szpo.cluster.schedule.Transport` over Ray actors."""

    def __init__(
        self, engine: Engine, setup: Message, check: Callable[[dict[str, Any]], str | None]
    ):
        """``check`` takes a worker's identity and returns what is wrong with it, or None."""
        self._ray = connect(engine)
        head = self._ray.get_runtime_context().gcs_address
        self._head = HeadWatch(head, lambda: _leave(self._ray, head))
        self._check = check
        self._setup, self._setup_id = self._ray.put(setup), setup_id(setup)
        kind = self._ray.remote(_Actor).options(
            num_cpus=engine.cpus, num_gpus=engine.gpus, max_restarts=-1, max_task_retries=0
        )
        now = time.monotonic()
        self._seats = {f"w{i}": _Seat(kind.remote(), now) for i in range(engine.workers)}
        self._asked: dict[Any, tuple[str, str | None]] = {}
        """For each outstanding call its worker and chunk; chunk None: the worker is loading."""
        self.sent_bytes = 0
        """Bytes of all chunks sent so far."""

    def send(self, worker: str, chunk: str, request: Message) -> None:
        """See `Transport.send`."""
        with self._head.present():
            self._asked[self._seats[worker].actor.answer.remote(request)] = (worker, chunk)
        self.sent_bytes += message_bytes(request)

    def poll(self, seconds: float) -> Sequence[Event[Message]]:
        """See `Transport.poll`."""
        if not self._asked:
            time.sleep(seconds)
        with self._head.present():
            self._load_due()
            if not self._asked:
                return []
            calls = list(self._asked)
            try:
                done, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
                if not done:
                    done, _ = self._ray.wait(calls, num_returns=1, timeout=seconds)
            except (self._ray.exceptions.RaySystemError, ConnectionError) as error:
                raise EngineError(
                    f"the Ray cluster is gone ({error}); start a cluster, then resume the run"
                ) from None
            return [event for call in done for event in self._take(call)]

    def replace(self, worker: str) -> None:
        """See `Transport.replace`."""
        for call in [call for call, (who, _) in self._asked.items() if who == worker]:
            del self._asked[call]
        with self._head.present():
            self._ray.kill(self._seats[worker].actor, no_restart=False)
        self._seats[worker].load_at = time.monotonic() + RESTART_S

    def change(self, setup: Message) -> None:
        """Give every worker a new setup after its earlier calls; it then becomes ready again."""
        self._setup, self._setup_id = self._ray.put(setup), setup_id(setup)
        for worker, seat in self._seats.items():
            if math.isinf(seat.load_at):
                self._load(worker)

    def close(self) -> None:
        """End the workers and stop watching the head; the cluster keeps running."""
        self._asked.clear()
        self._head.stop()
        for seat in self._seats.values():
            with contextlib.suppress(Exception), self._head.present():  # the cluster may be gone
                self._ray.kill(seat.actor)
        self._seats.clear()

    def _load(self, worker: str) -> None:
        seat = self._seats[worker]
        seat.load_at = math.inf
        self._asked[seat.actor.load.remote(self._setup)] = (worker, None)

    def _load_due(self) -> None:
        loading = {worker for worker, chunk in self._asked.values() if chunk is None}
        for worker, seat in self._seats.items():
            if worker not in loading and seat.load_at <= time.monotonic():
                self._load(worker)

    def _take(self, call: Any) -> list[Event[Message]]:
        worker, chunk = self._asked.pop(call)
        seat = self._seats[worker]
        try:
            reply: Message = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            back = isinstance(error, self._ray.exceptions.ActorUnavailableError)
            seat.loads += chunk is None and not back  # an unavailable actor may not be dead
            if seat.loads >= LOADS:
                unasked = os.environ.get("RAY_AUTH_MODE") == "token"
                hint = "; if the cluster asks for no token, set RAY_AUTH_MODE=disabled"
                raise ResourceError(
                    f"worker {worker} died {LOADS} times while it loaded the model; give workers "
                    f"more memory, or fewer workers to a machine{hint if unasked else ''}"
                ) from None
            seat.load_at = time.monotonic() + RESTART_S
            return [Lost(worker)]
        if chunk is None:
            if reply.get("setup", self._setup_id) != self._setup_id:
                return []  # an earlier setup; the worker has been asked to load the current one
            self._admit(worker, reply)
            seat.loads, seat.pid = 0, reply["pid"]
            return [Ready(worker)]
        if reply.get("error") == NOT_LOADED:
            seat.load_at = time.monotonic()
            return [Lost(worker)]
        if "error" in reply:
            return [Refused(worker, chunk, reply["error"], reply["text"])]
        return [Answered(worker, chunk, reply)]

    def _admit(self, worker: str, reply: Message) -> None:
        if "error" in reply:
            kind = KNOWN_ERRORS.get(reply["error"], ResourceError)
            raise kind(f"worker {worker} cannot load the model: {reply['text']}")
        wrong = self._check(reply["identity"])
        if wrong is not None:
            raise IntegrityError(f"worker {worker} is not the run's: {wrong}")


def _leave(ray: Any, head: str) -> None:
    """Leave the cluster with this head, unless this process has since joined another one."""
    if ray.is_initialized() and ray.get_runtime_context().gcs_address == head:
        ray.shutdown()


RAY_LIMIT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own setting; raise it if a head with external storage takes longer to come back."""
RAY_LIMIT_S = 60.0
LOOK_S = 2.0


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
