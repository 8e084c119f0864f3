"""The plan of a frontier: frozen settings from a TOML file, and the cells made from them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from szpo.errors import UsageError
from szpo_simulators.compare.cell_store import Cell
from szpo_simulators.study import hash_spec

VERSION: Final = 1
"""Raise this number when cells do or measure something else: older records are then ignored."""
RULES: Final = ("regression", "known", "sign")
"""Methods that are runs of szpo under the rule of that name."""
BEST_OF: Final = "best-of-n"
RIVALS: Final = ("iterative-dpo", "dpo", "rm+ppo")
"""Gradient methods, whose votes are on single pairs."""


@dataclass(frozen=True)
class Target:
    """Bounds on a group's figures at a number of votes; None: no bound."""

    votes: int
    gain: float | None = None
    """Least mean gain."""
    aim: float | None = None
    kl: float | None = None
    """Largest mean KL, nats."""
    kl_each: float | None = None
    """Bound on the largest KL of any seed, nats."""
    lowest: float | None = None
    """Bound on the lowest gain of any seed."""
    guards: Sequence[int] | None = None
    """(n, seeds): the first n guards hold on at least this number of seeds."""
    furthest: Sequence[float] | None = None
    """(nats, seeds): at most this number of seeds ever exceed this KL."""
    up_to: float | None = None
    """A seed that has passed this KL by then counts with its gain there."""


@dataclass(frozen=True)
class Group:
    """One method on one reward and panel, over seeds."""

    part: str
    """Letter of the part of the plan, by which ``--only`` selects groups."""
    name: str
    method: str
    seeds: tuple[int, ...]
    votes: int
    """Batch votes; a rival gets D pair votes for each."""
    at: Sequence[int] = ()
    """Numbers of votes at which a run of szpo is measured."""
    reward: str = "sentiment"
    panel: str = "bt70"
    setups: int | None = None
    """Number of set-ups that the seeds share; None: the plan's; 0: all use the shipped one."""
    heldout: Sequence[int] | None = None
    """Held-out prompts (from, to) that measure; None: the plan's. Trials use others."""
    sets: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a gradient method; ``n`` and ``pool`` of best-of-n."""
    points: int = 4
    """Checkpoints of a gradient method, at even shares of its votes."""
    of: str | None = None
    """The group whose runs give best-of-n its fitted directions."""
    seconds: float = 0.0
    """Expected processor seconds of a cell."""
    targets: Sequence[Target] = ()

    @property
    def label(self) -> str:
        """Readable name, unique in a plan."""
        return f"{self.name}-{self.method}"


@dataclass(frozen=True)
class Comparison:
    """Two groups whose gains are compared, paired by seed."""

    ours: str
    theirs: str
    votes: int | None = None
    """Votes of our checkpoint, and of theirs without ``theirs_votes``; None: at equal KL."""
    theirs_votes: int | None = None
    """Votes of their checkpoint; None: ``votes``."""
    kl: float | None = None
    """KL in nats at which each seed's gain is interpolated; None: at equal votes."""
    ratio: float | None = None
    """Least ratio of the mean gains, ours over theirs; None: ours must be ahead or level."""

    def __post_init__(self) -> None:
        """Require either ``votes`` or ``kl``, not both."""
        if (self.votes is None) == (self.kl is None):
            raise ValueError(f"{self.ours} with {self.theirs}: give votes or kl")


@dataclass(frozen=True)
class Frontier:
    """Everything that is frozen before the first cell runs."""

    run: str
    """Preset of the runs."""
    sets: Sequence[str]
    rules: Mapping[str, Sequence[str]]
    """Settings of each rule."""
    heldout: Sequence[int]
    """Held-out prompts (from, to) that measure."""
    unseen: int
    """Index of the first held-out prompt that was not used while settings were chosen."""
    answers: int
    """Answers to each prompt at each checkpoint."""
    setups: int
    groups: tuple[Group, ...]
    comparisons: tuple[Comparison, ...] = ()
    base_answers: int = 0
    """Answers of the base to each prompt against which gains are measured; 0: ``answers``."""
    panel_on: Literal["", "batch", "pair"] = ""
    """What one panel for all runs is fitted on, pairs of the start; "": what each run asks."""

    def group(self, label: str) -> Group:
        """The group with this label."""
        for group in self.groups:
            if group.label == label:
                return group
        raise UsageError(f"frontier: no group {label}; see the plan's [[group]] entries")


def read(path: Path) -> Frontier:
    """Read a plan.

    Raises:
        UsageError: the file is missing or not TOML, or has a wrong key, value or label.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror}); give another --plan, or --quick"
        raise UsageError(f"frontier: {why}") from None
    except ValueError as error:
        raise UsageError(f"frontier: {path} is not TOML: {error}") from None
    try:
        groups = tuple(_group(each) for entry in body.pop("group") for each in _each(entry))
        comparisons = tuple(
            Comparison(**entry)
            for entry in body.pop("comparison", ())
            for entry in _pairs(entry, groups)
        )
        plan = Frontier(**body, groups=groups, comparisons=comparisons)
        if plan.panel_on not in ("", "batch", "pair"):
            raise ValueError(f"panel_on is {plan.panel_on!r}; give batch or pair")
    except KeyError as error:
        raise UsageError(f"frontier: {path}: the key {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"frontier: {path}: {error}") from None
    labels = [group.label for group in groups]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"frontier: {path}: two groups are called {twice[0]}")
    compared = [name for c in comparisons for name in (c.ours, c.theirs)]
    for label in (*compared, *(group.of for group in groups if group.of is not None)):
        plan.group(label)
    return plan


def _each(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry for each of a group's ``rewards``, with the reward's name after the group's."""
    alone = {key: value for key, value in entry.items() if key != "rewards"}
    if "rewards" not in entry:
        return [alone]
    return [
        {**alone, "name": f"{entry['name']}-{name}", "reward": reward}
        for name, reward in entry["rewards"].items()
    ]


def _pairs(entry: Mapping[str, Any], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A comparison, or one for each group whose label matches the ``*`` in ``ours``."""
    head, star, tail = entry["ours"].partition("*")
    if not star:
        return [dict(entry)]
    fits = [g.label for g in groups if g.label.startswith(head) and g.label.endswith(tail)]
    names = [label[len(head) : len(label) - len(tail)] for label in fits]
    return [
        {**entry, **{side: entry[side].replace("*", name) for side in ("ours", "theirs")}}
        for name in names
    ]


def _group(entry: Mapping[str, Any]) -> Group:
    targets = [Target(**one) for one in entry.get("targets", ())]
    found = Group(**{**entry, "targets": targets, "seeds": read_seeds(entry["seeds"])})
    if found.method not in (*RULES, *RIVALS, BEST_OF):
        raise ValueError(f"{found.label}: {found.method} is no method of this bench")
    if found.method in RULES and not found.at:
        raise ValueError(f"{found.label}: give `at`, the votes after which it is measured")
    if (found.method == BEST_OF) != (found.of is not None):
        raise ValueError(f"{found.label}: give `of`, a group's label, for {BEST_OF} only")
    return found


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a text of numbers and ranges, ends included.

    >>> read_seeds("2000-2003,2007")
    (2000, 2001, 2002, 2003, 2007)
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise UsageError(f"frontier: seeds {text!r}; write them as 2000-2004 or 2000,2003")
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def cell(plan: Frontier, group: Group, seed: int) -> Cell:
    """The cell of a group with a seed; its spec has everything that the cell depends on."""
    count = plan.setups if group.setups is None else group.setups
    setup = 1 + seed % count if count else 0
    sets = [*plan.sets, *plan.rules.get(group.method, ())]
    if group.method in RULES:
        sets.append(f"run.votes={group.votes}")
    spec: dict[str, Any] = {
        "version": VERSION, "method": group.method, "ask": "batch", "seed": seed,
        "run": plan.run, "reward": group.reward, "panel": group.panel, "D": 8,
        "sets": [*sets, *group.sets, f"subspace.setup_seed={setup}"],
        "setup": setup, "votes": group.votes, "at": list(group.at),
        "heldout": list(group.heldout or plan.heldout), "answers": plan.answers,
    }  # fmt: skip
    if group.method in RULES and plan.panel_on:
        spec["panel_on"] = plan.panel_on
    if group.method in RIVALS:
        spec |= {"ask": "pair", "settings": dict(group.settings), "points": group.points}
    if group.of is not None:
        source = cell(plan, plan.group(group.of), seed)
        spec |= {"of": source.name, "settings": dict(group.settings)}
    own = {key: value for key, value in spec.items() if key not in ("seed", "setup", "of")}
    own["sets"] = [one for one in own["sets"] if not one.startswith("subspace.setup_seed")]
    spec["settings_hash"] = hash_spec(own)[:10]
    return Cell(spec, group.seconds, group.label)


def cells(plan: Frontier, parts: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """The cells of these parts, or of groups of these labels, in the plan's order.

    Args:
        plan: The frozen plan.
        parts: Letters of parts or labels of groups; empty: all.
        seeds: Seeds to include; empty: all.
    """
    known = {group.part for group in plan.groups} | {group.label for group in plan.groups}
    if wrong := [part for part in parts if part not in known]:
        raise UsageError(f"frontier: no part {wrong[0]}; there are {', '.join(sorted(known))}")
    found = [
        cell(plan, group, seed)
        for group in plan.groups
        if not parts or group.part in parts or group.label in parts
        for seed in group.seeds
        if not seeds or seed in seeds
    ]
    if not found:
        raise UsageError("frontier: no cell is left; widen --only or --seeds")
    return found
