"""Whole runs whose model is held by workers: same votes and weights, resumed, stopped, away."""

from __future__ import annotations

import itertools
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.tables import ELSEWHERE, Engine
from szpo.errors import EngineError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.policies import ray_engine
from szpo.policies.backend import AnswerRequest
from szpo.replay import verification
from szpo.runs import run_engine
from szpo.voting import lease
from tests.support import folder_run, lora_folders, near_workers

ROWS = [
    "engine.chunk_rows=8", "guards.kl=40", "subspace.samples=16",
    "generation.max_new_tokens=5",
]  # fmt: skip
KINDS = {"Places", "KL", "AnswerRequest"}
RAY = ["engine.kind=ray", "engine.workers=2", *ROWS]


@pytest.fixture
def hosts(monkeypatch):
    """Runs with ``engine.kind = "ray"`` get workers of this process; these are their hosts."""
    made: list[ray_engine.RayBackend] = []

    def start(engine: Any, facts: Any) -> ray_engine.RayBackend:
        made.append(ray_engine.RayBackend(engine, facts, near_workers.NearWorkers(engine.workers)))
        return made[-1]

    monkeypatch.setattr(ray_engine, "demand", lambda engine: None)
    monkeypatch.setattr(ray_engine, "unreachable", lambda engine: None)
    monkeypatch.setattr(ray_engine, "start_workers", start)
    return made


def read(path: Path) -> tuple[Any, ...]:
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        votes = [row["votes_sha256"] for row in ledger.update_rows()]
        kl = [event["body"]["kl"] for event in ledger.events("step")]
        assert len(kl) == 2 and None not in kl
        return theta_digests(ledger), votes, kl, ledger.row["base_sha256"]


def test_a_run_by_workers_is_the_run_made_here(tmp_path, model, hosts, monkeypatch):
    """Set-up, panel, votes, weights and the guard's KL; afterwards the workers are let go."""
    paths = []
    for number, sets in enumerate((ROWS, RAY)):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.setenv("SZPO_CACHE", str(place))  # each makes its own set-up
        paths.append(folder_run.make(place, *sets, model_folder=model))
    assert read(paths[0]) == read(paths[1])
    (host,) = hosts
    assert isinstance(host.workers, near_workers.NearWorkers)
    assert host.workers.closed and set(host.workers.tasks) >= KINDS
    moved = {"address": ["10.0.0.5:6379"], "workers": 1}
    assert resume(paths[1], *(f"engine.{name}={value}" for name, value in moved.items())) == 0
    assert resume(paths[1]) == 0  # from now on the workers are there
    assert [len(host.workers.workers) for host in hosts] == [2, 1, 1]  # type: ignore[attr-defined]
    with Ledger.open(paths[1], readonly=True) as ledger:
        changes = [event["body"] for event in ledger.events(run_engine.ENGINE_CHANGED)]
    assert changes == [moved]
    assert read(paths[0]) == read(paths[1])


def test_workers_mix_adapters_as_one_machine_does(tmp_path, model, hosts, monkeypatch):
    """They get the factors once, then coordinates: the digests of a run made here."""
    adapters = lora_folders.write_shapes(tmp_path / "adapters")
    kind = [f"subspace.adapters={json.dumps(adapters)}", "optimizer.rule=known"]
    paths = []
    for number, sets in enumerate((ROWS, RAY)):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.setenv("SZPO_CACHE", str(place))
        paths.append(folder_run.make(place, *sets, *kind, model_folder=model))
    assert read(paths[0]) == read(paths[1])
    assert set(hosts[0].workers.tasks) >= KINDS  # type: ignore[attr-defined]


def test_workers_are_let_go_when_a_run_ends_by_an_error(tmp_path, model, hosts, monkeypatch):
    from szpo.runs import sample_batches

    def stop(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_batches, "compare", stop)
    line = folder_run.arguments(tmp_path, *RAY, model_folder=model)
    assert call(line) == 130
    assert call(["run", "--resume", str(tmp_path / "runs" / "folder.db")]) == 130
    broken = [*RAY, "panel.kind=judge", f"judge.model={model}", "judge.ask=soft", "run.name=x"]
    assert call(folder_run.arguments(tmp_path, *broken, model_folder=model)) == 2
    assert len(hosts) == 3 and all(host.workers.closed for host in hosts)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def path(tmp_path_factory, model):
    """A run that began in this process, and one that began with workers."""
    with pytest.MonkeyPatch.context() as patch:
        hosts.__wrapped__(patch)  # type: ignore[attr-defined]
        return folder_run.make(tmp_path_factory.mktemp("run"), *RAY, model_folder=model)


def resume(path: Path, *sets: str) -> int:
    return call(["run", "--resume", str(path), *(w for text in sets for w in ("--set", text))])


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("engine.chunk_rows=4", "engine.chunk_rows stays as the run began with it"),
        ("engine.kind=local", "engine.kind stays as the run began with it"),
        ("engine.adapters=a", "engine.address, engine.workers can change"),
        ("run.votes=99", "can change (for more votes: --votes +40)"),
        ("engine.workers=0", "engine.workers must be a whole number >= 1"),
    ],
)
def test_what_answers_depend_on_stays_when_a_run_is_resumed(path, hosts, capsys, sets, words):
    capsys.readouterr()
    assert resume(path, sets) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and hosts == []


def test_a_local_run_has_no_workers_to_move(tmp_path, model, capsys):
    local = folder_run.make(tmp_path, model_folder=model)
    capsys.readouterr()
    assert resume(local, "engine.workers=2") == 2
    assert 'goes with workers; this run has engine.kind "local"' in capsys.readouterr().err
    assert Engine().traits.own == ()


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_the_module_of_each_engine_elsewhere_has_what_a_run_calls(kind):
    module = import_module(ELSEWHERE[kind].module)
    for name in ("demand", "unreachable", "load", "measure", "leave"):
        assert callable(getattr(module, name)), f"{kind}: {name}"


def test_workers_with_another_gpu_are_refused_at_resume(path, hosts, monkeypatch, capsys):
    monkeypatch.setattr(run_engine, "read_device", lambda ledger: ("cpu", "NVIDIA A100"))
    capsys.readouterr()
    assert call(["run", "--resume", str(path)]) == 2
    message = capsys.readouterr().err
    assert "runs on NVIDIA A100; its workers have None, and answers differ there" in message
    assert hosts[0].workers.closed  # type: ignore[attr-defined]
    assert call(["run", "--resume", str(path), "--device", "cuda"]) == 2
    assert "--device cuda: the workers of folder.db compute on cpu" in capsys.readouterr().err


def test_another_model_at_the_workers_is_refused_at_resume(path, hosts, tmp_path, capsys):
    with Ledger.open(path, readonly=True) as ledger:
        folder = Path(ledger.spec["config"]["model"]["name"])
    kept = (folder / "model.safetensors").read_bytes()
    other = folder_run.model(tmp_path, "llama")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    try:
        (folder / "model.safetensors").write_bytes(bytes(weights))
        assert call(["run", "--resume", str(path)]) == 5
    finally:
        (folder / "model.safetensors").write_bytes(kept)
    assert "model" in capsys.readouterr().err


def test_who_stays_waits_for_an_engine_that_is_away(tmp_path, model, hosts, monkeypatch, capsys):
    """One line, a pause that the operator's page shows, and on it goes once the engine is back."""
    lines = folder_run.arguments(tmp_path, *RAY, model_folder=model)
    file = tmp_path / "runs" / "folder.db"
    seen: list[tuple[str, str]] = []
    inner, away = near_workers.NearWorkers.gather, [3]

    def gather(self: Any, setup: Any, tasks: Any, check: Any) -> Any:
        if file.exists() and isinstance(tasks[0][1], AnswerRequest) and away[0]:
            raise EngineError("the Ray cluster is gone (a test)")
        return inner(self, setup, tasks, check)

    def sleep(seconds: float) -> None:
        assert seconds == run_engine.RETRY_S
        with Ledger.open(file, readonly=True) as ledger:
            held = lease.controller(ledger)
            seen.append((held["paused_by"], held["pause_reason"]))
        away[0] -= 1

    class DoneError(Exception):
        pass

    numbers = itertools.count()

    def changes(ledger: Ledger) -> int:
        with Ledger.open(ledger.path, readonly=True) as own:
            if len(list(own.update_rows())) == 4 and lease.controller(own)["paused_by"] is None:
                raise DoneError
        return next(numbers)

    monkeypatch.setattr(near_workers.NearWorkers, "gather", gather)
    monkeypatch.setattr("szpo.cli.run.time.sleep", sleep)
    monkeypatch.setattr("szpo.runs.driver._changes", changes)
    assert call([*lines, "--stay"]) == 1  # the test ends what would stay for ever
    assert seen == [("engine", run_engine.AWAY)] * 3
    assert capsys.readouterr().err.count("the Ray cluster is gone (a test); waiting for it") == 1
    with Ledger.open(file, readonly=True) as ledger:
        assert lease.controller(ledger)["paused_by"] is None
        assert len(list(ledger.update_rows())) == 4  # two rows a step
        assert verification.verify(ledger).ok
    assert all(host.workers.closed for host in hosts)  # type: ignore[attr-defined]


def test_who_does_not_stay_gets_the_error(tmp_path, model, hosts, monkeypatch, capsys):
    def gather(*_: Any) -> Any:
        raise EngineError("the Ray cluster is gone (a test)")

    monkeypatch.setattr(near_workers.NearWorkers, "gather", gather)
    assert call(folder_run.arguments(tmp_path, *RAY, model_folder=model)) == 6
    assert capsys.readouterr().err.strip().endswith("error: the Ray cluster is gone (a test)")


def test_the_doctor_looks_at_the_engine_and_prices_a_step(tmp_path, model, hosts, capsys):
    line = folder_run.arguments(tmp_path, *RAY, model_folder=model)
    config = settings_file.load(sets=[text for text in line if "=" in text])
    file = tmp_path / "run.toml"
    file.write_text(settings_file.to_toml(config, every=False), encoding="utf-8")
    call(["doctor", "--config", str(file), "--folder", str(tmp_path)])
    found = " ".join(capsys.readouterr().out.split())
    assert "2 workers at a cluster of its own on 127.0.0.1" in found
    rows = 2 * config.optimizer.K * config.optimizer.N * config.optimizer.D
    assert f"{rows} rows in {rows // 8} chunks of 8, about" in found
    assert hosts[0].workers.closed  # type: ignore[attr-defined]


def test_the_doctor_says_what_is_wrong_with_an_engine(monkeypatch):
    def refuse(engine: Any) -> None:
        raise UsageError("engine.address 10.0.0.5:6379 cannot be reached (no route)")

    monkeypatch.setattr(ray_engine, "demand", refuse)
    (check,) = run_engine.examine_engine(settings_file.load(sets=["engine.kind=ray"]))
    assert check.status == "fail" and check.text.startswith("engine.address 10.0.0.5:6379 cannot")
    (check,) = run_engine.examine_engine(settings_file.load())
    assert check.text == "local: the run's own process holds the model"
