"""Messages to workers by Ray: one actor per worker, restarted where it dies. Nothing else.

Retries are `szpo.cluster.schedule`'s, by chunk, not Ray's.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
from pathlib import Path
from typing import Any

from szpo.cluster.schedule import KNOWN_ERRORS, Answered, Event, Lost, Ready, Refused
from szpo.cluster.worker import setup_id
from szpo.config.engine import Engine
from szpo.errors import EngineError, IntegrityError, ResourceError, UsageError
from szpo.plugins import how_to_install
from szpo.policies.requests import Message, message_bytes

REACH_S = 5.0
"""How long an address may take to accept a connection."""
RESTART_S = 0.5
"""Pause before an actor that died is asked whether it is back."""
LOADS = 5
"""How often one worker's model is loaded again before its death is the run's."""
NOT_LOADED = "NotLoaded"
LOCAL = ("127.0.0.1", "localhost", "::1")


class _Actor:
    """A worker in a Ray actor; whatever fails in it comes back as a message."""

    def __init__(self) -> None:
        self._worker: Any = None

    def load(self, setup: Message) -> Message:
        """Load the model, where it is another one than before, and show what this worker holds."""
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
        if self._worker is None:  # it died and came back while nobody had asked it anything
            return {"error": NOT_LOADED, "text": ""}
        found: Message = self._worker.answer(message)
        return found


def demand(engine: Engine) -> None:
    """Refuse what can be refused before a cluster is started or joined.

    Raises:
        UsageError: Ray is not installed, there are more workers than cores, the address cannot be
            reached, or it is open to whoever finds it.
    """
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
    disabled = os.environ.get("RAY_AUTH_MODE") == "disabled"
    if disabled and host not in LOCAL and os.environ.get("RAY_USE_TLS") != "1":
        raise UsageError(
            f"engine.address {engine.address} with RAY_AUTH_MODE=disabled lets whoever reaches it "
            "run code; leave token authentication on, or set RAY_USE_TLS=1"
        )
    if (reason := unreachable(engine)) is not None:
        raise UsageError(
            f"engine.address {engine.address} cannot be reached ({reason}); start the cluster "
            "there, or leave engine.address out"
        )


def unreachable(engine: Engine) -> str | None:
    """Why nobody answers at the settings' address; None if somebody does, or there is none."""
    if engine.address is None:
        return None
    return why_not_listening(engine.address.removeprefix("ray://"), REACH_S)


def leave() -> None:
    """Forget the cluster that this process joined, so that it can join one anew."""
    if "ray" in sys.modules:
        with contextlib.suppress(Exception):  # of a cluster that is gone
            sys.modules["ray"].shutdown()


def connect(engine: Engine) -> Any:
    """Join the cluster at the address, or start one of this machine's cores on 127.0.0.1.

    Raises:
        EngineError: Ray does not come up.
        UsageError: the cluster has not enough cores or GPUs.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own: dict[str, Any] = {}
    if engine.address is None:
        own = {"num_cpus": engine.workers * engine.cpus, "include_dashboard": False}
        # Where clusters of several machines are off, Ray listens on 127.0.0.1; else everywhere.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    elif _has_token():  # a cluster asks for it, and Ray does not show it unless it is asked to
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
        # Ray says the same of a cluster that is no cluster, and of one that refuses the token.
        hint = f"; is it a Ray cluster, and has it {_describe_token()}?" if engine.address else ""
        raise EngineError(f"ray does not come up: {reason}{hint}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place
    here = ray.util.get_node_ip_address()
    if engine.address is None and here not in LOCAL:
        # Ray was imported before it could be bound to this machine, or started by somebody else.
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
    """What this process shows a cluster, after "has it"."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return "token authentication switched off, as RAY_AUTH_MODE=disabled says here"
    if _has_token():
        return "this machine's token (RAY_AUTH_TOKEN, ~/.ray/auth_token)"
    return "no token (RAY_AUTH_TOKEN and ~/.ray/auth_token are missing here)"


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


@dataclass
class _Seat:
    """One worker's place: its actor, and when to ask it to load."""

    actor: Any
    load_at: float
    loads: int = 0
    pid: int | None = None
    """Of its process, once it is ready."""


class RayTransport:
    """A `szpo.cluster.schedule.Transport` over Ray actors."""

    def __init__(
        self, engine: Engine, setup: Message, check: Callable[[dict[str, Any]], str | None]
    ):
        """``check`` gets what a worker holds and says what is wrong with it, or None."""
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
        """Per outstanding call its worker and chunk; None: it loads the model."""
        self.sent_bytes = 0
        """Of the chunks that workers were asked, since they were started."""

    def send(self, worker: str, chunk: str, request: Message) -> None:
        """See `Transport.send`."""
        with self._head.present():
            self._asked[self._seats[worker].actor.answer.remote(request)] = (worker, chunk)
        self.sent_bytes += message_bytes(request)

    def poll(self, seconds: float) -> Sequence[Event[Message]]:
        """See `Transport.poll`.

        Raises:
            IntegrityError: a worker holds another model or other coordinates than the run.
            UsageError: a worker has no such model or device.
            EngineError: the cluster is gone.
            ResourceError: a worker dies whenever it loads the model.
        """
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
        """Have every worker hold another setup before it becomes ready again.

        A worker takes its calls in order, so no answer precedes it.
        """
        self._setup, self._setup_id = self._ray.put(setup), setup_id(setup)
        for worker, seat in self._seats.items():
            if math.isinf(seat.load_at):
                self._load(worker)

    def close(self) -> None:
        """End the workers; the cluster stays as it is."""
        self._asked.clear()
        self._head.stop()
        for seat in self._seats.values():
            with contextlib.suppress(Exception), self._head.present():  # of a cluster that is gone
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
            seat.loads += chunk is None and not back  # if it is on its way back, it is not dead
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
                return []  # of an earlier setup; it has been asked to load the one of now
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
    """Leave the cluster of this head, unless this process has left it for another by now."""
    if ray.is_initialized() and ray.get_runtime_context().gcs_address == head:
        ray.shutdown()


RAY_LIMIT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own setting; longer where a head with external storage takes longer to come back."""
RAY_LIMIT_S = 60.0
LOOK_S = 2.0


def patience_s() -> float:
    """Seconds without a head after which a run gives it up: half of what Ray allows."""
    try:
        return float(os.environ.get(RAY_LIMIT, RAY_LIMIT_S)) / 2
    except ValueError:
        return RAY_LIMIT_S / 2


class HeadWatch:
    """A thread that looks for the head, and calls ``leave`` once it is gone for good.

    Ray ends a process that has not reached the head for a minute: with a text of its own, exit
    code 1, and nothing that could be caught. A controller that waits for votes is no exception.
    So Ray is left after half of that time: votes go on being taken, and the next step stops with
    one line and exit code 6.
    """

    def __init__(self, address: str, leave: Callable[[], None]):
        """``address`` is host:port; ``leave`` is called once, while nobody is in `present`."""
        self.address = address
        self._leave = leave
        self._patience_s = patience_s()
        self._lock = threading.RLock()
        self._gone = False
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="head watch", daemon=True).start()

    @contextmanager
    def present(self) -> Iterator[None]:
        """A block of calls to the cluster, not to be left meanwhile.

        Raises:
            EngineError: the head is gone.
        """
        with self._lock:
            if self._gone:
                raise EngineError(
                    f"the Ray cluster's head at {self.address} has not answered for "
                    f"{self._patience_s:.0f} s; start a cluster there, then resume the run"
                )
            yield

    def stop(self) -> None:
        """Look no longer."""
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
    """Why nobody takes a connection at host:port within that time; None if somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, ValueError) as error:
        return str(error)
    return None
