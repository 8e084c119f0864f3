"""Who gets which chunk when workers die, lie or stay silent, over a stand-in for Ray."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.tables import Engine
from szpo.errors import EngineError, IntegrityError, LogitsError, ResourceError, RunError
from szpo.policies import ray_engine
from szpo.policies.ray_engine import Workers
from szpo.policies.worker import Setup

SETUP = Setup("m", "fp32", None, "cpu")


class DiedError(Exception):
    pass


class LostError(Exception):
    pass


class RaisedError(Exception):
    def __init__(self, cause: Exception):
        self.cause = cause


class Pretend:
    """Ray, with workers that answer ``2 * request`` in any order, or as ``fate`` says."""

    exceptions = SimpleNamespace(
        RayActorError=DiedError,
        RayTaskError=RaisedError,
        RaySystemError=OSError,
        ObjectLostError=LostError,
        NodeDiedError=LostError,
    )

    def __init__(self, fate: Any = lambda method, request, number: None, seed: int = 0):
        self.fate, self.random = fate, random.Random(seed)
        self.asked: list[tuple[int, str, Any]] = []
        """Worker, method and request of each call."""
        self.dead: set[int] = set()
        self.count = 0

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="127.0.0.1:1")

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._start))

    def _start(self, threads: int) -> Any:
        number, self.count = self.count, self.count + 1

        def answer(held: Setup, who: str, request: Any) -> int:
            assert number not in self.dead, "a dead worker is shown the setup first"
            return self._ask(number, "answer", request)

        def present() -> str:
            self.dead.discard(number)
            return "present"

        def show(held: Setup, present: str) -> int:
            assert present == "present"
            assert number not in self.dead, "a worker is waited for until Ray has restarted it"
            return self._ask(number, "show", None)

        again = SimpleNamespace(remote=present)
        return SimpleNamespace(
            answer=SimpleNamespace(remote=answer), show=SimpleNamespace(remote=show),
            present=SimpleNamespace(options=lambda max_task_retries: again),
        )  # fmt: skip

    def _ask(self, *asked: Any) -> int:
        self.asked.append(asked)
        return len(self.asked) - 1

    def wait(self, calls: list[int], timeout: float) -> tuple[list[int], list[int]]:
        living = [call for call in calls if self._fate(call) != "hang"]
        return ([self.random.choice(living)] if living else []), []

    def _fate(self, call: int) -> Any:
        _, method, request = self.asked[call]
        before = [asked[1:] for asked in self.asked[:call]]
        return self.fate(method, request, before.count((method, request)))

    def get(self, call: int) -> Any:
        worker, method, request = self.asked[call]
        fate = self._fate(call)
        if fate == "die":
            self.dead.add(worker)
            raise LostError if self.random.random() < 0.3 else DiedError
        if isinstance(fate, Exception):
            raise RaisedError(fate)
        held = {"model": "other" if fate == "lie" else "run's"}
        return held, (2 * request if method == "answer" else 7)


def check(held: dict[str, Any]) -> str | None:
    return None if held["model"] == "run's" else "its model is another"


def gather(ray: Pretend, workers: int, requests: int) -> list[int]:
    pool = Workers(Engine(kind="ray", workers=workers), ray)
    try:
        pool.show(SETUP, check)
        return pool.gather(SETUP, [("run", i) for i in range(requests)], check)
    finally:
        pool._head.stop()


@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 9999))
def test_workers_that_die_cost_no_chunk_and_no_order(workers, requests, seed):
    """Each chunk is lost up to twice; whoever died shows what it holds before its next chunk."""
    lost = [random.Random(seed + i).randrange(ray_engine.DEATHS) for i in range(requests)]
    ray = Pretend(
        lambda method, i, number: "die" if method == "answer" and number < lost[i] else None, seed
    )
    assert gather(ray, workers, requests) == [2 * i for i in range(requests)]
    asked = Counter(request for _, method, request in ray.asked if method == "answer")
    assert asked == Counter({i: 1 + lost[i] for i in range(requests)})


ENDS = [
    ("a chunk that ends every worker", "answer", "die", RunError, "3 workers were lost on one"),
    ("a worker that comes back as another", "answer", "lie", IntegrityError, "w. is not the run"),
    ("a worker that is another", "show", "lie", IntegrityError, "w0 is not the run's: its model"),
    ("a worker that dies while it loads", "show", "die", ResourceError, "w0 died 5 times while"),
    ("nobody answers", "answer", "hang", EngineError, "no worker has answered for 0 s"),
    ("nobody loads", "show", "hang", EngineError, "no worker has answered for 0 s"),
    ("an error of the request", "answer", LogitsError("inf"), LogitsError, "^inf$"),
    ("an error of the worker", "answer", KeyError("x"), RunError, "worker w.: KeyError: 'x'"),
    ("no memory to load", "show", MemoryError("b"), ResourceError, "cannot load the model: b"),
]


@pytest.mark.parametrize(("how", "fate", "error", "words"), [c[1:] for c in ENDS],
                         ids=[c[0] for c in ENDS])  # fmt: skip
def test_what_ends_a_run(how, fate, error, words, monkeypatch):
    if fate == "hang":
        monkeypatch.setattr(ray_engine, "ANSWER_S", 0.05)
        monkeypatch.setattr(ray_engine, "LOAD_S", 0.05)
    ray = Pretend(lambda method, i, number: fate if method == how else None)
    with pytest.raises(error, match=words) as caught:
        gather(ray, 1, 2)
    assert type(caught.value) is error
