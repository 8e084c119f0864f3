"""Long work that moves only in its turns: in a thread of its own, while another waits for it.

The work passes pause points, such as the time between two passes of a model. Once its turn is over
it rests at the next one, and whoever gave the turn goes on, also with the same model. Only one of
the two threads moves at any moment, so what they share needs no lock. Where a turn ends changes
nothing that the work computes. Outside such work, passing a pause point costs a look-up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_turns: ContextVar[Turns[Any] | None] = ContextVar("szpo_turns", default=None)


class _StoppedError(BaseException):
    """Ends the work at a pause point; no ``except Exception`` keeps it from that."""


class Turns(Generic[T]):
    """Work that moves while `move` waits for it, or that is done ``at_once``."""

    def __init__(self, work: Callable[[], T], *, at_once: bool = False):
        """``work`` begins with the first turn; ``at_once`` it is over here, in this thread."""
        self._work = work
        self._goes, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: Final = threading.Thread(target=self._run, name="szpo-turns", daemon=True)
        self._until, self._stopped = 0.0, False
        self._result: list[T] = [work()] if at_once else []
        self._error: BaseException | None = None

    def move(self, seconds: float) -> T | None:
        """Let the work go on until its first pause point after so many seconds.

        Returns what it found once it is done, until then None. Raises what the work raised.
        """
        if not self._result and self._error is None:
            if not self._thread.ident:
                self._thread.start()
            self._until = time.monotonic() + seconds
            self._goes.release()
            self._rests.acquire()
        if self._error is not None:
            raise self._error
        return self.found

    @property
    def found(self) -> T | None:
        """What the work found; None until it is done."""
        return self._result[0] if self._result else None

    @property
    def is_done(self) -> bool:
        """Whether the work has ended by itself."""
        return bool(self._result)

    def stop(self) -> None:
        """End the work at its next pause point, and wait for that."""
        self._stopped = True
        if self._thread.ident:
            self._goes.release()
            self._thread.join()

    def _run(self) -> None:
        _turns.set(self)
        try:
            self._rest()
            self._result.append(self._work())
        except _StoppedError:
            return
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        finally:
            self._rests.release()

    def _rest(self) -> None:
        self._goes.acquire()
        if self._stopped:
            raise _StoppedError

    def _pause(self) -> None:
        self._rests.release()
        self._rest()

    def _is_over(self) -> bool:
        return self._stopped or time.monotonic() >= self._until


def is_over() -> bool:
    """Whether this thread's turn is over; never outside such work."""
    own = _turns.get()
    return own is not None and own._is_over()


def pause() -> None:
    """A pause point: rest here until the next turn, if this one is over."""
    own = _turns.get()
    if own is not None and own._is_over():
        own._pause()


def only_here(hook: Callable[..., T]) -> Callable[..., T | None]:
    """A model's hook that changes nothing in other threads, which move while this one rests."""
    here = threading.get_ident()
    return lambda *given: hook(*given) if threading.get_ident() == here else None
