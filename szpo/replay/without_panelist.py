"""Preview a run without one panelist: which steps would have moved differently.

Nothing is changed: past updates stay, and excluding somebody affects only later rounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from szpo.errors import IntegrityError, RunError, UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.optim import optimizer, parameters
from szpo.optim.rules.registry import rule_of
from szpo.optim.settings import Settings
from szpo.replay import replay
from szpo.types import Floats, Update, Vote
from szpo.voting import counting, step_inputs

MAX_COORDINATES: Final = 4096
"""Up to this many coordinates steps are recomputed; above it only votes are counted."""


@dataclass(frozen=True, slots=True)
class StepEffect:
    """One applied step with and without the panelist's votes."""

    step: int
    votes: int
    theirs: int
    flips: bool
    """Whether in some direction the majority changes sign, vanishes or appears."""
    cosine: float | None
    """Between the step taken and the step without their votes, after the same earlier steps; None
    if one of the two is zero, or steps are not recomputed."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The effect of leaving out one panelist."""

    name: str
    votes: int
    of: int
    effects: tuple[StepEffect, ...]
    """The steps in which this panelist voted."""

    @property
    def flipped(self) -> tuple[int, ...]:
        """Steps whose majority would be different."""
        return tuple(effect.step for effect in self.effects if effect.flips)

    @property
    def turned(self) -> tuple[int, ...]:
        """Steps that would have moved in an opposing direction (negative cosine)."""
        return tuple(e.step for e in self.effects if e.cosine is not None and e.cosine < 0)


def preview(ledger: Ledger, name: str) -> Preview:
    """The effect of leaving out the counted votes of the panelist with this pseudonym."""
    found = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
    if not found:
        raise UsageError(f"panelist {name!r} is not enrolled in this run")
    panelist = found[0]["panelist"]
    applied = [row for row in ledger.steps() if row["state"] == "applied"]
    cosines = _cosines(ledger, panelist)
    effects, total = [], 0
    for row in applied:
        votes = counting.counted(ledger, row["step"])
        rest = [vote for vote in votes if vote.panelist != panelist]
        total += len(votes)
        if len(rest) == len(votes):
            continue
        before, after = _leads(votes), _leads(rest)
        effects.append(
            StepEffect(
                step=row["step"],
                votes=len(votes),
                theirs=len(votes) - len(rest),
                flips=any(before[k] != after[k] for k in before),
                cosine=cosines.get(row["step"]),
            )
        )
    return Preview(name, sum(e.theirs for e in effects), total, tuple(effects))


def _leads(votes: Iterable[Vote]) -> dict[int, int]:
    """Which side leads in each direction: 1 plus, −1 minus, 0 neither."""
    net: dict[int, int] = defaultdict(int)
    for vote in votes:
        net[vote.k] += {"plus": 1, "minus": -1}.get(vote.verdict, 0)
    return defaultdict(int, {k: (lead > 0) - (lead < 0) for k, lead in net.items()})


def _cosines(ledger: Ledger, panelist: str) -> dict[int, float]:
    """Cosine, per step, between the step taken and the one without the panelist's votes."""
    try:
        settings = run_spec.recorded_settings(ledger)
    except IntegrityError:
        return {}
    if settings.space.dim > MAX_COORDINATES or settings.section.weighting != "equal":
        return {}
    if settings.section.rule == "sign":  # its steps only flip
        return {}
    state, found = optimizer.init(settings), {}
    for row in ledger.steps():
        if row["state"] != "applied":
            break
        step = row["step"]
        votes = counting.counted(ledger, step)
        rest = [vote for vote in votes if vote.panelist != panelist]
        try:
            tell = partial(
                replay.tell_step, ledger, settings, state, row["mu"],
                inputs=step_inputs.read(ledger, settings, step), voters=False,
            )  # fmt: skip
            _, after, taken, _ = tell(votes)
            if len(rest) < len(votes):
                _, _, other, _ = tell(rest)
                cosine = _cosine(_sum_updates(settings, taken), _sum_updates(settings, other))
                if cosine is not None:
                    found[step] = cosine
        except (RunError, UsageError):
            return found
        state = after
    return found


def _sum_updates(settings: Settings, updates: Sequence[Update]) -> Floats:
    total = np.zeros(settings.space.dim)
    if rule_of(settings.section.rule).two_points:
        updates = updates[:1]  # the recommended point's
    for update in updates:
        if update.vector is not None:
            total += np.asarray(update.vector)
        elif update.coef:
            total += update.coef * parameters.direction_vector(
                settings.space, update.step, update.k
            )
    return total


def _cosine(a: Floats, b: Floats) -> float | None:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / size, 9) if size else None
