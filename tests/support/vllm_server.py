"""A server with vLLM's documented interface and a real model, which can be made to fail.

The model answers all waiting requests in one batch by PEFT's ``generate(adapter_names=…)``. PEFT
silently ignores adapter names for anything but LoRA, so other adapters are refused. The interface:
docs.vllm.ai, "LoRA Adapters" and "OpenAI-Compatible Server".
"""

import json
import queue
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from szpo.cache import quiet
from tests.support.http_server import Reply, Request, serving

BASE = "__base__"
MAX_LORA_RANK = 8


@dataclass
class Faults:
    """Faults of the server; all are off unless a test switches them on."""

    reply: Callable[[str, dict[str, Any], int], str | None] = lambda path, body, n: None
    """How the n-th request of a path fails: "429", "500", "400", or None."""
    writer: Callable[[str], str] = lambda name: name
    """From the requested adapter's name to the adapter that answers."""
    stale: Callable[[str], str] = lambda name: name
    """From an adapter's name to its slot; a slot in use keeps its old weights."""
    seeds: str = "honoured"
    """"honoured", "random" (the server draws its own), or "one" (all requests share one)."""


@dataclass
class _Job:
    body: dict[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class _Draws(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token from its own generator, and keeps its log-probability."""

    def __init__(self, jobs: list[_Job], seeds: list[int]):
        self.jobs = jobs
        self.random = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raw = scores.to(torch.float32).log_softmax(-1)
        drawn = torch.empty(len(self.jobs), dtype=torch.long)
        for i, job in enumerate(self.jobs):
            heat = job.body["temperature"]
            if heat == 0:
                drawn[i] = raw[i].argmax()
            else:
                noise = torch.empty(raw.shape[1]).exponential_(generator=self.random[i])
                drawn[i] = ((raw[i] / heat).softmax(-1) / noise).argmax()
            if len(job.tokens) < job.body["max_tokens"] and not _ended(job):
                job.tokens.append(int(drawn[i]))
                job.logprobs.append(float(raw[i, drawn[i]]))
        forced = torch.full_like(scores, float("-inf"))
        forced[torch.arange(len(self.jobs)), drawn] = 0.0
        return forced


def _ended(job: _Job) -> bool:
    return bool(job.tokens) and job.tokens[-1] in job.body["stop_token_ids"]


class VllmServer:
    """The server, on a free port of 127.0.0.1, from construction until `close`."""

    def __init__(
        self,
        model: str | Path,
        dtype: torch.dtype = torch.float32,
        *,
        key: str = "",
        version: str = "0.28.0",
        prefix_caching: bool = False,
    ):
        self.model, self.dtype = str(model), dtype
        self.key, self.version, self.prefix_caching = key, version, prefix_caching
        self.faults = Faults()
        self.names: list[str] = []
        """Names of all adapters that were ever loaded."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of all completions."""
        self.changed_in_flight = 0
        """Adapters loaded or unloaded while rows were being answered."""
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock, self._pause = threading.Lock(), threading.Event()
        self._counts: dict[str, int] = {}
        self._in_flight, self._closed = 0, False
        self._load_model()
        self._listening = ExitStack()
        self.url = self._listening.enter_context(serving(self._answer))
        threading.Thread(target=self._turn, daemon=True).start()

    def _load_model(self) -> None:
        with quiet():
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype)
        self._base, self._peft = base.eval(), None
        self.adapters: dict[str, str] = {}
        self._slots: set[str] = set()

    def restart(self) -> None:
        """Restart: the model is loaded again, without adapters."""
        with self._lock:
            self._load_model()

    def reset(self) -> None:
        """Forget all requests and faults."""
        self.restart()
        self.faults = Faults()
        self.names, self.requests, self.changed_in_flight = [], [], 0
        self._counts = {}

    def is_canary(self, name: str) -> bool:
        """Whether this adapter was asked for 16 tokens, as szpo's canary does."""
        return any(b["model"] == name and b["max_tokens"] == 16 for b in list(self.requests))

    def close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        self._listening.close()

    # ---- adapters ----

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return _error(404, f"No adapter found for {path}")
        settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        assert settings["peft_type"] == "LORA", "PEFT ignores adapter_names for anything else"
        # vLLM supports only one rank and one scale.
        assert not settings["rank_pattern"] and not settings["alpha_pattern"]
        assert settings["r"] <= MAX_LORA_RANK
        with self._lock, quiet():
            self.changed_in_flight += self._in_flight > 0
            self.names.append(name)
            self.adapters[name] = str(path)
            slot = self.faults.stale(name)
            if slot not in self._slots:
                self._slots.add(slot)
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(
                        self._base, str(path), adapter_name=slot, autocast_adapter_dtype=False
                    ).eval()
                else:
                    self._peft.load_adapter(
                        str(path), adapter_name=slot, autocast_adapter_dtype=False
                    )
                self._peft.to(self.dtype)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        with self._lock:
            if name not in self.adapters:
                return _error(404, f"The lora adapter '{name}' cannot be found.")
            self.changed_in_flight += self._in_flight > 0
            del self.adapters[name]
            if self.faults.stale(name) == name and len(self._slots) > 1:
                self._slots.discard(name)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the active adapter changes
                    self._peft.delete_adapter(name)
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def models(self) -> dict[str, Any]:
        base = {"id": self.model, "object": "model", "root": self.model, "parent": None}
        more = [
            {"id": name, "object": "model", "root": path, "parent": self.model}
            for name, path in self.adapters.items()
        ]
        return {"object": "list", "data": [base, *more]}

    # ---- answers ----

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.requests.append(body)
            if body["model"] != self.model and body["model"] not in self.adapters:
                return _error(404, f"The model `{body['model']}` does not exist.")
            self._in_flight += 1
        job = _Job(body)
        if not self._closed:  # over a connection that is still open
            self._jobs.put(job)
            job.done.wait()
        with self._lock:
            self._in_flight -= 1
        if not job.tokens:
            return _error(500, "Internal server error")
        choice = {
            "index": 0,
            "text": " ".join(f"<{t}>" for t in job.tokens),
            "token_ids": job.tokens if body.get("return_token_ids") else None,
            "prompt_token_ids": body["prompt"],
            "logprobs": {"token_logprobs": job.logprobs, "tokens": [str(t) for t in job.tokens]},
            "finish_reason": "stop" if _ended(job) else "length",
        }
        return 200, {"object": "text_completion", "model": body["model"], "choices": [choice]}

    def _turn(self) -> None:
        """Answer all waiting requests in one batch, in a loop."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            self._pause.wait(0.005)  # requests that come together are answered together
            while not self._jobs.empty() and len(jobs) < 256:
                more = self._jobs.get()
                if more is None:
                    return
                jobs.append(more)
            try:
                with self._lock:
                    self._generate(jobs)
            finally:
                for each in jobs:
                    each.done.set()

    def _generate(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if job.body["model"] in {self.model, *self.adapters}]
        if not jobs:
            return
        longest = max(len(job.body["prompt"]) for job in jobs)
        ids = torch.zeros(len(jobs), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, job in enumerate(jobs):
            prompt = job.body["prompt"]
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            mask[i, longest - len(prompt) :] = 1
        seeds = {
            "honoured": [job.body["seed"] for job in jobs],
            "random": [torch.seed() for _ in jobs],
            "one": [7] * len(jobs),
        }[self.faults.seeds]
        names = [self.faults.writer(job.body["model"]) for job in jobs]
        slots = [BASE if name == self.model else self.faults.stale(name) for name in names]
        with torch.inference_mode(), quiet():
            (self._peft or self._base).generate(
                input_ids=ids, attention_mask=mask, do_sample=False,
                max_new_tokens=max(job.body["max_tokens"] for job in jobs),
                eos_token_id=jobs[0].body["stop_token_ids"], pad_token_id=0,
                logits_processor=LogitsProcessorList([_Draws(jobs, seeds)]),
                **({"adapter_names": slots} if self._peft else {}),
            )  # fmt: skip

    def _answer(self, request: Request) -> Reply:
        if request.method == "GET":
            metrics = (
                "# TYPE vllm:cache_config_info gauge\n"
                f'vllm:cache_config_info{{block_size="16",enable_prefix_caching="'
                f'{self.prefix_caching}",engine="0"}} 1.0\n'
            )
            table: dict[str, Any] = {
                "/health": "",
                "/version": {"version": self.version},
                "/v1/models": self.models(),
                "/metrics": metrics,
            }
            found = table.get(request.path)
            return _reply(404, {}) if found is None else _reply(200, found)
        path, body = request.path, json.loads(request.body)
        heard = request.headers.get("authorization")
        if self.key and heard != f"Bearer {self.key}":
            return _reply(401, {"error": {"message": f"Unauthorized: {heard}"}})
        with self._lock:
            self._counts[path] = count = self._counts.get(path, 0) + 1
        fault = self.faults.reply(path, body, count)
        if fault in ("429", "500", "400"):
            return _reply(int(fault), {"error": {"message": f"no: {heard}"}})
        route = {
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
        }[path]
        code, found = route(body)
        return _reply(code, found)


def _reply(code: int, found: Any) -> Reply:
    text, kind = (found, "text/plain") if isinstance(found, str) else (
        json.dumps(found), "application/json"
    )  # fmt: skip
    return Reply(code, text.encode(), (("Content-Type", kind),))


def _error(code: int, message: str) -> tuple[int, Any]:
    return code, {"error": {"message": message, "type": "BadRequestError", "code": code}}
