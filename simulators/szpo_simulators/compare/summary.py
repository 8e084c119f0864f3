"""Summarises the records of cells: gains with intervals, costs, differences between methods."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np

from szpo_simulators.compare.presets import LADDER
from szpo_simulators.study import interval

TARGET: Final = 0.15
"""Gain in true reward up to which votes and answers read are reported."""
MethodKey: TypeAlias = tuple[str, str]
"""(method, ask)"""
Records: TypeAlias = Mapping[MethodKey, Sequence[Mapping[str, Any]]]
"""The records of each method's finished cells, by seed."""
VOTING_COSTS: Final = ("votes", "answers_read")
COSTS: Final = ("votes", "answers_read", "tokens", "seconds", "cpu_seconds", "peak_bytes")


def summarise(records: Records, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per (method, ask) that has a finished cell."""
    return [
        _summarise_method(key, cells, titles[key[0]]) for key, cells in records.items() if cells
    ]


def _summarise_method(
    key: MethodKey, cells: Sequence[Mapping[str, Any]], title: str
) -> dict[str, Any]:
    ended = [cell for cell in cells if not cell["stopped"]]
    lasts = [cell["course"][-1] for cell in ended]
    row: dict[str, Any] = {
        "method": key[0],
        "ask": key[1],
        "title": title,
        "seeds": [cell["asked"]["seed"] for cell in ended],
        "gains": [last["gain"] for last in lasts],
        "stopped": [
            {"seed": cell["asked"]["seed"], "votes": cell["course"][-1]["votes"],
             "why": cell["stopped"]}
            for cell in cells if cell["stopped"]
        ],
    }  # fmt: skip
    if not ended:
        return row
    row |= interval(row["gains"])
    row["reward"] = float(np.mean([last["reward"] for last in lasts]))
    row |= {name: float(np.mean([last[name] for last in lasts])) for name in COSTS}
    row["added_bytes"] = float(
        np.mean([cell["bytes"]["peak"] - cell["bytes"]["before"] for cell in ended])
    )
    if all("reward_model_agrees" in cell for cell in ended):
        row["agreement"] = float(np.mean([cell["reward_model_agrees"] for cell in ended]))
    for name in ("win_rate", "kl", "length", "logprob", "distinct2"):
        row[name] = float(np.mean([last[name] for last in lasts]))
    if all(last["margin"] is not None for last in lasts):
        row["margin"] = float(np.mean([last["margin"] for last in lasts]))
    row["guards_held"] = sum(all(guard["ok"] for guard in last["guards"]) for last in lasts)
    for by in VOTING_COSTS:
        found = [
            None if cell["stopped"] else find_where(rows_by_cost(cell, by), "gain", TARGET, by)
            for cell in cells
        ]
        row[f"{by}_to_target"] = found
        row[f"median_{by}_to_target"] = median_reached(found)
    runs = [cell["course"] for cell in ended]
    row["optimised"] = find_over_optimisation(runs) if follows_one(ended) else None
    return row


def median_reached(found: Sequence[float | None]) -> float | None:
    """The upper median; None if half or more did not reach the target.

    >>> median_reached([40.0, None, 60.0]), median_reached([40.0, None])
    (60.0, None)
    """
    values = sorted(float("inf") if value is None else value for value in found)
    value = statistics.median_high(values)
    return None if value == float("inf") else value


def find_where(
    rows: Sequence[Mapping[str, Any]], name: str, level: float, wanted: str
) -> float | None:
    """The value of ``wanted`` where ``name`` first reaches ``level``; None if it never does.

    Both are interpolated linearly between two checkpoints.

    >>> rows = [{"votes": 0, "gain": 0.0}, {"votes": 40, "gain": 0.1}, {"votes": 80, "gain": 0.3}]
    >>> find_where(rows, "gain", 0.2, "votes"), find_where(rows, "gain", 0.5, "votes")
    (60.0, None)
    """
    for i, row in enumerate(rows):
        if row[name] >= level:
            if i == 0:
                return float(row[wanted])
            before = rows[i - 1]
            share = (level - before[name]) / (row[name] - before[name])
            return float(before[wanted] + share * (row[wanted] - before[wanted]))
    return None


def rows_by_cost(cell: Mapping[str, Any], by: str) -> Sequence[Mapping[str, Any]]:
    """The checkpoints of a cell for a curve over a cost.

    szpo updates after every few votes. A method that first asks and then trains does not move
    while it asks, so over votes and answers read its gain is a staircase.

    >>> rows = [{"votes": 40, "gain": 0.1}, {"votes": 80, "gain": 0.3}]
    >>> cell = {"asked": {"method": "dpo"}, "course": rows}
    >>> [row["gain"] for row in rows_by_cost(cell, "votes")]
    [0.1, 0.1, 0.3]
    """
    rows: Sequence[Mapping[str, Any]] = cell["course"]
    if by not in VOTING_COSTS or cell["asked"]["method"] in LADDER:
        return rows
    stands = [
        {**before, **{name: after[name] for name in VOTING_COSTS if name in after}}
        for before, after in pairwise(rows)
    ]
    return [rows[0], *(row for two in zip(stands, rows[1:], strict=True) for row in two)]


def follows_one(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each run uses one reward model; rewards of different models are not comparable."""
    return all(cell["asked"].get("settings", {}).get("rounds", 1) == 1 for cell in cells)


def find_over_optimisation(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Changes of the true and the learned reward after the checkpoint with the best mean gain.

    These are differences from that checkpoint to the end, paired by seed, with 95 % intervals.
    Selecting the maximum overstates a fall a little. Over-optimisation is ``seen`` if the interval
    of the true reward lies below 0 and that of the learned reward above 0.
    """
    trained = [[row for row in run if row["proxy"] is not None] for run in runs]
    if not trained or min(map(len, trained)) < 2 or len(set(map(len, trained))) != 1:
        return None
    true = np.array([[row["gain"] for row in run] for run in trained])
    learned = np.array([[row["proxy"] for row in run] for run in trained])
    best = int(true.mean(0).argmax())
    if best == true.shape[1] - 1:
        return {"at": trained[0][best]["share"], "seen": False}
    falls, rises = (interval((of[:, -1] - of[:, best]).tolist()) for of in (true, learned))
    return {
        "at": trained[0][best]["share"],
        "best": float(true.mean(0)[best]),
        "end": float(true.mean(0)[-1]),
        "true": [falls[name] for name in ("mean", "low", "high")],
        "learned": [rises[name] for name in ("mean", "low", "high")],
        "seen": bool(falls["high"] < 0 < rises["low"]),
    }


def differences(
    rows: Sequence[Mapping[str, Any]], ours: MethodKey = ("szpo", "batch")
) -> list[dict[str, Any]]:
    """Final gain of every other (method, ask) minus ours, over the seeds that both finished."""
    at = {(row["method"], row["ask"]): dict(zip(row["seeds"], row["gains"], strict=True))
          for row in rows}  # fmt: skip
    if ours not in at:
        return []
    found = []
    for key, gains in at.items():
        shared = sorted(set(gains) & set(at[ours]))
        if key == ours or len(shared) < 2:
            continue
        found.append(
            {"method": key[0], "ask": key[1], **interval([gains[s] - at[ours][s] for s in shared])}
        )
    return found


def mean_curve(cells: Sequence[Mapping[str, Any]], by: str, value: str = "gain") -> dict[str, Any]:
    """Means over cells that did not stop, by checkpoint: cost x, and rows of value intervals."""
    runs = [rows_by_cost(cell, by) for cell in cells if not cell["stopped"]]
    length = min(map(len, runs), default=0)
    return {
        "x": [float(np.mean([rows[i][by] for rows in runs])) for i in range(length)],
        "rows": [interval([rows[i][value] for rows in runs]) for i in range(length)],
    }
