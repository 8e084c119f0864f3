"""Three nodes on one machine, killed in parts in mid-step: each run ends as if undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.config.tables import Engine
from szpo.errors import EngineError
from szpo.policies import ray_engine
from szpo.policies.ray_engine import RayBackend, Workers
from tests.support import ray_nodes
from tests.support.ray_nodes import CHUNKS, Nodes, needs_ray

quiet = pytest.mark.filterwarnings("ignore")  # Ray's own, at import and at exit
WORKERS = 3


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """The digests of the same run by the local engine, in chunks of the same rows."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert call(ray_nodes.line_of(folder, model)) == 0
    return ray_nodes.result(folder / "runs" / "folder.db")


@pytest.fixture(scope="module")
def surroundings():
    """What Ray's processes inherit: a password, and no address but 127.0.0.1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_TOKEN", ray_nodes.TOKEN)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        trees = [str(ray_nodes.ROOT / part) for part in ("", "ui", "simulators")]
        patch.setenv("PYTHONPATH", os.pathsep.join(trees))
        yield


@pytest.fixture(scope="module")
def nodes(surroundings):
    import ray

    with ray_nodes.three_nodes() as found:
        assert found.address.startswith("127.0.0.1:")
        yield found
        ray.shutdown()


@pytest.fixture(scope="module")
def hosts():
    """The workers of this file's runs: the first run starts them, later ones go on with them."""
    found: list[RayBackend] = []
    yield found
    for host in found:
        host.close()


@pytest.fixture
def line(nodes, model, tmp_path, hosts, monkeypatch):
    start = ray_engine.start_workers

    def again(engine: Engine, facts: Any) -> Shared:
        if not hosts:
            hosts.append(start(engine, facts))
        return Shared(hosts[0])

    monkeypatch.setattr(ray_engine, "start_workers", again)
    sets = ray_nodes.remote_sets(nodes.address, WORKERS)
    return ray_nodes.line_of(tmp_path, model, *sets)


class Shared:
    def __init__(self, host: RayBackend):
        self.host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def at(self, subspace: Any, space: Any, *, run: bool = False) -> Any:
        found = self.host.at(subspace, space, run=run)
        # Those that were killed a moment ago as well.
        while self.host.workers._loading:
            self.host.workers._wait({})
        return found

    def close(self) -> None:
        """The next run needs them."""


@needs_ray
@quiet
def test_smoke_a_worker_and_a_node_killed_in_one_step_change_nothing(
    nodes, line, undisturbed, tmp_path, monkeypatch, caplog
):
    worker, node = Killer(nodes, node=False), Killer(nodes, node=True)
    monkeypatch.setattr(Workers, "send", ray_nodes.when_sent(2, node))
    monkeypatch.setattr(Workers, "send", ray_nodes.when_sent(3, worker))
    assert call(line) == 0
    assert worker.killed and node.killed
    assert ray_nodes.result(tmp_path / "runs" / "folder.db") == undisturbed
    nodes.add()
    # The run's workers outlive it here, so another run has to wait for their cores.
    ray_engine.connect(Engine(kind="ray", address=nodes.address, workers=WORKERS))
    assert "engine.workers 3 need 3 CPUs, of which the cluster has" in caplog.text


class Killer:
    """Kills in mid-step what a worker is on, once its process is known."""

    def __init__(self, nodes: Nodes, node: bool):
        self.nodes, self.node = nodes, node
        self.killed: list[str] = []

    def __call__(self, workers: Workers, name: str) -> bool:
        pid = workers.pids[name]
        if self.node:
            where = self.nodes.node_of(pid)
            if where is None:
                return False  # the head's own worker
            self.nodes.kill(where)
        else:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False  # its node was killed a moment ago
        self.killed.append(name)
        return True


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("node", [False, True], ids=["worker", "node"])
def test_a_run_outlives_kill_9_of_a_worker_and_of_a_node(
    node, seed, nodes, line, undisturbed, tmp_path, monkeypatch
):
    killer = Killer(nodes, node)
    moment = random.Random(seed).randrange(1, CHUNKS - 3)
    monkeypatch.setattr(Workers, "send", ray_nodes.when_sent(moment, killer))
    assert call(line) == 0
    assert killer.killed
    assert ray_nodes.result(tmp_path / "runs" / "folder.db") == undisturbed
    if node:
        nodes.add()


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(i, i + 5) for i in range(0, 20, 5)])
def test_a_controller_killed_again_and_again_resumes_as_the_same_run(
    seeds, nodes, hosts, model, undisturbed, tmp_path
):
    while hosts:  # a controller of its own needs the cores
        hosts.pop().close()
    sets = ray_nodes.remote_sets(nodes.address, 2)
    line = ray_nodes.line_of(tmp_path, model, *sets)
    path = tmp_path / "runs" / "folder.db"
    for seed in seeds:
        done = ray_nodes.live(random.Random(seed).randrange(1, 4), line)
        assert done.returncode == -signal.SIGKILL, done.stderr
        line = ["run", "--resume", str(path)]
    done = ray_nodes.live(0, line)
    assert done.returncode == 0, done.stderr
    assert ray_nodes.result(path) == undisturbed


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_without_its_head_a_run_stops_with_a_line_and_resumes_on_a_new_cluster(
    seed, surroundings, model, undisturbed, tmp_path, monkeypatch
):
    path = tmp_path / "runs" / "folder.db"
    moment = random.Random(seed).randrange(1, CHUNKS - 3)
    monkeypatch.setenv(ray_engine.RAY_LIMIT, "20")  # seconds, of Ray's own; 60 else
    with ray_nodes.three_nodes() as first:
        line = ray_nodes.line_of(tmp_path, model, *ray_nodes.remote_sets(first.address, 2))
        done = ray_nodes.live(moment, line, first.pids(first.cluster.head_node))
    assert done.returncode == EngineError.exit_code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"head at {first.address} has not answered for 10 s" in last
    with ray_nodes.three_nodes() as second:
        moved = ["--set", f"engine.address={second.address}"]
        done = ray_nodes.live(0, ["run", "--resume", str(path), *moved])
    assert done.returncode == 0, done.stderr
    assert ray_nodes.result(path) == undisturbed


def test_a_head_that_stays_away_is_left_before_ray_ends_the_process(monkeypatch):
    monkeypatch.setenv(ray_engine.RAY_LIMIT, "0.4")
    left = threading.Event()
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        watch = ray_engine.HeadWatch(f"127.0.0.1:{head.getsockname()[1]}", left.set)
        assert not left.wait(0.5)  # longer than its patience: it is there
        with watch.present():
            pass
    with watch.present():  # gone, but a call is under way: nobody leaves meanwhile
        assert not left.wait(0.5)
    assert left.wait(10)
    words = r"has not answered for 0 s; start a cluster there"
    with pytest.raises(EngineError, match=words), watch.present():
        pass


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "told"),
    [("f" * 64, "this machine's token"), (None, "no token")],
    ids=["other", "none"],
)
def test_another_password_is_refused_with_where_to_look(nodes, tmp_path, token, told):
    settings = tmp_path / "ray.toml"
    settings.write_text(f'[engine]\nkind = "ray"\naddress = "{nodes.address}"\nworkers = 1\n')
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    given = {} if token is None else {"RAY_AUTH_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-m", "szpo", "doctor", "--config", str(settings), "--json"],
        env={**kept, **given, "HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    [engine] = [check for check in json.loads(done.stdout) if check["name"] == "engine"]
    assert engine["text"].startswith("ray does not start: ")
    assert f"is it a Ray cluster, and has it {told} (RAY_AUTH_TOKEN" in engine["text"]
