"""Summarises the records of a plan: rows, means over seeds, costs, paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo.seeds import derive, generator
from szpo.types import Floats
from szpo_simulators import cell_start
from szpo_simulators.cell_records import Store
from szpo_simulators.plan import BEST_OF, Comparison, Group, Plan, cell

DRAWS: Final = 10_000
Row = Mapping[str, Any]
"""A finished cell at a checkpoint."""
Rows = Mapping[str, Sequence[Row]]
"""Rows by label of the group."""


def read_rows(plan: Plan, store: Store) -> dict[str, list[dict[str, Any]]]:
    """One row per finished cell and checkpoint, by group, with all that identifies the cell."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in plan.groups:
        rows = found.setdefault(group.label, [])
        for seed in group.seeds:
            one = cell(plan, group, seed)
            record = store.read(one)
            if record is None:
                continue
            agreed = record.get("reward_model_agrees")
            named = {
                "cell": one.name, "part": group.part, "group": group.label,
                "method": group.method, "reward": group.reward, "panel": group.panel,
                "seed": seed, "setup": one.spec["setup"], "commit": record["commit"],
                "stopped": record["stopped"], "furthest": record.get("furthest"),
                "setup_seconds": record.get("setup", {}).get("cpu_seconds"),
                "agreement": None if agreed is None else float(np.mean(agreed)),
            }  # fmt: skip
            offset = cell_start.offset(one.spec, store.folder, plan.base_answers)
            for measured in record["rows"]:
                row = _count_from(offset, measured)
                first = (group.heldout or plan.heldout)[0]
                unseen = row.get("by_prompt", [])[max(0, plan.unseen - first) :]
                gain = float(np.mean(unseen)) if unseen else None
                rows.append({**named, **row, "gain_unseen": gain})
    return found


def _count_from(offset: Floats | None, row: Row) -> dict[str, Any]:
    """A row whose gain is measured against the base's many answers; see `start.offset`."""
    if offset is None or "by_prompt" not in row:
        return dict(row)
    mean = float(offset.mean())
    return {
        **row, "gain_few": row["gain"], "gain": row["gain"] + mean,
        "by_prompt": (np.array(row["by_prompt"]) + offset).tolist(),
        "interval": [end + mean for end in row["interval"]],
    }  # fmt: skip


def bootstrap(
    values: Sequence[float] | Floats, over: Sequence[float] | Floats | None = None
) -> dict[str, Any]:
    """Mean over seeds with its 95 % bootstrap interval; with ``over`` the ratio of two means.

    Whole seeds are resampled, so that ratios and differences stay paired; of values (seeds,
    prompts) the prompts too, alike for every seed. One seed has no interval. The upper end of a
    ratio may be ∞ if the mean of ``over`` may be 0 or less.

    >>> bootstrap([1.0, 1.0])["low"], bootstrap([2.0, 4.0], [1.0, 2.0])["mean"]
    (1.0, 2.0)
    >>> bootstrap([2.0, 4.0, 3.0], [0.1, -0.1, 0.2])["high"]
    inf
    >>> bootstrap(np.array([[0.0, 2.0], [0.0, 2.0]]))["low"]  # seeds agree, prompts differ
    0.0
    """
    x = np.asarray(values, float)
    y = np.ones_like(x) if over is None else np.asarray(over, float)
    found: dict[str, Any] = {"mean": float(x.mean() / y.mean()), "n": len(x)}
    if len(x) < 2:
        return {**found, "low": None, "high": None}
    random = generator(derive(0, "bootstrap"))
    if x.ndim == 2:
        seeds, prompts = (random.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in x.shape)
        above, below = (((seeds @ each) * prompts).sum(1) for each in (x, y))
    else:
        index = random.integers(len(x), size=(DRAWS, len(x)))
        above, below = x[index].mean(1), y[index].mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(below > 0, above / below, np.where(above > 0, np.inf, np.nan))
    # No interpolation between a number and ∞.
    method: Any = "linear" if np.isfinite(drawn).all() else "nearest"
    low, high = np.nanquantile(drawn, (0.025, 0.975), method=method)
    return {**found, "low": float(low), "high": float(high)}


def courses(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of a group by seed, in the order of their checkpoints."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["seed"], row["share"])):
        found.setdefault(row["seed"], []).append(row)
    return found


def checkpoint(rows: Sequence[Row], group: Group, votes: int) -> list[Any]:
    """The rows of a group at one of its checkpoints, by seed.

    Checkpoints are matched by their order, not by votes: a step may count fewer votes than it
    asked for, and a training may have fewer batches than planned.
    """
    number = list(group.checkpoints).index(votes)
    return [course[number] for course in courses(rows).values() if len(course) > number]


def guards_held(row: Row, n: int = 4) -> bool:
    """Whether the first n guards of a row hold; a missing guard does not hold."""
    found = [guard["ok"] for guard in row["guards"][:n]]
    return len(found) == n and all(found)


def summarise(plan: Plan, rows: Rows) -> list[dict[str, Any]]:
    """A line for each group and checkpoint that has a finished cell."""
    lines = []
    for group in plan.groups:
        if group.method == BEST_OF:
            lines += _summarise_best(group, rows[group.label])
            continue
        for votes in group.checkpoints:
            found = checkpoint(rows[group.label], group, votes)
            if found:
                lines.append(_summarise(group, votes, found))
    return lines


def _mean(found: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in found if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _summarise(group: Group, votes: int, found: Sequence[Row]) -> dict[str, Any]:
    margins = [row["guards"][3]["value"] for row in found if len(row["guards"]) > 3]
    gains = [row["gain"] for row in found]
    costs = ("votes", "answers_read", "tokens", "seconds", "cpu_seconds", "setup_seconds",
             "peak_bytes")  # fmt: skip
    return {
        "part": group.part, "group": group.label, "checkpoint": votes,
        "seeds": len(found), "of": len(group.seeds),
        **bootstrap(gains if any("by_prompt" not in row for row in found) else
                    np.array([row["by_prompt"] for row in found])),
        "lowest": min(gains),
        "few": float(np.mean([row.get("gain_few", row["gain"]) for row in found])),
        "unseen": _mean(found, "gain_unseen"),
        **{name: _mean(found, name) for name in
           ("kl", "logprob", "win_rate", "length", "distinct2", "agreement", *costs)},
        "kl_most": max(row["kl"] for row in found),
        "first_three": sum(guards_held(row, 3) for row in found),
        "all_four": sum(guards_held(row) for row in found),
        "topic": float(np.mean(margins)) if margins else None,
        "furthest": [row["furthest"] for row in found],
    }  # fmt: skip


def _summarise_best(group: Group, rows: Sequence[Row]) -> list[dict[str, Any]]:
    lines = []
    for by, votes, n in dict.fromkeys((row["by"], row["votes"], row["n"]) for row in rows):
        found = [row for row in rows if (row["by"], row["votes"], row["n"]) == (by, votes, n)]
        lines.append(
            {"part": group.part, "group": f"best of {n} by {by}", "checkpoint": votes,
             "seeds": len(found), "of": len(group.seeds),
             **bootstrap([row["gain"] for row in found]), "kl": found[0]["kl"],
             "answers_read": float(np.mean([row["answers_read"] for row in found]))}
        )  # fmt: skip
    return lines


def last_lines(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each group's line at its last checkpoint, but those of best-of-n."""
    last = {line["group"]: line for line in lines}
    return [last[group.label] for group in plan.groups if group.label in last]


def compare_pairs(plan: Plan, rows: Rows) -> list[dict[str, Any]]:
    """The plan's comparisons, paired over the seeds that both groups have finished.

    Intervals resample seeds and, where both groups have the same prompts, prompts. A seed whose
    run never reaches the KL of a comparison is left out, so ``seeds`` may be less than ``of``.
    """
    lines = []
    for asked in plan.comparisons:
        ours = _values(plan, rows, asked.ours, asked, asked.votes)
        theirs = _values(plan, rows, asked.theirs, asked, asked.theirs_votes or asked.votes)
        shared = sorted(set(ours) & set(theirs))
        if not shared:
            continue
        x, y = (np.array([each[seed] for seed in shared]) for each in (ours, theirs))
        if x.shape != y.shape:
            x, y = (each.reshape(len(shared), -1).mean(1) for each in (x, y))
        where = f"at {asked.votes} votes" if asked.kl is None else f"at {asked.kl:g} nats"
        wanted = min(len(plan.group(label).seeds) for label in (asked.ours, asked.theirs))
        lines.append(
            {"ours": asked.ours, "theirs": asked.theirs, "where": where, "seeds": len(shared),
             "of": wanted, "mean_ours": float(x.mean()), "mean_theirs": float(y.mean()),
             "difference": bootstrap(x - y), "ratio": bootstrap(x, y)}
        )  # fmt: skip
    return lines


def _values(
    plan: Plan, rows: Rows, label: str, asked: Comparison, votes: int | None
) -> dict[int, Any]:
    """The gains on each prompt by seed, at ``votes`` or, if None, at the comparison's KL."""
    group = plan.group(label)
    name = "by_prompt" if all("by_prompt" in row for row in rows[label]) else "gain"
    if votes is not None:
        return {row["seed"]: row[name] for row in checkpoint(rows[label], group, votes)}
    found = {}
    for seed, course in courses(rows[label]).items():
        gain = None if asked.kl is None else gain_at_kl(course, asked.kl, name)
        if gain is not None:
            found[seed] = gain
    return found


def gain_at_kl(rows: Sequence[Row], kl: float, name: str = "gain") -> Any:
    """A run's gain where its KL first reaches a value; None if it never does.

    The gain is interpolated linearly between checkpoints, beginning at (0 nats, gain 0).

    >>> rows = [{"share": 0.5, "kl": 2.0, "gain": 0.2}, {"share": 1.0, "kl": 4.0, "gain": 0.3}]
    >>> gain_at_kl(rows, 1.0), gain_at_kl(rows, 3.0), gain_at_kl(rows, 5.0)
    (0.1, 0.25, None)
    """
    before: Row = {"kl": 0.0, name: 0.0}
    for row in sorted(rows, key=lambda row: row["share"]):
        if row["kl"] >= kl:
            share = (kl - before["kl"]) / (row["kl"] - before["kl"])
            here = (1 - share) * np.asarray(before[name], float) + share * np.asarray(row[name])
            return here if here.ndim else float(here)
        before = row
    return None
