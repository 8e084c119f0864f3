"""The position of a run after its finished steps: a function of its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.optim import parameters
from szpo.optim.rules.registry import rule_of
from szpo.optim.settings import Settings
from szpo.optim.state import State
from szpo.replay import replay
from szpo.types import Theta

if TYPE_CHECKING:
    from szpo.policies.protocol import Policy


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """The run's state before its next step."""

    state: State
    theta: Theta
    """The recommended point, which is shown, measured and exported."""
    centre: Theta
    """The point where the run asks and the policy is; it is θ unless the rule has two points."""
    centre_sha256: str
    """SHA-256 of the centre in canonical form."""
    votes: int
    """Counted votes so far."""

    @property
    def step(self) -> int:
        """The step to do next."""
        return self.state.step


def resume(ledger: Ledger, settings: Settings, policy: Policy) -> Position:
    """Read the position from the ledger, and move the policy to its centre."""
    if policy.layout != settings.layout:
        raise UsageError(
            f"{ledger.path.name}: the policy's layout is not that of this run; build the policy "
            "from the run's settings"
        )
    state = replay.replay_state(ledger, settings)
    heads, found = theta_digests(ledger), policy.digest()
    if found not in heads:
        raise IntegrityError(
            f"{ledger.path.name}: the policy's weights ({found[:12]}) are not those of this "
            "run at any step; build it again from the run's settings"
        )
    # The same weights may occur twice (a warm-up moves nothing); any of the places is right.
    replay.apply_recorded(ledger, settings, policy, point="centre", done=heads.index(found))
    total = ledger.query("SELECT coalesce(sum(n_votes), 0) AS total FROM updates")[0]["total"]
    centre = {name: np.array(value) for name, value in policy.theta().items()}
    theta = replay.fold_updates(ledger) if rule_of(settings.section.rule).two_points else centre
    at = Position(state, theta, centre, heads[-1], round(total))
    check_weights(ledger, policy, at, "taking the run up")
    return at


def check_weights(ledger: Ledger, policy: Policy, at: Position, when: str) -> None:
    """Compare the policy's weights and the position's centre with the ledger."""
    own = parameters.digest(at.centre, policy.layout, ledger.basis_sha256)
    found = policy.digest()
    if own != at.centre_sha256 or found != at.centre_sha256:
        raise IntegrityError(
            f"{when}: the policy's weights are {found[:12]}, the ledger's "
            f"{at.centre_sha256[:12]}; build the policy again and resume"
        )
