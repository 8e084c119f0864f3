"""`szpo bench scale`: do workers of Ray cost more than their work, and what crosses?

Four parts. ``throughput``: two workers of Ray and two bare processes, in turns, one thread each.
``step``: whole steps of a run, less the slower worker's own seconds. ``bytes``: both directions
of a step, fitted as a + b·tokens + c·d to each model by itself. ``plan``: what other fleets would
need, simulated with stand-ins for the workers; nothing of it was run.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.runs import assemble, driver
from szpo.training.step_report import StepReport
from szpo_simulators.bench.scale import rigs, stand_in, traffic
from szpo_simulators.bench.scale.cost_model import Fleet, StepShape, setup_bytes
from szpo_simulators.bench.scale.rigs import Task
from szpo_simulators.bench.scale.stand_in import Flaws
from szpo_simulators.study import Study, format_interval, interval

PARTS: Final = ("throughput", "step", "bytes", "plan")
WORKERS: Final = 2
AT_LEAST: Final = 0.95
"""Of the bare pair's tokens a second."""
AT_MOST: Final = 0.05
"""Of a step's seconds, beyond the slower worker's own."""
BOTH: Final = ("tiny", "smollm2")
SEVENTY: Final = {"layers": 80, "inputs": 28672, "outputs": 8192}
"""A 70B model's MLP output; the default adapter has rank 1 on five of its layers."""


def main(
    model: str = "smollm2",
    dtype: str = "bf16",
    pairs: int = 10,
    steps: int = 10,
    rows: int = 128,
    new_tokens: int = 24,
    chunk_rows: int = 32,
    parts: Sequence[str] = PARTS,
    workers: int = 1000,
    tokens_per_second: float = 1500.0,
    price: float = 2.5,
    quick: bool = False,
    folder: Path = Path("runs/bench-scale"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """What workers by Ray add to the work itself: seconds, bytes, and what larger fleets cost.

    Args:
        model: smollm2 or tiny.
        dtype: Of the base weights: fp32 or bf16.
        pairs: Pairs of a bare measurement and one by Ray, the first of them in turns.
        steps: Whole steps that are timed, after one that is not.
        rows: Answers of a step, a multiple of 16.
        new_tokens: Tokens of an answer, at most.
        chunk_rows: Rows that a worker answers at a time.
        parts: Of throughput, step, bytes, plan.
        workers: Of the simulated fleet of the plan.
        tokens_per_second: Of one of its workers: an assumption, to be measured on yours.
        price: Of one of its workers for an hour.
        quick: The tiny model and small numbers, under a minute or two.
        folder: Where finished cells and tables go.
        figures: Not used; there is no figure.
    """
    if wrong := [part for part in parts if part not in PARTS]:
        raise UsageError(f"bench scale: --parts {wrong[0]}: give {', '.join(PARTS)}")
    if rows < 16 or rows % 16 or min(pairs, steps) < 2:
        raise UsageError("bench scale: --rows is a multiple of 16, --pairs and --steps at least 2")
    if min(workers, tokens_per_second) <= 0 or price < 0:
        raise UsageError("bench scale: --workers, --tokens-per-second and --price are above 0")
    if quick:
        model, dtype, pairs, steps, rows, chunk_rows = "tiny", "fp32", 2, 2, 32, 8
    task = Task(model, dtype, rows, new_tokens, chunk_rows)
    study = Study("scale", folder, quick, figures)
    found: dict[str, Any] = {}
    if "throughput" in parts:
        found["throughput"] = report_throughput(study, task, pairs)
    if "step" in parts:
        found["step"] = report_step(study, task, steps)
    if "bytes" in parts:
        found["bytes"] = report_bytes(study, ("tiny",) if quick else BOTH, rows, chunk_rows)
    if "plan" in parts:
        fleet = Fleet(workers, tokens_per_second, price_per_hour=price)
        found["plan"] = report_plan(study, fleet, chunk_rows)
    if quick:
        study.console.print("--quick: too few turns and too small a model for figures")
    study.end()
    return found


# --- tokens a second -----------------------------------------------------------------------------


def report_throughput(study: Study, task: Task, pairs: int) -> dict[str, Any]:
    """Tokens a second of two workers by Ray over those of two bare processes."""
    with ExitStack() as stack:
        turns = _Turns(task, stack)
        specs = [{**vars(task), "part": "throughput", "pair": pair} for pair in range(pairs)]
        found = study.cells(f"{task.model}, {pairs} pairs", specs, turns.measure)
    rows = [
        {**row, "bare": row["two"] / row["one"], "by_ray": row["ray"] / row["one"],
         "ratio": row["ray"] / row["two"]}
        for row in found
    ]  # fmt: skip
    study.table(
        f"{task.model} {task.dtype}, {task.rows} answers of {task.new_tokens} tokens, one thread "
        "a process: tokens a second",
        rows,
        {"pair": "pair", "one bare": "one", "two bare": "two", "two by Ray": "ray",
         "two bare, × one": "bare", "by Ray, × one": "by_ray", "Ray / bare": "ratio"},
    )  # fmt: skip
    study.csv("throughput", rows)
    ratio = interval([row["ratio"] for row in rows])
    bare, by_ray = (interval([row[name] for row in rows]) for name in ("bare", "by_ray"))
    study.console.print(
        f"two bare {format_interval(bare)} × one, two by Ray {format_interval(by_ray)} × one; "
        f"Ray / bare {format_interval(ratio, 3)}: {_verdict(ratio['mean'] >= AT_LEAST)} "
        f"(at least {AT_LEAST:g})"
    )
    chunk_s = interval([row["chunk_s"] for row in rows])
    study.console.print(f"controller: {1000 * chunk_s['mean']:.1f} ms of processor time a chunk")
    if bare["mean"] >= 1.9:
        study.console.print(f"by Ray at least 1.8 × one: {_verdict(by_ray['mean'] >= 1.8)}")
    return {"ratio": ratio, "bare": bare, "by_ray": by_ray, "chunk_s": chunk_s, "rows": rows}


class _Turns:
    """Bare processes and workers by Ray, started at the first pair that is not stored yet."""

    def __init__(self, task: Task, stack: ExitStack):
        self._task, self._stack = task, stack
        self._ready: Any = None

    def measure(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """One bare, two bare and two by Ray on one request; the order turns with the pair."""
        rig, bare, rayed = self._start()
        request = rig.make_request(int(spec["pair"]) + 1)
        messages = rigs.make_messages(rig, request)
        turns = {
            "one": lambda: bare.measure(messages, 1),
            "two": lambda: bare.measure(messages, WORKERS),
            "ray": lambda: rayed.measure(request),
        }
        order = list(turns) if spec["pair"] % 2 == 0 else list(turns)[::-1]
        found = {name: turns[name]() for name in order}
        rates = {name: tokens / seconds for name, (seconds, tokens) in found.items()}
        return {**rates, "chunk_s": rayed.controller_s / len(messages)}

    def _start(self) -> Any:
        if self._ready is None:
            rig = rigs.make_rig(self._task)
            bare = self._stack.enter_context(rigs.Bare(rig, WORKERS))
            rayed = self._stack.enter_context(rigs.Rayed(rig, WORKERS))
            self._ready = rig, bare, rayed
            request = rig.make_request(0)
            bare.measure(rigs.make_messages(rig, request), WORKERS)
            rayed.measure(request)  # what is loaded at the first call belongs to no pair
        return self._ready


# --- whole steps ---------------------------------------------------------------------------------


def report_step(study: Study, task: Task, steps: int) -> dict[str, Any]:
    """What a step takes beyond the slower worker's own work, as a share of the step."""
    (cell,) = study.cells(
        f"{task.model}, {steps} steps",
        [{**vars(task), "part": "step", "steps": steps}],
        time_steps,
    )
    rows = [
        {"step": i + 1, "seconds": wall, "worker": work, "share": 1 - work / wall}
        for i, (wall, work) in enumerate(zip(cell["wall"], cell["work"], strict=True))
    ]
    study.table(
        f"{task.model} {task.dtype}: whole steps of a run with two workers",
        rows,
        {"step": "step", "seconds": "seconds", "slower worker's own": "worker", "beyond": "share"},
    )
    study.csv("step", rows)
    share = interval([row["share"] for row in rows])
    study.console.print(
        f"beyond the slower worker's own work {share['mean']:.1%} "
        f"[{share['low']:.1%}, {share['high']:.1%}] of a step: "
        f"{_verdict(share['mean'] <= AT_MOST)} (at most {AT_MOST:.0%})"
    )
    return {"share": share, "rows": rows}


def time_steps(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and of the slower worker's own work in it; the first is left out."""
    comparisons = spec["rows"] // (2 * rigs.PROMPTS_PER_SIDE)
    sets = [
        f"model.name={spec['model']}", f"model.dtype={spec['dtype']}", "model.device=cpu",
        "engine.kind=ray", f"engine.workers={WORKERS}", f"engine.chunk_rows={spec['chunk_rows']}",
        f"generation.max_new_tokens={spec['new_tokens']}", "panel.kind=bt70",
        "panel.reward=sentiment", "panel.beta=5", "subspace.kind=random", "subspace.kl_samples=32",
        f"optimizer.comparisons={comparisons}", f"optimizer.rows={rigs.PROMPTS_PER_SIDE}",
        f"run.votes={comparisons * (spec['steps'] + 1)}",
    ]  # fmt: skip
    parts = assemble.build(settings_file.load(sets=sets), say=lambda line: None)
    assert parts.base is not None
    host = parts.base.host
    seen: list[tuple[float, dict[str, float]]] = []

    def note(_: StepReport) -> None:
        seen.append((time.perf_counter(), rigs.copy_traffic(host).work_s))

    try:
        with (
            tempfile.TemporaryDirectory() as place,
            assemble.create(parts, Path(place) / "run.db") as ledger,
        ):
            driver.drive(ledger, parts, on_step=note)
    finally:
        parts.close()
    wall, work = [], []
    for (before, done), (after, more) in itertools.pairwise(seen):
        wall.append(after - before)
        work.append(max(more[name] - done.get(name, 0.0) for name in more))
    return {"wall": wall, "work": work}


# --- bytes ---------------------------------------------------------------------------------------


def report_bytes(
    study: Study, models: Sequence[str], rows: int, chunk_rows: int
) -> dict[str, Any]:
    """Bytes of a step as a + b·tokens + c·d, fitted to each model by itself."""
    specs = [
        {"part": "bytes", "model": model, "dtype": "fp32", "rows": rows, "chunk_rows": chunk_rows,
         "new_tokens": new_tokens, "dim": dim}
        for model in models
        for new_tokens, dim in ((4, 4), (4, 64), (12, 8), (24, 4), (24, 64))
    ]  # fmt: skip
    cells = study.cells(", ".join(models), specs, traffic.measure)
    study.table(
        f"bytes of a step of {rows} answers in chunks of {chunk_rows}, both directions",
        cells,
        {"model": "model", "new tokens": "new_tokens", "d": "dim", "tokens that cross": "tokens",
         "sent": "sent", "received": "received",
         "cost model": lambda row: f"{row['modelled'] / (row['sent'] + row['received']):.3f}"},
    )  # fmt: skip
    study.csv("bytes", cells)
    fits = {m: traffic.fit([cell for cell in cells if cell["model"] == m]) for m in models}
    for name, one in fits.items():
        study.console.print(
            f"{name}: bytes = {one['a']:.0f} + {one['b']:.3f}·tokens + {one['c']:.2f}·d, "
            f"at most {one['residual']:.0f} bytes off"
        )
    most = traffic.differ(list(fits.values()))
    if len(fits) > 1:
        study.console.print(
            f"largest difference of a, b, c between the models {most:.1%}: "
            f"{_verdict(most <= traffic.TOLERANCE)} (at most {traffic.TOLERANCE:.0%})"
        )
    return {"fits": fits, "difference": most, "rows": cells}


# --- other fleets --------------------------------------------------------------------------------


def report_plan(study: Study, fleet: Fleet, chunk_rows: int) -> dict[str, Any]:
    """Steps of a 70B model on a fleet, simulated: the queue is szpo's own, the workers are not."""
    rows = list(_simulate_fleets(fleet, chunk_rows))
    study.table(
        f"SIMULATED, not run: a 70B model, {fleet.tokens_per_second:g} tokens/s and "
        f"{fleet.price_per_hour:g} an hour a worker (assumed), 1 % of workers ten times slower",
        rows,
        {"workers": "workers", "answers": "answers", "new tokens": "new_tokens",
         "seconds a step": lambda row: f"{row['seconds']:.1f}",
         "× ideal": lambda row: f"{row['seconds'] / row['ideal']:.2f}",
         "formula, s": lambda row: f"{row['modelled']:.1f}",
         "MB a step": lambda row: f"{row['bytes'] / 1e6:.1f}",
         "price a step": lambda row: f"{row['price']:.3f}",
         "price, 1,000 answers": lambda row: f"{1000 * row['price'] / row['answers']:.3f}"},
    )  # fmt: skip
    study.csv("plan", rows)
    once = setup_bytes(5 * SEVENTY["inputs"], 5 * SEVENTY["outputs"], 8)
    study.console.print(f"set-up: {once / 1e6:.1f} MB to each worker, once (d = 8)")
    return {"rows": rows, "setup_bytes": once}


def _simulate_fleets(fleet: Fleet, chunk_rows: int) -> Iterator[dict[str, Any]]:
    for share in (0.01, 0.1, 1.0):
        count = max(1, round(share * fleet.workers))
        for new_tokens in (24, 256):
            some = Fleet(
                count, fleet.tokens_per_second, price_per_hour=fleet.price_per_hour
            )  # fmt: skip
            shape = StepShape(4 * chunk_rows * count, chunk_rows, 40, new_tokens, 8)
            found = stand_in.simulate(shape, some, Flaws())
            yield {"workers": count, "answers": shape.rows, "new_tokens": new_tokens, **found}


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"
