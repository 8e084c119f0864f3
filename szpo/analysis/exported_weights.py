"""Which weights of a run are exported, what speaks against it, and what is not known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from szpo.analysis import improvement, taught_taste
from szpo.analysis.improvement import Improvement
from szpo.ledger.database import Ledger
from szpo.ledger.theta import (
    adopted_digest,
    recommended_digest,
    recommended_digests,
    starting_theta,
)
from szpo.optim import parameters
from szpo.policies import subspaces
from szpo.replay import replay
from szpo.runs import guards
from szpo.runs.guards import HeldOut
from szpo.types import Theta

if TYPE_CHECKING:
    from szpo.runs.other_weights import Group


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights of a run to export; by default its last ones."""

    scale: float = 1.0
    """Factor on their way from the run's start."""
    group: Group | None = None
    """Fitted to the votes of these panelists alone, of all steps; None: of everybody."""
    kl: float | None = None
    """Their KL to the run's start, nats, if it was measured for this export."""
    heldout: HeldOut | None = None
    """Their guards, if they were measured for this export."""
    rank: int | None = None
    """Rank to which the adapter is cut; None: none."""
    cut: float = 0.0
    """KL from the whole adapter to the cut one, nats, measured for this export."""

    def theta(self, ledger: Ledger) -> Theta:
        """The coordinates, computed from the recorded updates."""
        theta = replay.fold(ledger) if self.group is None else self.group.theta
        if self.scale == 1:
            return theta
        start = starting_theta(ledger)
        if not _in_coordinates(ledger, theta):
            space = subspaces.read_recorded(ledger)
            start = {name: space.factors()[name] for name in theta}
        return parameters.between(start, theta, self.scale)

    def digest(self, ledger: Ledger) -> str:
        """Their theta_sha256; the recorded one for the run's own."""
        if self.group is None and self.scale == 1:
            return recommended_digests(ledger)[-1]
        theta = self.theta(ledger)
        if not _in_coordinates(ledger, theta):
            return adopted_digest(theta)
        return parameters.digest(theta, ledger.layout, ledger.basis_sha256)

    def measured(self, ledger: Ledger, digest: str) -> HeldOut | None:
        """The measurements on held-out prompts of these weights, which have this digest."""
        if self.heldout is not None:
            return self.heldout
        found = guards.read_held_out(ledger)
        return found if found is not None and found.theta_sha256 == digest else None


def _in_coordinates(ledger: Ledger, theta: Theta) -> bool:
    """Whether θ is in the run's coordinates; else it is every moving factor, as adopted."""
    return {*theta} == {name for name, _ in ledger.layout}


LAST: Final = Weights()


def find_doubt(ledger: Ledger, helped: Improvement, weights: Weights = LAST) -> str:
    """Reasons not to export these weights, as text; "" if none is known.

    A guard fails for them, or they cannot be told from the base: ``helped`` is the ledger's.
    """
    ends, digest = recommended_digests(ledger), weights.digest(ledger)
    if digest == ends[0]:
        return "its weights are those that the run began with"
    against = []
    if digest == ends[-1]:
        found = taught_taste.last_findings(ledger)
        current = bool(helped.points) and helped.points[-1].steps == len(ends) - 1
        if current and helped.verdict in ("unclear", "worse"):
            against.append(helped.sentence)
        elif helped.verdict == "unknown" and found is not None and not found.shown:
            against.append("its votes show no taste yet, so it is all but the base")
    if (measured := weights.measured(ledger, digest)) and measured.failure:
        against.append(f"of the guards on held-out prompts {measured.failure}")
    return "; ".join(against)


def find_unknown(ledger: Ledger, weights: Weights = LAST) -> str:
    """What was not measured of weights that are exported, as text; "" if all was."""
    helped, digest, unknown = improvement.read(ledger), weights.digest(ledger), []
    found, whole = weights.measured(ledger, digest), weights.group is None
    if whole and digest == recommended_digest(ledger):
        unknown += [helped.sentence] if helped.lack else []
    elif whole and weights.scale != 1:
        unknown.append(f"not known whether it is better than the base at scale {weights.scale:g}")
    if found is None or not found.guards:
        unknown.append("its guards on held-out prompts were not measured")
    elif found.missing:
        unknown.append(found.missing)
    return "; ".join(unknown)
