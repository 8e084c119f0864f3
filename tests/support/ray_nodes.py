"""A Ray cluster of three nodes on this machine whose parts can be killed, and runs on it."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.policies.ray_engine import Workers
from szpo.replay import verification
from tests.support import folder_run

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed (extra ray)")
ROOT = Path(__file__).parents[2]
VOTES = 16
"""Votes of a run of four steps, each with 16 rows in 4 chunks."""
CHUNKS = 16
SETS = (f"run.votes={VOTES}", "engine.chunk_rows=4")
TOKEN = "0123456789abcdef" * 4
"""Ray's password between its processes, which listen on 127.0.0.1 only."""
WAIT_S = 60.0
Digests = tuple[Any, list[str]]


def kill_all(pids: list[int]) -> None:
    """Send SIGKILL to all of them; processes that have ended already are ignored."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Nodes:
    """A head and two more nodes with one core each; all listen on 127.0.0.1."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def pids(self, node: Any) -> list[int]:
        """Every process of a node: its own processes and the workers that they started."""
        own = [info.process.pid for group in node.all_processes.values() for info in group]
        found = []
        for pid in own:
            with suppress(psutil.NoSuchProcess):
                found += [each.pid for each in psutil.Process(pid).children(recursive=True)]
        return [*own, *found]

    def node_of(self, pid: int) -> Any:
        """The node of a worker's process; None: the head."""
        return next((node for node in self.others if pid in self.pids(node)), None)

    def kill(self, node: Any) -> None:
        """Kill all processes of a node and remove it from the cluster."""
        kill_all(self.pids(node))
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.remove(node)

    def add(self) -> None:
        """Add a node in place of a killed one."""
        self.others.append(self.cluster.add_node(num_cpus=1))

    def stop(self) -> None:
        """Kill all remaining processes of the nodes."""
        nodes = [node for node in (*self.others, self.cluster.head_node) if node is not None]
        kill_all([pid for node in nodes for pid in self.pids(node)])
        for node in nodes:
            for group in node.all_processes.values():
                for info in group:
                    info.process.wait(WAIT_S)


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    """A cluster of three nodes inside the block."""
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.stop()


def line_of(folder: Path, model: Path, *sets: str) -> list[str]:
    """``szpo run …`` of the tiny model, 16 votes in four steps."""
    folder.mkdir(exist_ok=True)
    return folder_run.arguments(folder, *SETS, *sets, model_folder=model)


def remote_sets(address: str, workers: int) -> tuple[str, ...]:
    return ("engine.kind=ray", f"engine.address={address}", f"engine.workers={workers}")


def result(path: Path) -> Digests:
    """Digests that are equal for the same run; checks that the ledger is whole, each vote once."""
    with Ledger.open(path, readonly=True) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        votes = ledger.votes()
        assert len({vote["assignment"] for vote in votes}) == len(votes) == VOTES
        answers = ledger.query("SELECT count(*) AS n FROM answers")[0]["n"]
        assert answers == VOTES * 2  # two rows per comparison; the table's key forbids duplicates
        return theta_digests(ledger), [row["votes_sha256"] for row in ledger.update_rows()]


def when_sent(number: int, act: Callable[[Workers, str], bool]) -> Callable[..., Any]:
    """A `Workers.send` that calls ``act`` in the middle of a step.

    It calls ``act(workers, name)`` after sending the ``number``-th chunk of a step's answers, and
    after later ones until ``act`` returns true.
    """
    inner, count, done = Workers.send, 0, False

    def send(workers: Workers, name: str, held: Any, task: Any) -> Any:
        nonlocal count, done
        call, of_step = inner(workers, name, held, task), getattr(task[1], "canary", False)
        count += of_step
        done = done or (count >= number and of_step and act(workers, name))
        return call

    return send


CHILD = (
    "import sys; from tests.support import ray_nodes; "
    "ray_nodes.control(int(sys.argv[1]), [int(p) for p in sys.argv[2].split(',') if p], "
    "sys.argv[3:])"
)


def control(number: int, victims: list[int], line: list[str]) -> None:
    """In a child: run, and kill at the ``number``-th chunk that is sent (0: never).

    ``victims`` are the head's processes, which are killed together with all workers; if empty,
    this process itself is killed.
    """
    from szpo.cli.app import main

    def act(workers: Workers, name: str) -> bool:
        kill_all([*victims, *workers.pids.values()] if victims else [os.getpid()])
        return True

    if number:
        Workers.send = when_sent(number, act)  # type: ignore[method-assign]
    main(line)


def live(
    number: int, line: list[str], victims: list[int] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one controller process until it ends or is killed."""
    who = ",".join(map(str, victims or []))
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(number), who, *line],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
