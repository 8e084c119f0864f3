"""One laptop and a cluster by address: ledger and pages here, the models in Ray workers there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from szpo.config import settings_file
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.replay import verification
from szpo.runs import run_engine
from szpo.voting import lease
from tests.support import folder_run
from tests.support.ray_nodes import needs_ray

ROOT = Path(__file__).parents[2]


def environment(place: Path, first: Path | None = None) -> dict[str, str]:
    """Of a process; distributions in the folder ``first`` hide the installed ones."""
    some = [ROOT, ROOT / "ui", ROOT / "simulators"]
    paths = os.pathsep.join(map(str, some if first is None else [first, *some]))
    return {
        **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "SZPO_CACHE": str(place),
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def child(
    words: list[str], place: Path, name: str, first: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, which ends with the block; its output is in ``name``.log."""
    with (place / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env=environment(place, first), start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cluster(
    port: int, place: Path, first: Path | None = None
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """``ray start --head`` on this machine, reachable from this machine alone."""
    ray = Path(sys.executable).parent / "ray"
    return child(
        [
            str(ray), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", "--num-cpus=2", "--include-dashboard=false",
            "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0",
        ],
        place,
        "ray",
        first,
    )  # fmt: skip


def wait_for(holds: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.3)


def looked(path: Path, look: Callable[[Ledger], Any]) -> Any:
    with Ledger.open(path, readonly=True) as ledger:
        return look(ledger)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ledger_and_pages_here_models_on_a_cluster_that_goes_away_and_comes_back(
    tmp_path, monkeypatch
):
    """`szpo serve` over an address; its head is killed, and started again on the same port."""
    model = folder_run.model(tmp_path)
    port = free_port()
    sets = [
        f"model.name={model}", "model.dtype=fp32", f"prompts.path={folder_run.prompts(tmp_path)}",
        "panel.reward=length:6", "panel.beta=10", "run.votes=24", "optimizer.directions=4",
        "optimizer.rows=2", "generation.max_new_tokens=8", "subspace.dim=4",
        "subspace.samples=32", "subspace.kl_samples=32", "run.name=away", "panel.size=4",
        "engine.kind=ray", "engine.workers=2", "engine.chunk_rows=4",
        f"engine.address=127.0.0.1:{port}", "panel.inside=false",
    ]  # fmt: skip
    config = settings_file.load(sets=[*sets, f"run.folder={tmp_path / 'runs'}"])
    file = tmp_path / "run.toml"
    file.write_text(settings_file.to_toml(config), encoding="utf-8")
    path = tmp_path / "runs" / "away.db"
    szpo = [sys.executable, "-m", "szpo"]
    serve = [*szpo, "serve", str(file), "--at-once", "--port", str(free_port()),
             "--folder", str(tmp_path / "runs")]  # fmt: skip
    votes = [*szpo, "simulate", str(path), "--votes", "8"]

    def log() -> str:
        return (tmp_path / "serve.log").read_text(encoding="utf-8")

    def steps() -> int:
        return int(looked(path, lambda ledger: len(list(ledger.update_rows()))))

    def opened() -> bool:
        return bool(looked(path, lambda ledger: ledger.query(
            "SELECT 1 FROM steps WHERE state = 'open'", ())))  # fmt: skip

    def paused_by() -> Any:
        return looked(path, lambda ledger: lease.controller(ledger)["paused_by"])

    with contextlib.ExitStack() as outer:
        with cluster(port, tmp_path):
            wait_for(lambda: not unreachable(port), 60, "ray did not start")
            outer.enter_context(child(serve, tmp_path, "serve"))
            wait_for(lambda: path.exists() and opened(), 300, "no step was opened")
            with child(votes, tmp_path, "votes") as voting:
                assert voting.wait(120) == 0
            wait_for(lambda: steps() >= 1, 120, "no step was applied")
        # The head is gone, and every worker with it. Votes still count; answers cannot be had.
        with child([*votes[:-2], "--once"], tmp_path, "votes") as voting:
            assert voting.wait(120) == 0
        wait_for(lambda: paused_by() == "engine", 420, "nobody noticed that the engine is away")
        lines = [line for line in log().splitlines() if "waiting for it" in line]
        assert lines, log()
        before = log()
        time.sleep(3 * run_engine.RETRY_S)
        assert log() == before, "a line for every try"
        with cluster(port, tmp_path):
            wait_for(lambda: paused_by() is None, 180, "it did not go on")
            with child([*votes[:-2]], tmp_path, "votes"):
                wait_for(lambda: steps() == 6, 240, "the run did not end")
    undisturbed = tmp_path / "here"
    local = [text for text in sets if not text.startswith(("engine.", "panel.inside"))]
    monkeypatch.setenv("SZPO_CACHE", str(undisturbed))
    from szpo.cli.app import call

    line = ["run", "--folder", str(undisturbed), "--set", "engine.chunk_rows=4"]
    assert call([*line, *(word for text in local for word in ("--set", text))]) == 0
    with Ledger.open(path, readonly=True) as away:
        assert verification.verify(away).ok
        with Ledger.open(undisturbed / "away.db", readonly=True) as here:
            assert theta_digests(away)[0] == theta_digests(here)[0]
            assert away.row["base_sha256"] == here.row["base_sha256"]
            first = [[(row.plus, row.minus) for c in ledger.comparisons(0) for row in c.rows]
                     for ledger in (away, here)]  # fmt: skip
            assert first[0] == first[1]


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_with_another_version_of_a_library_is_refused_before_any_vote(tmp_path):
    """The processes of the node find a numpy that calls itself 1.99.0, those here the real one."""
    other = tmp_path / "other" / "numpy-1.99.0.dist-info"
    other.mkdir(parents=True)
    facts = "Metadata-Version: 2.1\nName: numpy\nVersion: 1.99.0\n"
    (other / "METADATA").write_text(facts, encoding="utf-8")
    port = free_port()
    sets = [
        f"model.name={folder_run.model(tmp_path)}", "model.dtype=fp32",
        f"prompts.path={folder_run.prompts(tmp_path)}", "subspace.dim=4", "subspace.samples=32",
        "subspace.kl_samples=32", "panel.reward=length:6", "panel.beta=10", "run.votes=8",
        "run.name=mixed", "engine.kind=ray", f"engine.address=127.0.0.1:{port}",
    ]  # fmt: skip
    words = [word for text in sets for word in ("--set", text)]
    with cluster(port, tmp_path, other.parent), (tmp_path / "run.log").open("wb") as log:
        wait_for(lambda: not unreachable(port), 60, "ray did not start")
        run = [sys.executable, "-m", "szpo", "run", "--folder", str(tmp_path / "runs"), *words]
        done = subprocess.run(run, stdout=log, stderr=log, timeout=240, env=environment(tmp_path))
    said = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert done.returncode == 5, said
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    assert '"numpy": "1.99.0"' in line
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "mixed.db").exists()


def unreachable(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) != 0
