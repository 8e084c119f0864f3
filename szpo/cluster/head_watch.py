"""Whether a cluster's head is still there, asked beside the run.

Ray ends a process that has not reached the head for a minute: with a text of its own, exit code 1,
and nothing that could be caught. A controller that waits for votes is no exception. So Ray is left
after half of that time without a head: votes go on being taken, and the next step stops with one
line and exit code 6.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from szpo.errors import EngineError

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
    """A thread that looks for the head, and calls ``leave`` once it is gone for good."""

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
            if is_listening(self.address, look_s):
                seen = time.monotonic()
            elif time.monotonic() - seen > self._patience_s:
                with self._lock:
                    self._gone = True
                    self._leave()
                return


def is_listening(address: str, seconds: float) -> bool:
    """Whether anybody takes a connection at host:port within that time."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True
