"""Summarises the records of a frontier: rows, means over seeds, targets, paired comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo.seeds import derive, generator
from szpo.types import Floats
from szpo_simulators.compare import frontier_base as base
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.compare.frontier_plan import (
    BEST_OF,
    Comparison,
    Frontier,
    Group,
    Target,
    cell,
)
from szpo_simulators.compare.summary import find_where

DRAWS: Final = 10_000
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by label of the group; each row is a finished cell at a checkpoint."""


def read_rows(plan: Frontier, store: CellStore) -> dict[str, list[dict[str, Any]]]:
    """One row per finished cell and checkpoint, by group, with all that identifies the cell."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in plan.groups:
        rows = found.setdefault(group.label, [])
        for seed in group.seeds:
            one = cell(plan, group, seed)
            record = store.read(one)
            if record is None:
                continue
            named = {
                "cell": one.name, "part": group.part, "group": group.label,
                "method": group.method, "reward": group.reward, "panel": group.panel,
                "seed": seed, "setup": one.spec["setup"],
                "settings": one.spec["settings_hash"], "commit": record["commit"],
                "stopped": record.get("stopped"), "furthest": record.get("furthest"),
            }  # fmt: skip
            offset = base.offset(one.spec, store.folder, plan.base_answers)
            for measured in record["rows"]:
                row = _count_from(offset, measured)
                first = (group.heldout or plan.heldout)[0]
                unseen = row.get("by_prompt", [])[max(0, plan.unseen - first) :]
                gain = float(np.mean(unseen)) if unseen else None
                rows.append({**named, **row, "gain_unseen": gain})
    return found


def _count_from(offset: Floats | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose gain is measured against the base's many answers; see `frontier_base.offset`.

    ``gain_few`` is the gain as recorded. Rows of best-of-n stay: they compare with their own pool.
    """
    if offset is None or "by_prompt" not in row:
        return dict(row)
    mean = float(offset.mean())
    return {
        **row, "gain_few": row["gain"], "gain": row["gain"] + mean,
        "by_prompt": (np.array(row["by_prompt"]) + offset).tolist(),
        "interval": [end + mean for end in row["interval"]],
    }  # fmt: skip


def bootstrap(
    values: Sequence[float] | Floats, over: Sequence[float] | None = None
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
        above, below = ((seeds @ x) * prompts).sum(1), np.ones(DRAWS)
    else:
        index = random.integers(len(x), size=(DRAWS, len(x)))
        above, below = x[index].mean(1), y[index].mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(below > 0, above / below, np.where(above > 0, np.inf, np.nan))
    # No interpolation between a number and ∞.
    method: Any = "linear" if np.isfinite(drawn).all() else "nearest"
    low, high = np.nanquantile(drawn, (0.025, 0.975), method=method)
    return {**found, "low": float(low), "high": float(high)}


def checkpoint(rows: Sequence[Mapping[str, Any]], group: Group, votes: int) -> list[Any]:
    """The rows of a group at one of its checkpoints, by seed.

    Checkpoints are matched by their order, not by votes: a step may count fewer votes than it
    asked for, and a training may have fewer batches than planned.
    """
    number = checkpoints_of(group).index(votes)
    each: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["share"]):
        each.setdefault(row["seed"], []).append(row)
    return [each[seed][number] for seed in sorted(each) if len(each[seed]) > number]


def guards_held(row: Mapping[str, Any], n: int = 4) -> bool:
    """Whether the first n guards of a row hold; a missing guard does not hold."""
    found = [guard["ok"] for guard in row["guards"][:n]]
    return len(found) == n and all(found)


def checkpoints_of(group: Group) -> Sequence[int]:
    """Numbers of batch votes at which a group is measured."""
    if group.at:
        return group.at
    return [round(group.votes * (i + 1) / group.points) for i in range(group.points)]


def summarise(plan: Frontier, rows: Rows) -> list[dict[str, Any]]:
    """A line for each group and checkpoint that has a finished cell."""
    lines = []
    for group in plan.groups:
        if group.method == BEST_OF:
            lines += _summarise_best(group, rows[group.label])
            continue
        for votes in checkpoints_of(group):
            found = checkpoint(rows[group.label], group, votes)
            if found:
                lines.append(_summarise(group, votes, found))
    return lines


def _summarise(group: Group, votes: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    margins = [row["guards"][3]["value"] for row in found if len(row["guards"]) > 3]
    seconds = [row["cpu_seconds"] for row in found if row["cpu_seconds"] is not None]
    gains = [row["gain"] for row in found]
    unseen = [row["gain_unseen"] for row in found if row["gain_unseen"] is not None]
    return {
        "part": group.part, "group": group.label, "checkpoint": votes,
        "seeds": len(found), "of": len(group.seeds),
        **bootstrap(gains if any("by_prompt" not in row for row in found) else
                    np.array([row["by_prompt"] for row in found])),
        "lowest": min(gains),
        "few": float(np.mean([row.get("gain_few", row["gain"]) for row in found])),
        "unseen": float(np.mean(unseen)) if unseen else None,
        **{name: float(np.mean([row[name] for row in found]))
           for name in ("votes", "answers_read", "kl", "logprob")},
        "kl_most": max(row["kl"] for row in found),
        "first_three": sum(guards_held(row, 3) for row in found),
        "all_four": sum(guards_held(row) for row in found),
        "topic": float(np.mean(margins)) if margins else None,
        "cpu_seconds": float(np.mean(seconds)) if seconds else None,
        "furthest": [row["furthest"] for row in found],
    }  # fmt: skip


def _summarise_best(group: Group, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def format_verdict(met: bool | None) -> str:
    """A verdict in words; None: cells are missing."""
    return "open" if met is None else "met" if met else "missed"


def judge_targets(plan: Frontier, rows: Rows) -> list[dict[str, str]]:
    """A table of the plan's targets on the finished seeds; the last column is the verdict."""
    return [
        {
            "group": f"{group.label} at {target.votes}", "what": what, "asked": asked,
            "found": f"{value} ({len(found)} seeds)",
            "": format_verdict(met if len(found) == len(group.seeds) else None),
        }
        for group in plan.groups
        for target in group.targets
        if (found := _reached(rows[group.label], group, target))
        for what, asked, value, met in _judge(target, found, len(group.seeds))
    ]  # fmt: skip


def _reached(rows: Sequence[Mapping[str, Any]], group: Group, target: Target) -> list[Any]:
    """The rows of a target's checkpoint; one beyond ``up_to`` with the gain and KL there."""
    found = checkpoint(rows, group, target.votes)
    if target.up_to is None:
        return found
    for i, row in enumerate(found):
        course = [r for r in rows if r["seed"] == row["seed"] and r["share"] <= row["share"]]
        gain = gain_at_kl(course, target.up_to)
        if gain is not None:
            found[i] = {**row, "gain": gain, "kl": target.up_to}
    return found


def _judge(
    target: Target, found: Sequence[Mapping[str, Any]], of: int
) -> Iterator[tuple[str, str, str, bool]]:
    """For each bound of a target: name, bound, value found, whether the bound holds."""
    gains, kls = [row["gain"] for row in found], [row["kl"] for row in found]
    if target.gain is not None:
        mean = float(np.mean(gains))
        aim = "" if target.aim is None else f", aim {target.aim:+.2f}"
        yield "mean gain", f"at least {target.gain:+.2f}{aim}", f"{mean:+.3f}", mean >= target.gain
    if target.kl is not None:
        mean = float(np.mean(kls))
        yield "mean KL", f"at most {target.kl:g}", f"{mean:.2f}", mean <= target.kl
    if target.kl_each is not None:
        most = max(kls)
        yield "largest KL", f"at most {target.kl_each:g}", f"{most:.2f}", most <= target.kl_each
    if target.lowest is not None:
        low = min(gains)
        yield "lowest gain", f"at least {target.lowest:g}", f"{low:+.3f}", low >= target.lowest
    if target.guards is not None:
        first, least = target.guards
        held = sum(guards_held(row, first) for row in found)
        yield f"first {first} guards hold", f"on {least} of {of}", str(held), held >= least
    if target.furthest is not None:
        nats, seeds = target.furthest
        off = sum((row["furthest"] or 0.0) > nats for row in found)
        yield f"ever beyond {nats:g} nats", f"on at most {seeds} of {of}", str(off), off <= seeds


def judge_comparisons(plan: Frontier, rows: Rows) -> list[dict[str, Any]]:
    """The plan's comparisons, paired over the seeds that both groups have finished.

    A seed whose run never reaches the KL of a comparison is left out, so ``seeds`` may be less
    than ``of``.
    """
    lines = []
    for asked in plan.comparisons:
        ours = _values(plan, rows, asked.ours, asked, asked.votes)
        theirs = _values(plan, rows, asked.theirs, asked, asked.theirs_votes or asked.votes)
        shared = sorted(set(ours) & set(theirs))
        if not shared:
            continue
        x, y = [ours[seed] for seed in shared], [theirs[seed] for seed in shared]
        where = f"at {asked.votes} votes" if asked.kl is None else f"at {asked.kl:g} nats"
        ratio = bootstrap(x, y)
        labels = (asked.ours, asked.theirs)
        wanted = min(len(plan.group(label).seeds) for label in labels)
        done = set.intersection(*({row["seed"] for row in rows[label]} for label in labels))
        difference = bootstrap([a - b for a, b in zip(x, y, strict=True)])
        if asked.ratio is None:
            met = difference["high"] is None or difference["high"] >= 0
        else:
            met = ratio["mean"] >= asked.ratio or ratio["mean"] < 0 < difference["mean"]
        lines.append(
            {"ours": asked.ours, "theirs": asked.theirs, "where": where, "seeds": len(shared),
             "of": wanted, "mean_ours": float(np.mean(x)), "mean_theirs": float(np.mean(y)),
             "difference": difference, "ratio": ratio, "asked": asked.ratio,
             "met": met if len(done) >= wanted else None}
        )  # fmt: skip
    return lines


def _values(
    plan: Frontier, rows: Rows, label: str, asked: Comparison, votes: int | None
) -> dict[int, float]:
    """The gain by seed, at ``votes`` or, if None, at the comparison's KL."""
    group = plan.group(label)
    if votes is not None:
        return {row["seed"]: row["gain"] for row in checkpoint(rows[label], group, votes)}
    found = {}
    for seed in group.seeds:
        mine = [row for row in rows[label] if row["seed"] == seed]
        gain = None if asked.kl is None else gain_at_kl(mine, asked.kl)
        if gain is not None:
            found[seed] = gain
    return found


def gain_at_kl(rows: Sequence[Mapping[str, Any]], kl: float) -> float | None:
    """A run's gain where its KL first reaches a value; None if it never does.

    The gain is interpolated linearly between checkpoints, beginning at (0 nats, gain 0).

    >>> rows = [{"share": 0.5, "kl": 2.0, "gain": 0.2}, {"share": 1.0, "kl": 4.0, "gain": 0.3}]
    >>> gain_at_kl(rows, 1.0), gain_at_kl(rows, 3.0), gain_at_kl(rows, 5.0)
    (0.1, 0.25, None)
    """
    course = sorted(rows, key=lambda row: row["share"])
    return find_where([{"kl": 0.0, "gain": 0.0}, *course], "kl", kl, "gain")
