"""`szpo bench paired`: what generating both policies in one batch costs over plain generation.

Runs with and without per-row deltas alternate on the same engine, prompts and random numbers; the
ratio is taken within each pair of runs. End tokens are switched off, so every run makes the same
number of tokens. Peak memory is that of fresh processes. Absolute figures depend on the machine,
so its load and a fixed matrix product stand beside them.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from szpo import memory
from szpo.data import prompts
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.generation.flat_engine import FlatEngine
from szpo.generation.sampling import Sampling
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.rows import THETA0
from szpo.models import loading
from szpo.models.batched_lora import AdaptedModel, Deltas, find_sites
from szpo.models.loading import Loaded
from szpo.models.lora_sites import Site
from szpo.optim.checked_settings import defaults, settings_to_json
from szpo.optim.directions import DIRECTION_VERSION
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.runs import machine_check
from szpo.training import comparisons, controller, step_report
from szpo.training.services import Bounds, Hooks
from szpo.types import Floats
from szpo.voting.service import VoteService
from szpo_simulators.panels import panel
from szpo_simulators.panels.raters import Rater
from szpo_simulators.rewards import text_rewards

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Case:
    """One adapter on one base."""

    name: str
    rank: int
    targets: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    quantization: Any = None

    def sites(self, model: Any) -> tuple[Site, ...]:
        """The LoRA sites in this model."""
        from peft import LoraConfig  # slow and talkative to import; --help does without

        layers = None if self.layers is None else list(self.layers)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            target_modules=list(self.targets),
            layers_to_transform=layers,
        )
        return find_sites(model, config)


CASES = (
    Case("r = 4 on q, v", 4, ("q_proj", "v_proj")),
    Case("r = 16 on all linear layers", 16, ALL_LINEAR),
    Case("r = 1 on down_proj of 5 layers", 1, ("down_proj",), (18, 19, 20, 21, 22)),
    Case("r = 4 on q, v, 4-bit nf4", 4, ("q_proj", "v_proj"), None, "nf4"),
)


@dataclass(frozen=True)
class Job:
    """Rows to generate, and how, for one case on a loaded model."""

    loaded: Loaded
    sites: tuple[Site, ...]
    deltas: Deltas
    ids: list[list[int]]
    tokens: int

    def run_engine(self, deltas: Deltas | None, shared: bool = False) -> None:
        """One run of the engine: first half of the rows plus, second half minus.

        ``shared`` asks both sides the same prompts, as a step does.
        """
        half = len(self.ids) // 2
        ids = self.ids[:half] * 2 if shared else self.ids
        draws = np.random.default_rng(0).random((half, self.tokens))
        members = [0] * half + [int(deltas is not None)] * half
        FlatEngine(AdaptedModel(self.loaded.model, self.sites)).generate(
            ids, members, deltas, Sampling(max_new_tokens=self.tokens), np.tile(draws, (2, 1))
        )

    def run_transformers(self) -> None:
        """One run of ``transformers.generate`` without any adapter."""
        width = max(map(len, self.ids))
        rows = [[0] * (width - len(row)) + row for row in self.ids]
        seen = [[0] * (width - len(row)) + [1] * len(row) for row in self.ids]
        with torch.inference_mode():
            self.loaded.model.generate(
                input_ids=torch.tensor(rows),
                attention_mask=torch.tensor(seen),
                min_new_tokens=self.tokens,
                max_new_tokens=self.tokens,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )


def make_job(loaded: Loaded, case: Case, rows: int, tokens: int) -> Job:
    """The case's rows: different held-in prompts, deltas of about a run's size."""
    sites = case.sites(loaded.model)
    generator = torch.Generator().manual_seed(0)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=generator) for s in sites}
    B = {s.name: 1e-3 * torch.randn(2, s.outputs, s.rank, generator=generator) for s in sites}
    pool = [loading.encode(loaded.tokenizer, p) for p in prompts.load_shipped().train]
    return Job(
        loaded, sites, Deltas(A, B), [list(pool[i % len(pool)]) for i in range(rows)], tokens
    )


def time_run(run: Callable[[], None]) -> float:
    """Wall time of one run."""
    gc.collect()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and a distribution-free interval of at least 95 % from order statistics.

    >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 7.0, 6.0, 9.0, 8.0])
    (5.0, 2.0, 8.0)
    """
    ordered = sorted(values)
    n = len(ordered)
    k = 0
    while k + 1 < n - 1 - k and 1 - 2 * float(binom.cdf(k + 1, n, 0.5)) >= 0.95:
        k += 1
    return float(np.median(ordered)), ordered[k], ordered[n - 1 - k]


def alternate(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, in alternating order, after one warm-up of each."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        for name in list(runs)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(time_run(runs[name]))
    return times


def measure(loaded: Loaded, case: Case, rows: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Throughputs (new tokens/s) and the ratio with / without deltas, pair by pair."""
    work = make_job(loaded, case, rows, tokens)
    times = alternate(
        {
            "without": lambda: work.run_engine(None),
            "with": lambda: work.run_engine(work.deltas),
            "step": lambda: work.run_engine(work.deltas, shared=True),
        },
        repeats,
    )
    ratios = [a / b for a, b in zip(times["without"], times["with"], strict=True)]
    return {
        "case": case.name,
        "ratio": median_interval(ratios),
        **{
            name: median_interval([rows * tokens / t for t in taken])
            for name, taken in times.items()
        },
    }


# --- memory ------------------------------------------------------------------------------------

KINDS = ("transformers", "without", "with")


def measure_peak(kind: str, model: str, rows: int, tokens: int) -> float:
    """Peak resident memory in MiB of a fresh process that generates once in that way."""
    code = (
        "from szpo_simulators.bench.language import paired; "
        f"paired.generate_once({kind!r}, {model!r}, {rows}, {tokens})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def generate_once(kind: str, model: str, rows: int, tokens: int) -> None:
    """Generate once and print the peak in MiB; the work of the fresh process."""
    work = make_job(loading.load(model), CASES[0], rows, tokens)
    if kind == "transformers":
        work.run_transformers()
    else:
        work.run_engine(work.deltas if kind == "with" else None)
    print(json.dumps(memory.peak_bytes() / 2**20))


# --- the rest of a step ------------------------------------------------------------------------


def measure_step_shares(
    loaded: Loaded, case: Case, rows: int, tokens: int, steps: int
) -> list[float]:
    """Share of each step's time spent outside generation: a whole run with ledger and panel."""
    sites = case.sites(loaded.model)
    rng = np.random.default_rng(0)
    fixed = {s.a: rng.normal(size=(s.rank, s.inputs)).astype(np.float32) for s in sites}
    start = {s.b: np.zeros((s.outputs, s.rank), np.float32) for s in sites}
    space = Subspace("full", sites, fixed, start, {})
    chosen = defaults(1, space.layout, rule="sign", N=rows // 16, D=8, mu=1e-3, alpha=1e-4)
    policy = LoraPolicy(loaded, space, root_seed=1)
    reward = text_rewards.parse("sentiment")
    reports: list[step_report.StepReport] = []
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(
            Path(folder) / "run.db",
            NewRun(
                {"optimizer": settings_to_json(chosen)},
                root_seed=1,
                layout=space.layout,
                direction_version=DIRECTION_VERSION,
                base_sha256=loaded.sha256,
                tensors={f"{THETA0}{name}": value for name, value in start.items()},
            ),
        )
        with ledger:
            judges = panel.judges(reward, [Rater(beta=5.0)] * 5)
            controller.run(
                ledger,
                policy,
                PanelEvaluator(VoteService(ledger), judges),
                comparisons.prompt_order(prompts.load_shipped().train, chosen),
                Bounds(until_step=steps + 1),
                Hooks(on_step=reports.append),
            )
    return [
        1 - report.seconds["generation_s"] / sum(report.seconds.values()) for report in reports[1:]
    ]


# --- the table ---------------------------------------------------------------------------------


def main(
    model: str = "smollm2",
    rows: int = 64,
    tokens: int = 24,
    repeats: int = 9,
    threads: int = 0,
    memory: bool = True,
    cases: Sequence[str] = (),
) -> dict[str, Any]:
    """Throughput with per-row deltas over the same engine without, memory, time outside.

    Args:
        model: Base model.
        rows: Rows in the batch, half plus and half minus.
        tokens: New tokens per row.
        repeats: Alternating runs; at least 7.
        threads: Threads of the tensor library; 0 leaves its default.
        memory: Measure peak memory in fresh processes.
        cases: Parts of the names of the cases to run; none runs all.
    """
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    chosen = [c for c in CASES if not cases or any(part in c.name for part in cases)]
    result: dict[str, Any] = {
        "model": model, "rows": rows, "tokens": tokens, "repeats": max(repeats, 7),
        "threads": torch.get_num_threads(), "cases": [],
    }  # fmt: skip
    bases: dict[Any, Loaded] = {}
    table = Table(title=f"{model}, {rows} rows × {tokens} new tokens, median [95 % interval]")
    for head in ("adapter", "with / without", "without, tok/s", "with, tok/s", "as a step, tok/s"):
        table.add_column(head, justify="left" if head == "adapter" else "right")
    for case in chosen:
        if case.quantization not in bases:
            bases[case.quantization] = loading.load(model, quantization=case.quantization)
        found = measure(bases[case.quantization], case, rows, tokens, result["repeats"])
        result["cases"].append(found)
        table.add_row(
            case.name,
            _format_interval(found["ratio"], 3),
            *(_format_interval(found[name], 0) for name in ("without", "with", "step")),
        )
    plain = next(iter(bases.values()))
    work = make_job(plain, chosen[0], rows, tokens)
    taken = alternate({"generate": work.run_transformers}, 3)["generate"]
    result["transformers"] = median_interval([rows * tokens / t for t in taken])
    table.add_row(
        "transformers.generate, no adapter", "", _format_interval(result["transformers"], 0)
    )
    console.print(table)
    shares = measure_step_shares(plain, chosen[0], rows, tokens, result["repeats"])
    result["outside_generation"] = median_interval(shares)
    console.print(
        f"step time outside generation: {_format_interval(result['outside_generation'], 4)} "
        "(ledger, panel and update included)"
    )
    if memory:
        result["memory_mib"] = {kind: measure_peak(kind, model, rows, tokens) for kind in KINDS}
        result["memory_ratio"] = result["memory_mib"]["with"] / result["memory_mib"]["without"]
        peaks = ", ".join(f"{kind} {mib:.0f}" for kind, mib in result["memory_mib"].items())
        console.print(f"peak memory, MiB: {peaks}; with / without {result['memory_ratio']:.3f}")
    result["machine"] = {
        "load": machine_check.load_average(), "cores": os.cpu_count(),
        "matrix_seconds": machine_check.matrix_seconds(),
    }  # fmt: skip
    console.print(
        f"machine: load {result['machine']['load']:.1f} on {result['machine']['cores']} cores, "
        f"{result['threads']} threads, 1024³ fp32 product in "
        f"{1000 * result['machine']['matrix_seconds']:.1f} ms"
    )
    return result


def _format_interval(values: tuple[float, float, float] | Floats, digits: int) -> str:
    middle, low, high = values
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
