"""`szpo bench scale`: do workers of Ray cost more than their work?

Two workers of Ray and two bare processes answer the same request in turns, one thread each.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from szpo.errors import UsageError
from szpo_simulators.bench.scale import rigs
from szpo_simulators.bench.scale.rigs import Task
from szpo_simulators.study import Study, format_interval, interval

WORKERS: Final = 2
AT_LEAST: Final = 0.95
"""Of the bare pair's tokens a second."""


def main(
    model: str = "smollm2",
    dtype: str = "bf16",
    pairs: int = 10,
    rows: int = 128,
    new_tokens: int = 24,
    chunk_rows: int = 32,
    quick: bool = False,
    folder: Path = Path("runs/bench-scale"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Tokens a second of two workers by Ray over those of two bare processes.

    Args:
        model: smollm2 or tiny.
        dtype: Of the base weights: fp32 or bf16.
        pairs: Pairs of a bare measurement and one by Ray, the first of them in turns.
        rows: Answers of a step, a multiple of 16.
        new_tokens: Tokens of an answer, at most.
        chunk_rows: Rows that a worker answers at a time.
        quick: The tiny model and small numbers, under a minute or two.
        folder: Where finished cells and tables go.
        figures: Not used; there is no figure.
    """
    if rows < 16 or rows % 16 or pairs < 2:
        raise UsageError("bench scale: --rows is a multiple of 16, --pairs at least 2")
    if quick:
        model, dtype, pairs, rows, chunk_rows = "tiny", "fp32", 2, 32, 8
    task = Task(model, dtype, rows, new_tokens, chunk_rows)
    study = Study("scale", folder, quick, figures)
    found = measure_ratio(study, task, pairs)
    if quick:
        study.console.print("--quick: too few turns and too small a model for figures")
    study.end()
    return found


def measure_ratio(study: Study, task: Task, pairs: int) -> dict[str, Any]:
    """The ratio by pair with its interval, and both against one bare process."""
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


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"
