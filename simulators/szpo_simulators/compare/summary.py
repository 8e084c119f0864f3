"""From the records of cells to rows: gains with intervals, what they cost, who was ahead."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np

from szpo_simulators.rewards.heldout import student
from szpo_simulators.study import interval

TARGET: Final = 0.15
"""Gain in true reward at which votes and answers read are told."""
ArmKey: TypeAlias = tuple[str, str]
"""(method, ask)"""
Records: TypeAlias = Mapping[ArmKey, Sequence[Mapping[str, Any]]]
"""The finished cells of each arm, by seed."""
STEADY: Final = ("szpo",)
"""Methods whose policy moves with every few votes; all others ask first and then train."""
ASKED: Final = ("votes", "answers_read")
COSTS: Final = ("votes", "answers_read", "tokens", "seconds", "cpu_seconds", "peak_bytes")


def summary(records: Records, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per arm that has a finished cell."""
    return [_row(key, cells, titles[key[0]]) for key, cells in records.items() if cells]


def _row(key: ArmKey, cells: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
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
    if all("win_rate" in last for last in lasts):
        row["win_rate"] = float(np.mean([last["win_rate"] for last in lasts]))
    if all("reward_model_agrees" in cell for cell in ended):
        row["agreement"] = float(np.mean([cell["reward_model_agrees"] for cell in ended]))
    for name in ("kl", "length", "logprob", "distinct2"):
        row[name] = float(np.mean([last[name] for last in lasts]))
    row["guards_held"] = sum(all(guard["ok"] for guard in last["guards"]) for last in lasts)
    for by in ASKED:
        found = [None if cell["stopped"] else reaching(way(cell, by), TARGET, by)
                 for cell in cells]  # fmt: skip
        row[f"{by}_to_target"] = found
        row[f"median_{by}_to_target"] = middle(found)
    courses = [cell["course"] for cell in ended]
    row["optimised"] = over_optimised(courses) if follows_one(ended) else None
    return row


def middle(found: Sequence[float | None]) -> float | None:
    """The median, of an even number the upper one; None where half or more did not get there.

    >>> middle([40.0, None, 60.0]), middle([40.0, None])
    (60.0, None)
    """
    values = sorted(float("inf") if value is None else value for value in found)
    value = statistics.median_high(values)
    return None if value == float("inf") else value


def reaching(rows: Sequence[Mapping[str, Any]], gain: float, by: str) -> float | None:
    """Where a course first gains so much, by votes, answers read or another cost; None: nowhere.

    Between two points the gain is taken as a straight line.

    >>> way = [{"votes": 0, "gain": 0.0}, {"votes": 40, "gain": 0.1}, {"votes": 80, "gain": 0.3}]
    >>> reaching(way, 0.2, "votes"), reaching(way, 0.5, "votes")
    (60.0, None)
    """
    for i, row in enumerate(rows):
        if row["gain"] >= gain:
            if i == 0:
                return float(row[by])
            before = rows[i - 1]
            share = (gain - before["gain"]) / (row["gain"] - before["gain"])
            return float(before[by] + share * (row[by] - before[by]))
    return None


def way(cell: Mapping[str, Any], by: str) -> Sequence[Mapping[str, Any]]:
    """The course of a cell along a cost: by votes and reading as stairs, where one asks first.

    While votes are asked for, the policy stands where it stood.

    >>> rows = [{"votes": 40, "gain": 0.1}, {"votes": 80, "gain": 0.3}]
    >>> [row["gain"] for row in way({"asked": {"method": "dpo"}, "course": rows}, "votes")]
    [0.1, 0.1, 0.3]
    """
    rows: Sequence[Mapping[str, Any]] = cell["course"]
    if by not in ASKED or cell["asked"]["method"] in STEADY:
        return rows
    stands = [
        {**before, **{name: after[name] for name in ASKED if name in after}}
        for before, after in pairwise(rows)
    ]
    return [rows[0], *(row for two in zip(stands, rows[1:], strict=True) for row in two)]


def follows_one(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each course follows one reward model: rewards of two have no common level."""
    return all(cell["asked"].get("settings", {}).get("rounds", 1) == 1 for cell in cells)


def over_optimised(courses: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Where the mean true gain is highest while a learned reward was followed, and what came then.

    Differences from that point to the end, paired by seed, with 95 % intervals. The point is
    chosen by looking, so a fall is overstated a little; it is ``seen`` where the interval of the
    true reward lies below 0 and that of the learned one above.
    """
    ways = [[row for row in course if row["proxy"] is not None] for course in courses]
    if not ways or min(map(len, ways)) < 2 or len(set(map(len, ways))) != 1:
        return None
    true = np.array([[row["gain"] for row in way] for way in ways])
    learned = np.array([[row["proxy"] for row in way] for way in ways])
    best = int(true.mean(0).argmax())
    if best == true.shape[1] - 1:
        return {"at": ways[0][best]["share"], "seen": False}
    falls = student((true[:, -1] - true[:, best]).tolist())
    rises = student((learned[:, -1] - learned[:, best]).tolist())
    return {
        "at": ways[0][best]["share"],
        "best": float(true.mean(0)[best]),
        "end": float(true.mean(0)[-1]),
        "true": list(falls),
        "learned": list(rises),
        "seen": bool(falls[2] < 0 < rises[1]),
    }


def differences(
    rows: Sequence[Mapping[str, Any]], ours: ArmKey = ("szpo", "batch")
) -> list[dict[str, Any]]:
    """Final gain of each other arm less that of ours, over the seeds that both finished."""
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


def curve(cells: Sequence[Mapping[str, Any]], by: str, value: str = "gain") -> dict[str, Any]:
    """Mean way of an arm's finished cells: x (mean cost at each point) and rows with intervals."""
    ways = [way(cell, by) for cell in cells if not cell["stopped"]]
    length = min(map(len, ways), default=0)
    return {
        "x": [float(np.mean([rows[i][by] for rows in ways])) for i in range(length)],
        "rows": [interval([rows[i][value] for rows in ways]) for i in range(length)],
    }
