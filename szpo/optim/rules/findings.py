"""What the votes so far say of the recommended point, and what holds it back.

Every step of a run whose rule fits all votes records it. It depends only on the settings and on
what the rule carries, so anybody can recompute it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from szpo.optim import named_features, vote_regression
from szpo.optim.named_features import CARRIED, Claim, NamedFeatures, claims
from szpo.optim.rules.all_votes import AllVotes, fit_named, fit_votes
from szpo.optim.rules.regression import whitened_unit
from szpo.optim.settings import Settings
from szpo.types import FEATURE_GRID

OPEN: Final = 0.2
"""If the probability that no feature explains the votes is below this, more votes may show one.

In simulated runs of 120 votes that show no taste (tests/analysis/test_cause.py), it is below in
two of 57 whose taste is no named feature, and in a third of those whose taste is one."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the votes of a run say after a step."""

    factor: float
    """The largest log Bayes factor for any signal that the run has seen."""
    share: float = 1.0
    """Share of the way that predicted guards allow; 0: they hold on no part of it."""
    broken: tuple[str, ...] = ()
    """Figures whose guards the whole way would break (`guard_geometry.FIGURES`)."""
    side: float = 0.0
    """The advantage of side A, logits."""
    taught: tuple[Claim, ...] | None = None
    """What the votes are about, in named features; None without named features."""
    unnamed: float = 0.0
    """Probability that the score components explain the votes, and no named feature does."""
    chance: float = 0.0
    """Probability that nothing explains the votes."""
    aside: tuple[str, ...] = ()
    """Groups of features that the operator ordered not to follow."""
    mix: tuple[tuple[str, float], ...] = ()
    """The named coordinates at the recommended point: name, and what it alone costs in nats,
    negative against its name."""
    lacking: tuple[str, ...] = ()
    """Claimed groups that no direction in the named coordinates moves by much."""

    @property
    def shown(self) -> bool:
        """The votes show that they share a taste."""
        return self.factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)

    @property
    def undecided(self) -> bool:
        """More votes like these would probably show a taste that the coordinates have."""
        return self.unnamed + self.chance < OPEN

    def to_json(self) -> dict[str, Any]:
        """As JSON for the record."""
        own = ("mix", "lacking") if not self.mix else ()
        return {name: value for name, value in asdict(self).items() if name not in own}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Findings:
        """Read the output of `to_json` from the record."""
        taught = body["taught"]
        named = None if taught is None else tuple(Claim(**each) for each in taught)
        factor = -math.inf if body["factor"] is None else body["factor"]
        lists = {name: tuple(body.get(name, ())) for name in ("broken", "aside", "lacking")}
        lists["mix"] = tuple((name, nats) for name, nats in body.get("mix", ()))
        return cls(**{**body, **lists, "taught": named, "factor": factor})


def find(settings: Settings, record: AllVotes) -> Findings:
    """What the rule carries between two steps of one run, as far as people should know it."""
    factor, held, features = float(record.log_factor), record.guard_limit, settings.features
    if features is None:
        fitted = fit_votes(settings, record)[0]
        return Findings(
            factor, held.share, held.broken, float(fitted.side_coefficient),
            chance=1 - float(fitted.signal),
        )  # fmt: skip
    found = record.named or fit_named(settings, record.votes, record.aside)
    said = claims(found, features)
    names = dict.fromkeys(named_features.group_of(features, i).name for i in record.aside)
    along = named_features.nats_along(features, record.recommended / whitened_unit(settings))
    return Findings(
        factor, held.share, held.broken, found.side, taught=said,
        unnamed=found.dense, chance=1 - found.signal, aside=tuple(names),
        mix=tuple(zip(features.coordinates, along, strict=True)),
        lacking=_lacking(features, said),
    )  # fmt: skip


def _lacking(features: NamedFeatures, said: Sequence[Claim]) -> tuple[str, ...]:
    """Groups whose leading feature moves by less than `CARRIED` in any direction of length 1."""
    if not features.coordinates:
        return ()
    groups = {each.name: each for each in named_features.groups(features)}
    lacking = []
    for claim in said:
        group = groups[claim.group]
        if group.coordinate is None:
            most = max(math.hypot(*features.map[i]) for i in group.members)
            lacking += [claim.group] * (most < CARRIED * FEATURE_GRID)
    return tuple(dict.fromkeys(lacking))
