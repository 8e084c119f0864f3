"""The engine over Ray: refusals without it; with it, where it is installed, a tiny model's run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from szpo.config import settings_file
from szpo.config.tables import Engine
from szpo.errors import IntegrityError, RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.models import loading
from szpo.models.loading import Described
from szpo.models.sampling import Sampling
from szpo.plugins import how_to_install
from szpo.policies import ray_engine, worker
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.worker import Coordinates, Setup
from szpo.types import Shift
from tests.support import folder_run, ray_nodes
from tests.support.cases import case
from tests.support.policies import SHORT_PROMPTS as PROMPTS
from tests.support.policies import small
from tests.support.ray_nodes import needs_ray

quiet = pytest.mark.filterwarnings("ignore")  # Ray's own, at import and at exit
ASKED = [PROMPTS[:6], PROMPTS[:6], PROMPTS[6:], PROMPTS[6:]]
SHIFTS = [Shift(2, k, sign, 0.75) for k in (0, 1) for sign in (1, -1)]


def pretend_ray(monkeypatch: pytest.MonkeyPatch, there: bool = True) -> None:
    monkeypatch.setattr(
        ray_engine.importlib.util, "find_spec", lambda name: object() if there else None
    )


def test_without_the_extra_it_is_refused_in_a_line(tmp_path, monkeypatch, capsys):
    pretend_ray(monkeypatch, there=False)
    from szpo.cli.app import call

    line = ["run", "--preset", "tiny", "--folder", str(tmp_path), "--set", "engine.kind=ray"]
    assert call(line) == 2
    message = capsys.readouterr().err.strip()
    assert message.endswith(f"engine.kind ray needs ray: {how_to_install('ray')}")
    assert len(message.splitlines()) == 1


def test_too_many_workers_and_addresses_that_are_shut_or_open_are_refused(monkeypatch):
    pretend_ray(monkeypatch)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    ray_engine.demand(Engine(kind="ray", workers=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for settings, words in (
        ({"workers": 3}, r"engine\.workers 3 need a core each, this machine has 2"),
        ({"address": f"127.0.0.1:{port}"}, "cannot be reached"),
        ({"address": "elsewhere"}, "is not host:port"),
        ({"address": "127.0.0.1:99999"}, "cannot be reached"),
        ({"address": "192.0.2.7:6379"}, "lets whoever reaches it run code"),
    ):
        with case(settings), pytest.raises(UsageError, match=words):
            ray_engine.demand(Engine(kind="ray", **settings))


def test_a_token_goes_elsewhere_by_tls_or_to_a_host_that_a_setting_names(monkeypatch):
    pretend_ray(monkeypatch)
    monkeypatch.setattr(ray_engine, "why_not_listening", lambda *_: None)
    monkeypatch.setenv("RAY_AUTH_TOKEN", ray_nodes.TOKEN)
    for name in ("RAY_AUTH_MODE", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)

    def demand(host: str = "192.0.2.7", **settings: Any) -> None:
        ray_engine.demand(Engine(kind="ray", address=f"{host}:6379", **settings))

    with pytest.raises(UsageError, match=r"would travel unencrypted to 192\.0\.2\.7") as caught:
        demand()
    assert ray_nodes.TOKEN not in str(caught.value)
    demand("127.0.0.1")
    monkeypatch.setenv("SZPO_INSECURE_HOSTS", "192.0.2.7")
    demand()
    monkeypatch.delenv("SZPO_INSECURE_HOSTS")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    demand()


UNFIT = {
    "engine.workers=2": 'engine.workers goes with engine.kind "ray"',
    "engine.address=a:1": 'engine.address goes with engine.kind "ray"',
    "engine.kind=cloud": 'engine.kind must be one of "local", "ray"',
    "engine.kind=ray engine.workers=0": "engine.workers must be a whole number >= 1",
    'engine.kind=ray engine.address=["a:1","b:1"]': "a Ray cluster has one",
    "engine.kind=vllm": "address is missing",
    "engine.adapters=a": 'adapters goes with engine.kind "vllm"',
    'engine.kind=vllm engine.address=["http://a:1","http://a:1/"]': "has a server twice",
    "engine.kind=vllm engine.workers=2": 'workers goes with engine.kind "ray"',
    'engine.kind=vllm engine.address=["http://me:key@a:1"]': "engine.address",
    'engine.kind=vllm engine.address=["ftp://a:1"]': "engine.address",
    "engine.kind=vllm engine.address=[]": "engine.address",
}


def test_settings_that_do_not_fit_are_refused():
    for sets, words in UNFIT.items():
        with case(sets), pytest.raises(UsageError, match=re.escape(words)):
            settings_file.load(sets=sets.split())


@pytest.fixture(scope="module")
def policy(model):
    base = loading.load(str(model), dtype="fp32")
    sampling = Sampling(max_new_tokens=10)
    host = LocalBackend(base, chunk_rows=5)
    return LoraPolicy(base, small(base), root_seed=5, sampling=sampling, host=host)


def setup_of(policy: LoraPolicy, **changes: Any) -> Setup:
    here = Coordinates(policy.subspace, policy.space)
    return worker.setup_of(policy.loaded, replace(here, **changes))


def described_of(policy: LoraPolicy) -> Described:
    return loading.describe(policy.loaded.name, dtype="fp32")


def test_a_worker_holds_what_the_controller_holds_and_computes_on_its_kind_of_device(
    policy, monkeypatch
):
    mine = worker.holding(policy.loaded, policy.local)
    there, _ = worker.Worker(1).show(setup_of(policy))
    assert worker.describe_difference(mine, there) is None
    assert mine["canary"] and mine["factors_sha256"]
    pretend_ray(monkeypatch)
    with pytest.raises(UsageError, match=r"workers compute on cpu or cuda; model\.device is mps"):
        described = replace(described_of(policy), device=torch.device("mps"))
        ray_engine.start_workers(Engine(kind="ray"), described)


def test_another_basis_seed_or_library_is_noticed(policy):
    mine = worker.holding(policy.loaded, policy.local)
    basis = {name: value.copy() for name, value in policy.subspace.basis.items()}
    next(iter(basis.values())).view(np.uint32).flat[0] ^= 1  # the last bit of one number
    for what, changes in (
        ("basis", {"subspace": replace(policy.subspace, basis=basis)}),
        ("factors", {"space": replace(policy.space, root_seed=6)}),
    ):
        other, _ = worker.Worker(1).show(setup_of(policy, **changes))
        assert f"its {what}_sha256 is" in str(worker.describe_difference(mine, other))
    other = {**mine, "versions": {**mine["versions"], "torch": "2.0"}}
    assert 'its versions is {"szpo"' in str(worker.describe_difference(mine, other))


@needs_ray
@quiet
@pytest.mark.slow
def test_a_worker_takes_its_threads_from_the_run_and_not_from_its_environment(policy, ray):
    other = {"env_vars": {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}}

    def look(setup: Any) -> Any:
        found, _ = worker.Worker(1).show(setup)
        return os.environ["OMP_NUM_THREADS"], torch.get_num_threads(), found

    asked = ray.remote(look).options(runtime_env=other, num_cpus=0)
    seen = ray.get(asked.remote(setup_of(policy)))
    mine = worker.holding(policy.loaded, policy.local)
    assert seen[:2] == ("1", 1)
    assert worker.describe_difference(mine, seen[2]) is None


@pytest.fixture(scope="module")
def ray():
    """A cluster of three cores, which every test here joins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", ray_nodes.TOKEN)  # Ray reads it once in a process
        patch.setattr(os, "cpu_count", lambda: 4)
        found = ray_engine.connect(Engine(kind="ray", workers=3))
    assert found.util.get_node_ip_address() == "127.0.0.1"  # nobody else can reach it
    yield found
    found.shutdown()


@needs_ray
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_workers_answers_what_the_local_engine_answers(
    policy, ray, count, monkeypatch
):
    wanted = policy.rollout(ASKED, SHIFTS, seed=4), policy.sample(PROMPTS, 2, seed=5)
    base = policy.sample(PROMPTS[:2], seed=5, base=True)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    engine = Engine(kind="ray", workers=count, chunk_rows=5)
    with contextlib.closing(ray_engine.start_workers(engine, described_of(policy))) as host:
        there = LoraPolicy(
            host.facts, policy.subspace, root_seed=5, sampling=policy.sampling, host=host
        )
        assert signal.getsignal(signal.SIGTERM) is before  # Ray's own was taken away again
        assert wanted == (there.rollout(ASKED, SHIFTS, seed=4), there.sample(PROMPTS, 2, seed=5))
        assert there.sample(PROMPTS[:2], seed=5, base=True) == base
        with pytest.raises(RunError, match="canary"):
            there.rollout(ASKED[:2], [Shift(0, k, 1, 2.0**-60) for k in (0, 1)], seed=4)


@needs_ray
@quiet
def test_a_worker_without_the_model_or_with_another_is_refused(policy, ray, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    absent = replace(setup_of(policy), model="/not/there")
    for setup, error, words in (
        (absent, UsageError, "worker w0 cannot load the model: model '/not/there' not found"),
        (setup_of(policy), IntegrityError, "worker w0 is not the run's: its dtype is wrong"),
    ):
        workers = ray_engine.Workers(Engine(kind="ray"))
        with contextlib.closing(workers), pytest.raises(error, match=re.escape(words)):
            workers.show(setup, lambda held: "its dtype is wrong")
    with pytest.raises(UsageError, match="need 9 CPUs, the cluster has 3"):
        ray_engine.connect(Engine(kind="ray", workers=9))


@needs_ray
@quiet
@pytest.mark.slow
def test_the_controller_of_a_run_by_ray_builds_no_model(model, tmp_path, ray, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path))
    built: list[str] = []
    inner = torch.nn.Module.__init__

    def build(module: torch.nn.Module, *given: Any, **named: Any) -> None:
        built.append(type(module).__name__)
        inner(module, *given, **named)

    monkeypatch.setattr(torch.nn.Module, "__init__", build)
    sets = ["engine.kind=ray", "engine.workers=2", "engine.chunk_rows=8", "guards.kl=40"]
    path = folder_run.make(tmp_path, *sets, model_folder=model)
    assert built == []
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.row["base_sha256"] == loading.load(str(model), dtype="fp32").sha256
        assert len(list(ledger.update_rows())) == 4  # two rows a step
    assert built  # loading it does build some
