"""Bytes of a step in both directions, as a + b·tokens + c·d, fitted to each model by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from szpo.cluster.worker import Worker
from szpo.policies.row_request import message_bytes
from szpo_simulators.bench.scale import cost_model, rigs
from szpo_simulators.bench.scale.rigs import Task

TOLERANCE = 0.1


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Send a step's chunks to a worker in this process, and count what would cross.

    Returns ``sent`` and ``received`` bytes, and ``tokens``: those of the prompts that are sent,
    and the answers', each as long as the longest of its chunk.
    """
    task = Task(
        spec["model"], spec["dtype"], spec["rows"], spec["new_tokens"], spec["chunk_rows"],
        spec["dim"],
    )  # fmt: skip
    rig = rigs.make_rig(task)
    worker = Worker(rig.setup)
    messages = rigs.make_messages(rig, rig.make_request(1))
    replies = [{**worker.answer(message), "seconds": np.array(0.0)} for message in messages]
    prompt_tokens = sum(int(message["prompts"].size) for message in messages)
    places = sum(int(reply["tokens"].size) for reply in replies)
    shape = cost_model.StepShape(
        task.rows, task.chunk_rows, 2 * prompt_tokens / task.rows, round(places / task.rows),
        task.dim,
    )  # fmt: skip
    return {
        "sent": sum(map(message_bytes, messages)),
        "received": sum(map(message_bytes, replies)),
        "tokens": prompt_tokens + places,
        "modelled": cost_model.step_bytes(shape),
    }


def fit(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Least squares of bytes = a + b·tokens + c·d, with the largest residual in bytes.

    >>> found = fit([{"sent": 2 * t + 3 * d, "received": 9, "tokens": t, "dim": d}
    ...              for t, d in ((1, 1), (5, 2), (9, 8), (4, 4))])
    >>> [round(found[name], 6) for name in "abc"]
    [9.0, 2.0, 3.0]
    """
    table = np.array([[1.0, row["tokens"], row["dim"]] for row in rows])
    seen = np.array([float(row["sent"] + row["received"]) for row in rows])
    found, *_ = np.linalg.lstsq(table, seen, rcond=None)
    a, b, c = map(float, found)
    return {"a": a, "b": b, "c": c, "residual": float(np.abs(table @ found - seen).max())}


def differ(fits: Sequence[Mapping[str, float]]) -> float:
    """The largest relative difference of a, b or c between models.

    >>> differ([{"a": 100.0, "b": 4.0, "c": 8.0}, {"a": 95.0, "b": 4.0, "c": 8.0}])
    0.05
    """
    values = [[one[name] for one in fits] for name in "abc"]
    return max((max(v) - min(v)) / max(v) for v in values)
