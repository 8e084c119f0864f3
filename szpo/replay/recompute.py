"""Recompute every step from recorded votes, and compare with the recorded updates and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from szpo.ledger import canonical
from szpo.ledger.database import Ledger, Record
from szpo.ledger.rows import update_of
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import starting_theta
from szpo.optim import momentum, optimizer, parameters
from szpo.optim.rules.registry import rule_of
from szpo.optim.settings import Settings
from szpo.replay.findings import Broken, Promise
from szpo.types import Info, Theta, Update
from szpo.voting import counting, steps
from szpo.voting.votes_by_voter import read_votes_by_voter

TOLERANCE: Final = 1e-9
"""Relative: what another machine's rounding may change in an estimate that is not exact."""
ROUNDINGS: Final = {"coef": 2.0**-12, "vector": 2.0**-23}
"""Relative: one unit in the last recorded place (13 bits; fp32)."""


class Recomputation:
    """The optimizer's state and θ, recomputed step by step from votes and updates."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.settings: Settings = recorded_settings(ledger)
        self.state = optimizer.init(self.settings)
        self.before = self.state
        """The state before the last applied step: a step with lag 1 took its radius from it."""
        self.theta: Theta = starting_theta(ledger)
        self.past: list[Update] = []
        self.exact = is_exact(self.settings)

    def check_radius(self, step: Record, *, lagging: bool, prompt: bool) -> None:
        """Check that the radius is the state's (``prompt``) or its predecessor's (``lagging``)."""
        number = step["step"]
        states = [self.state] * prompt + [self.before] * lagging
        radii = [optimizer.ask(replace(state, step=number)).mu for state in states]
        if step["mu"] not in radii:
            raise Broken("steps", number, f"mu is {step['mu']}, the run gives {radii[0]}")

    def skip(self) -> None:
        """Pass a void step: its number is used, nothing else changes."""
        self.state = replace(self.state, step=self.state.step + 1)

    def check(self, step: Record, rows: Sequence[Record]) -> Promise:
        """Recompute an applied step from its votes and compare each row of its updates."""
        ledger, settings, number = self.ledger, self.settings, step["step"]
        query = optimizer.query(settings, number, step["mu"])
        tally = counting.tally(ledger, number, settings.K, settings.N)
        self.before = self.state
        voters = read_votes_by_voter(
            ledger, settings, number, counting.counted(ledger, number), tally
        )
        self.state, updates, info = optimizer.tell(self.state, query, tally, by_voter=voters)
        recorded = [update_of(row) for row in rows]
        if [u.k for u in updates] != [u.k for u in recorded]:
            key = canonical.row_key("updates", rows[0])
            raise Broken("updates", key, "the votes give another number of updates")
        for row, mine, stored in zip(rows, updates, recorded, strict=True):
            n_votes = steps.votes_of(tally, mine, whole=len(updates) == 1)
            if row["n_votes"] != n_votes:
                key = canonical.row_key("updates", row)
                raise Broken("updates", key, f"n_votes is {row['n_votes']}, counted {n_votes}")
            self._compare(row, mine, stored, info)
        reach = settings.momentum_terms if settings.momentum else 0
        self.past = [u for u in (*self.past, *recorded) if u.step >= number - reach]
        for update in momentum.added_updates(settings, self.past, number):
            self.theta = parameters.apply_update(settings.space, self.theta, update)
        digest = parameters.digest(self.theta, ledger.layout, ledger.basis_sha256)
        for row in rows:
            if row["theta_sha256"] != digest:
                key = canonical.row_key("updates", row)
                raise Broken("updates", key, "theta_sha256 is not what the updates add up to")
        return "exact" if self.exact else "1e-9"

    def _compare(self, row: Record, mine: Update, stored: Update, info: Info) -> None:
        key = canonical.row_key("updates", row)
        if row["rule"] != self.settings.rule:
            raise Broken("updates", key, f"rule is {row['rule']}, the run's {self.settings.rule}")
        for name, value in (("estimate", info.delta[mine.k]), ("stderr", info.stderr[mine.k])):
            found = row[name]
            if found is None or not np.isfinite(value):
                if found is not None or np.isfinite(value):
                    raise Broken("updates", key, f"{name} is {found}, the votes give {value}")
            elif abs(found - value) > TOLERANCE * max(abs(found), abs(value), 1e-3):
                raise Broken("updates", key, f"{name} is {found}, the votes give {value}")
        kind = "coef" if stored.vector is None else "vector"
        own, given = _values(mine), _values(stored)
        slack = 0.0 if self.exact else ROUNDINGS[kind] * float(np.abs(given).max(initial=0.0))
        if own.shape != given.shape or np.abs(own - given).max(initial=0.0) > slack:
            raise Broken("updates", key, f"{kind} is not what the votes give")


def is_exact(settings: Settings) -> bool:
    """The update is recomputed to the last bit on any machine.

    Counting rules always; `known` with the logistic link, log-ratio smoothing and half-vote ties.
    Not Adam, nor momentum stored as a vector, nor `bayes`, nor votes of unequal weight.
    """
    if settings.carries or settings.ties != "half" or settings.weighting != "equal":
        return False
    return rule_of(settings.rule).is_exact(settings)


def _values(update: Update) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = [update.coef or 0.0] if update.vector is None else list(update.vector)
    return np.asarray(found, dtype=np.float64)
