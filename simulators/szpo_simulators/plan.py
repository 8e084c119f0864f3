"""Plans: settings from a TOML file, frozen before the first cell runs, and the cells they make."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from szpo.config.section import Section, checked, suggest
from szpo.errors import UsageError
from szpo_simulators.cell_records import Cell
from szpo_simulators.cell_start import even_shares

VERSION: Final = 1
"""Raise this number when cells do or measure something else: older records are then ignored."""
MOST_SEEDS: Final = 10_000
"""Longest range of seeds."""
SHIPPED: Final = Path(__file__).parent / "plans"
"""Plans by name, as `szpo compare --preset` takes them."""
RULES: Final = ("regression", "known", "sign")
"""Methods that are runs of szpo under the rule of that name."""
BEST_OF: Final = "best-of-n"
GRADIENT: Final = ("iterative-dpo", "dpo", "simpo", "rm+ppo", "grpo", "rloo")
KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(RULES, "votes"), BEST_OF: "best of n", **dict.fromkeys(GRADIENT, "gradient"),
}  # fmt: skip
"""What a cell of each method is: a run of szpo with a ledger, a choice, a training."""
Asking = Literal["batch", "pair"]
"""batch: each vote is on two batches of D answers; pair: D votes on single pairs instead."""
Span: TypeAlias = Annotated[Sequence[int], AfterValidator(lambda ends: _span(ends))]


def _span(found: Sequence[int]) -> Sequence[int]:
    if len(found) != 2 or not 0 <= found[0] < found[1]:
        raise ValueError(f"must be [from, to], from 0 up (got {[*found]})")
    return found


class Group(Section):
    """One method on one reward and panel, over seeds."""

    part: str
    """Letter of the part of the plan, by which ``--only`` selects groups."""
    name: str
    method: str
    seeds: Annotated[tuple[int, ...], BeforeValidator(lambda text: read_seeds(str(text)))]
    """In the file a text, such as "2000-2003,2007"."""
    votes: int = Field(ge=1)
    """Batch votes; who asks about single pairs gets D pair votes for each."""
    ask: Asking | None = None
    """None: gradient methods ask about pairs, all others about batches."""
    at: Sequence[int] = ()
    """Numbers of votes at which a run of szpo is measured; empty: as ``points`` says."""
    points: int | Sequence[int | float] = 4
    """Checkpoints: their number, at even shares of the run, or their shares."""
    reward: str = "sentiment"
    panel: str = "bt70"
    setups: int | None = None
    """Number of set-ups that the seeds share; None: the plan's; 0: all use the shipped one."""
    heldout: Span | None = None
    """Held-out prompts (from, to) that measure; None: the plan's. Trials use others."""
    sets: Sequence[str] = ()
    settings: Mapping[str, Any] = {}
    """Settings of a gradient method; ``n`` and ``pool`` of best-of-n."""
    of: str | None = None
    """The group whose runs give best-of-n its fitted directions."""
    seconds: float = 0.0
    """Processor seconds of a cell that were expected, for readers."""
    targets: Sequence[Mapping[str, Any]] = ()
    """Bounds that were set when the plan was frozen, for readers; nothing is judged by them."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.method not in KINDS:
            raise ValueError(f"{self.label}: {self.method} is no method; give one of {[*KINDS]}")
        if (self.method == BEST_OF) != (self.of is not None):
            raise ValueError(f"{self.label}: give `of`, a group's label, for {BEST_OF} only")
        if {*self.name} & {*"/\\"}:
            raise ValueError(f"{self.label}: a name of files, so leave out / and \\")
        if not self.checkpoints or not 0 < min(self.checkpoints) <= max(self.checkpoints):
            raise ValueError(f"{self.label}: `at` and `points` name no number of votes above 0")
        return self

    @property
    def label(self) -> str:
        """Readable name, unique in a plan."""
        return f"{self.name}-{self.method}"

    @property
    def checkpoints(self) -> Sequence[int]:
        """Numbers of batch votes at which the group is measured."""
        return self.at or [round(self.votes * share) for share in even_shares(self.points)]


class Comparison(Section):
    """Two groups whose gains are compared, paired by seed."""

    ours: str
    theirs: str
    votes: int | None = None
    """Votes of our checkpoint, and of theirs without ``theirs_votes``; None: at equal KL."""
    theirs_votes: int | None = None
    """Votes of their checkpoint; None: ``votes``."""
    kl: float | None = Field(None, gt=0)
    """KL in nats at which each seed's gain is interpolated; None: at equal votes."""
    ratio: float | None = None
    """Least ratio of the mean gains, ours over theirs, that was asked for; for readers."""

    @model_validator(mode="after")
    def _is_at_votes_or_kl(self) -> Self:
        if (self.votes is None) == (self.kl is None):
            raise ValueError(f"{self.ours} with {self.theirs}: give votes or kl")
        return self


class Plan(Section):
    """Everything that is frozen before the first cell runs."""

    run: str
    """Preset of the runs."""
    sets: Sequence[str]
    rules: Mapping[str, Sequence[str]]
    """Settings of each rule."""
    heldout: Span
    """Held-out prompts (from, to) that measure."""
    answers: int
    """Answers to each prompt at each checkpoint."""
    groups: tuple[Group, ...]
    setups: int | None = None
    """Number of set-ups that the seeds share; None: each seed has its own."""
    unseen: int = 0
    """Index of the first held-out prompt that was not used while settings were chosen."""
    only: Sequence[str] = ()
    """Parts that run unless others are asked for; empty: all."""
    comparisons: tuple[Comparison, ...] = ()
    base_answers: int = 0
    """Answers of the base to each prompt against which gains are measured; 0: ``answers``."""
    panel_on: Literal["", "batch", "pair", "ask"] = ""
    """What one panel for all runs is fitted on, pairs of the start; "ask": what the group asks;
    "": what each run asks, by its own settings."""

    def group(self, label: str) -> Group:
        """The group with this label."""
        for group in self.groups:
            if group.label == label:
                return group
        raise UsageError(f"compare: no group {label}; see the plan's [[group]] entries")


def find(name: str) -> Path:
    """The shipped plan with this name."""
    names = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    if name not in names:
        raise UsageError(f'compare: no preset "{name}"; there are: {", ".join(names)}')
    return SHIPPED / f"{name}.toml"


def read(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UsageError: the file is missing or not TOML, or has a wrong key, value or label.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror}); give another --plan"
        raise UsageError(f"compare: {why}") from None
    except ValueError as error:
        raise UsageError(f"compare: {path} is not TOML: {error}") from None
    said = f"compare: {path}: "
    try:
        entries = [each for entry in body.pop("group") for each in _each(entry)]
        groups = tuple(checked(Group, each, said) for each in entries)
        pairs = [pair for each in body.pop("comparison", ()) for pair in _pairs(each, groups)]
    except KeyError as error:
        raise UsageError(f"{said}the key {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{said}a [[group]] or [[comparison]] is malformed ({error})") from None
    comparisons = tuple(checked(Comparison, pair, said) for pair in pairs)
    plan = checked(Plan, {**body, "groups": groups, "comparisons": comparisons}, said)
    labels = [group.label for group in groups]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"compare: {path}: two groups are called {twice[0]}")
    compared = [name for c in comparisons for name in (c.ours, c.theirs)]
    for label in (*compared, *(group.of for group in groups if group.of is not None)):
        plan.group(label)
    return plan


def _each(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry for each of a group's ``rewards``, ``asks`` and ``trials``."""
    alone = {k: v for k, v in entry.items() if k not in ("rewards", "asks", "trials")}
    variants: list[tuple[str, dict[str, Any]]] = [
        *((name, {"reward": reward}) for name, reward in entry.get("rewards", {}).items()),
        *((ask, {"ask": ask}) for ask in entry.get("asks", ())),
        *((str(i), {"settings": {**entry.get("settings", {}), **trial.get("settings", {})},
                    "sets": [*entry.get("sets", ()), *trial.get("sets", ())]})
          for i, trial in enumerate(entry.get("trials", ()))),
    ]  # fmt: skip
    return [
        {**alone, "name": f"{entry['name']}-{name}", **changed} for name, changed in variants
    ] or [alone]


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
        if entry["ours"].replace("*", name) != entry["theirs"].replace("*", name)
    ]


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a text of numbers and ranges, ends included.

    >>> read_seeds("2000-2003,2007")
    (2000, 2001, 2002, 2003, 2007)
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise UsageError(f"compare: seeds {text!r}; write them as 2000-2004 or 2000,2003")
        if not 0 <= int(last or first) - int(first) < MOST_SEEDS:
            raise UsageError(f"compare: seeds {text!r}; give at most {MOST_SEEDS:,}, lowest first")
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def cell(plan: Plan, group: Group, seed: int) -> Cell:
    """The cell of a group with a seed; its spec has everything that the cell depends on."""
    kind = KINDS[group.method]
    ask = group.ask or ("pair" if kind == "gradient" else "batch")
    count = plan.setups if group.setups is None else group.setups
    setup = seed if count is None else 1 + seed % count if count else 0
    spec: dict[str, Any] = {
        "version": VERSION, "kind": kind, "method": group.method, "ask": ask, "seed": seed,
        "run": plan.run, "reward": group.reward, "panel": group.panel, "D": 8,
        "panel_on": ask if plan.panel_on == "ask" else plan.panel_on,
        "sets": [*plan.sets, *plan.rules.get(group.method, ()), *group.sets,
                 f"subspace.setup_seed={setup}"],
        "setup": setup, "votes": group.votes, "at": list(group.at), "points": group.points,
        "heldout": list(group.heldout or plan.heldout), "answers": plan.answers,
        "settings": dict(group.settings),
    }  # fmt: skip
    if group.of is not None:
        spec["of"] = cell(plan, plan.group(group.of), seed).name
    return Cell(spec, group.label)


def cells(plan: Plan, parts: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """The cells of these parts, or of groups of these labels, in the plan's order.

    ``parts``: letters of parts, or labels of groups or what only one of them begins with; empty:
    the plan's ``only``. No ``seeds``: all.
    """
    parts = [_complete(plan, part) for part in parts] or plan.only
    found = [
        cell(plan, group, seed)
        for group in plan.groups
        if not parts or group.part in parts or group.label in parts
        for seed in group.seeds
        if not seeds or seed in seeds
    ]
    if not found:
        raise UsageError("compare: no cell is left; widen --only or --seeds")
    return found


def _complete(plan: Plan, part: str) -> str:
    """The letter of a part, or the label of a group from its beginning."""
    labels = [group.label for group in plan.groups]
    letters = sorted({group.part for group in plan.groups})
    begun = [label for label in labels if label.startswith(part)]
    found = [part] if part in (*letters, *labels) else begun
    if len(found) != 1:
        hint = suggest(part, begun or labels) or ";"
        raise UsageError(f"compare: no part or group {part}{hint} parts: {', '.join(letters)}")
    return found[0]
