"""Counts what a cell costs the machine: tokens, seconds and memory, without a cached set-up.

A cell has its own process, so everything in that process is counted. Measuring is not part of
a method's cost: `MachineMeter.aside` stops the clocks, the token count and the memory peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from szpo import memory
from szpo.cluster.remote import RemoteAnswerer
from szpo.generation.flat_engine import FlatEngine
from szpo.generation.generate_engine import GenerateEngine
from szpo.policies import subspace_cache

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_ONLY = "5"
"""Writing this to `CLEAR` resets the peak of resident memory to the current value."""


class MachineMeter:
    """Seconds, processor seconds, peak resident memory and tokens since the meter was created."""

    def __init__(self) -> None:
        self.tokens = 0
        """Tokens of generated answers while `counting`, without end tokens."""
        self._began = self._now()
        self._apart = (0.0, 0.0)
        self._peak = 0
        self._on = True
        self.exact = _reset_peak()
        """Whether the system can reset the peak, so that `peak` covers only this meter's time."""

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Wall and processor seconds, without the time in `aside`."""
        now = self._now()
        wall, cpu = (now[i] - self._began[i] - self._apart[i] for i in (0, 1))
        return wall, cpu

    def peak(self) -> int:
        """Largest resident memory in bytes outside `aside`.

        If the system cannot reset the peak, this is the peak of the whole process.
        """
        return max(peak_resident(), self._peak if self.exact else memory.peak_bytes())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Charge nothing within the block."""
        since = self._now()
        self._peak = max(self._peak, peak_resident())
        self._on = False
        try:
            yield
        finally:
            self._on = True
            if self.exact:
                _reset_peak()
            now = self._now()
            self._apart = (
                self._apart[0] + now[0] - since[0],
                self._apart[1] + now[1] - since[1],
            )

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the tokens of all answers generated in the block, and use no cached set-up.

        A cached set-up would make a run look cheaper when it is measured again.
        """

        def count(generate: Callable[..., Any], read: Callable[[Any, Any], Any]) -> Any:
            def run(owner: Any, *some: Any, **more: Any) -> Any:
                made = generate(owner, *some, **more)
                if self._on:
                    self.tokens += count_answer_tokens(*read(owner, made))
                return made

            return run

        patched: list[tuple[Any, str, Any]] = [
            (engine, "generate",
             count(engine.generate, lambda own, made: (made.tokens, own.adapted.stop_tokens)))
            for engine in (FlatEngine, GenerateEngine)
        ]  # fmt: skip
        remote = count(RemoteAnswerer.answer, lambda own, made: (made, own.stop_tokens))
        patched += [
            (RemoteAnswerer, "answer", remote),
            (subspace_cache, "load_or_make", lambda _key, make, **_: make()),
        ]
        before = [getattr(owner, name) for owner, name, _ in patched]
        for owner, name, value in patched:
            setattr(owner, name, value)
        try:
            yield
        finally:
            for (owner, name, _), original in zip(patched, before, strict=True):
                setattr(owner, name, original)


def count_answer_tokens(answers: Sequence[Sequence[int]], stop: Sequence[int]) -> int:
    """Number of tokens in answers, without end tokens.

    >>> count_answer_tokens([(5, 6, 1), (7,)], stop=(1,))
    3
    """
    return sum(token not in stop for answer in answers for token in answer)


def peak_resident() -> int:
    """Largest resident memory in bytes since the peak was last reset."""
    return _read_status("VmHWM:")


def resident() -> int:
    """Current resident memory in bytes; its peak if the system does not report it."""
    return _read_status("VmRSS:")


def _read_status(name: str) -> int:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return memory.peak_bytes()
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else memory.peak_bytes()


def _reset_peak() -> bool:
    """Reset the peak of resident memory; returns whether the system can do so."""
    try:
        CLEAR.write_text(PEAK_ONLY)
    except OSError:
        return False
    return True
