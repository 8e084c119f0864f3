"""An adapter for the voters of one taste, fitted to their recorded votes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta
from szpo.policies import text_guards
from szpo.replay import replay
from szpo.runs import assemble, driver, shrink
from szpo.training.held_out import HeldOut
from szpo.training.update_policy import measure_moved
from szpo.types import Say, Theta


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Panelists of one taste, and the adapter fitted to their recorded votes alone."""

    number: int
    """The cluster's number, from 1."""
    features: str
    """The set of features in which the clusters were found."""
    members: tuple[str, ...]
    """Pseudonyms."""
    votes: int
    theta: Theta
    kl: float
    """Measured KL to the run's start, nats per answer."""
    measured: HeldOut
    """Its guards; empty if no prompts are held out."""


def fit_group(
    ledger: Ledger,
    number: int,
    features: str,
    members: Sequence[str],
    *,
    say: Say,
) -> Group:
    """Fit the votes of a cluster, and measure the fitted point as the run measures its own.

    Args:
        ledger: The run; nothing is written.
        number: The cluster's number, from 1.
        features: The set of features in which the clusters were found.
        members: Pseudonyms.
        say: Called with each line for the user.

    Raises:
        UsageError: the policy is no language model.
        SupersededError: the run's rule, or an option that it uses, is gone.
    """
    names = {row["pseudonym"]: row["panelist"] for row in ledger.query("SELECT * FROM panelists")}
    voters = frozenset(names[name] for name in members)
    parts = assemble.reopen(ledger, panel=False, say=say)
    kl = driver.measure_kl(parts)
    theta, votes = replay.fold_votes(ledger, voters, measure_moved(parts.settings, kl))
    asked = parts.prompts.heldout[: parts.config.evaluation.prompts]
    nats, found = kl(theta), HeldOut(())
    if asked:
        parts.language.move_to(theta)
        _, point = shrink.measure_points(
            parts.language, starting_theta(ledger), asked, [1.0],
            seed=seeds.as_seed(seeds.derive(ledger.root_seed, "evaluation")),
            samples=text_guards.READ_AGAIN,
        )  # fmt: skip
        nats, found = point.kl, HeldOut((), point.guards, point.gap)
    return Group(number, features, tuple(members), round(votes), theta, nats, found)
