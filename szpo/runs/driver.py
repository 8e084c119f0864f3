"""The process that drives a run: prepares its loop, and carries out operators' orders.

While a run is paused, stopped or finished, the process stands by: it keeps the lease and waits
until somebody resumes the run. It carries out orders (`szpo.ledger.orders`) whenever it waits for
votes or stands by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from szpo.errors import IntegrityError, LeaseError, StorageError, SzpoError
from szpo.features import dictionary, user_features
from szpo.features.dictionary import Entry
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.ledger.run_spec import BUDGET
from szpo.optim import kl_limits
from szpo.optim.named_features import NamedFeatures
from szpo.policies.protocol import moved
from szpo.runs import (
    assemble,
    guards,
    repeated_pairs,
    samples,
    services,
    start_features,
    taste_files,
)
from szpo.runs.assemble import RunParts
from szpo.runs.budget import KL_PROMPTS
from szpo.runs.services import Services
from szpo.types import Say, Theta
from szpo.voting import lease
from szpo.voting.applied_step import Outcome
from szpo.voting.evaluator import Telling
from szpo.voting.lease import Lease
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService

CHECKS: Final = 0.25
"""Share of the rows that compare an answer of the improved policy with one of its start."""
Chosen: TypeAlias = tuple[tuple[Entry, ...], tuple[user_features.Description, ...]]
"""Entries that may become a run's features, and what to record of the user's own among them."""

_FULFIL: Final = {
    "final": ("blind comparisons with the start", samples.fulfil_final),
    "samples": ("sample answers", samples.fulfil),
}
_CHANGES: Final = ("pause", "unpause", "stop", "limits", BUDGET)
"""Kinds of events after which a waiting run may continue."""


def prepare(
    ledger: Ledger, parts: RunParts, say: Say = lambda line: None, *, by_hand: bool = False
) -> Services:
    """Make what the loop needs to run until the settings' votes or steps are used up.

    For people, the first round's answers are checked before it opens, which may pause the run and
    reports through ``say``. While they vote, the next step's answers are generated, but where
    the caller asks and tells them ``by_hand``.
    """
    config = parts.config
    assemble.require_counted(parts)
    people = config.panel.kind == "people"

    check = partial(samples.check_once, ledger, parts.policy, say) if people else None
    if check is not None:
        check()  # a run that goes on although its samples are refused
    minutes, service = config.panel.deadline_minutes, VoteService(ledger)
    panel = LedgerEvaluator(service) if parts.panel is None else parts.panel.evaluator(service)
    if isinstance(panel, Telling):
        panel.say = say
    chosen = _choose_features(parts)
    return Services(
        ledger,
        parts.policy,
        panel,
        services.prompt_order(parts.prompts.train, parts.settings),
        votes_budget=config.run.votes,
        bands=guards.bands(config.guards),
        lag=int(people and not by_hand),
        deadline_s=None if minutes is None else minutes * 60,
        kl=_quadratic_kl(parts),
        measured_kl=measure_kl(parts) if parts.base or config.guards.kl is not None else None,
        entries=parts.entries if chosen is None else {each.name: each for each in chosen[0]},
        features=None if chosen is None else partial(_draw_features, parts, chosen, say),
        repeats=repeated_pairs.SHARE,
        sheet=config.sheet if people and config.picks_pairs else None,
        checks=CHECKS,
        aside=services.set_aside(parts.prompts.train, ledger.root_seed)[1],
        evens=people,
        check=check,
    )


def _choose_features(parts: RunParts) -> Chosen | None:
    """What a run draws its features from; None where they are known, or none are wanted."""
    settings = parts.settings
    if not settings.awaits_features or (settings.guides and parts.base is None):
        return None
    features = parts.config.features
    holding = dictionary.holding([prompt.text for prompt in parts.prompts.train])
    return user_features.choose(features.own, features.drop, holding, parts.rate)


def _draw_features(parts: RunParts, chosen: Chosen, say: Say) -> NamedFeatures:
    """Read the features of a run's first step; say which of the user's own never differ."""
    found = start_features.draw(
        parts.policy, parts.prompts.train, parts.settings.root_seed, *chosen,
        layer=parts.state_layer,
    )  # fmt: skip
    found = taste_files.with_prior(found, parts.earlier)
    if still := {each.name for each in chosen[1]}.difference(found.names):
        say(assemble.warn_of_still(still, start_features.ANSWERS))
    return parts.config.with_said(found)


def _quadratic_kl(parts: RunParts) -> Callable[[Theta], float] | None:
    """KL to the start by its quadratic estimate |θ − θ₀|²/(2 scale²), nats per completion."""
    # It costs nothing, but is too large far from the start; `LoraPolicy.kl` measures by
    # sampling.
    if parts.base is None or parts.settings.guides:
        return None
    start, scale = parts.language.start(), parts.settings.scale

    return lambda theta: kl_limits.estimate(start, theta, scale)


def measure_kl(parts: RunParts) -> Callable[[Theta], float]:
    """Monte-Carlo KL to the start at given coordinates, on a fixed set of held-out prompts."""
    policy = parts.language
    asked = (parts.prompts.heldout or parts.prompts.train)[:KL_PROMPTS]

    def measure(theta: Theta) -> float:
        with moved(policy, theta):
            return policy.kl(asked, seed=parts.config.run.root_seed)[0]

    return measure


def fulfil(ledger: Ledger, parts: RunParts, say: Say) -> int:
    """Carry out the open orders; returns how many.

    An order that fails is settled with the reason, so that it is not tried forever.
    """
    waiting = orders.open_orders(ledger)
    for order in waiting:
        say(f"order {order.id} by {order.by}: {_FULFIL[order.kind][0]}")
        _fulfil_one(ledger, parts, order, say)
    return len(waiting)


def _fulfil_one(ledger: Ledger, parts: RunParts, order: Order, say: Say) -> None:
    try:
        _FULFIL[order.kind][1](ledger, order, parts)
    except (LeaseError, StorageError, IntegrityError):
        raise
    except SzpoError as error:
        reason = str(error)
    except Exception as error:  # the engine's: must not end a run that people vote in
        reason = f"{type(error).__name__}: {error}"
    else:
        return
    say(f"order {order.id} cannot be done: {reason}")
    orders.settle(ledger, order, {"error": reason})


class LeaseHolder:
    """Holds a run's lease while the run waits for votes, and after it has stopped.

    Here and in the loop, `do_one_turn` is called between two reads of the ledger; it ends with
    ``wait``.
    """

    def __init__(
        self, ledger: Ledger, parts: RunParts, held: Lease, wait: Callable[[], None], say: Say
    ):
        self.held: Final = held
        self._ledger, self._parts, self._wait, self._say = ledger, parts, wait, say
        self._warned: str | None = None
        self._seen = _changes(ledger)
        self._reported: Outcome | None = None

    def do_one_turn(self) -> None:
        """Check the lease, warn of delays, carry out orders, wait."""
        lease.check(self._ledger, self.held.epoch)
        self._warn_of_shortage()
        fulfil(self._ledger, self._parts, self._say)
        self._wait()

    def _warn_of_shortage(self) -> None:
        """Report a shortage of voters once, when it begins or changes."""
        reason = explain_shortage(self._ledger)
        if reason is not None and reason != self._warned:
            self._say(f"warning: {reason}")
        self._warned = reason

    def stand_by(self, outcome: Outcome) -> None:
        """Wait with a run that ended, stopped or paused, until something may let it continue."""
        if outcome != self._reported:
            self._reported = outcome
            then = _how_to_resume(self._ledger)
            self._say(f"{outcome.status}: {outcome.reason}; standing by{then}")
        while self.is_settled():
            self.do_one_turn()
        self._seen = _changes(self._ledger)

    def is_settled(self) -> bool:
        """Whether nothing has happened since that may let the run continue."""
        return _changes(self._ledger) == self._seen


def _how_to_resume(ledger: Ledger) -> str:
    """How a paused run is resumed, as text after "standing by"; "" where it is not paused."""
    if not lease.is_paused(ledger):
        return ""
    button = "Start the run" if samples.awaits_start(ledger) else "Resume"
    return f' until somebody presses "{button}" on the operator\'s page'


def explain_shortage(ledger: Ledger) -> str | None:
    """Why the open step cannot get all its votes from those who may vote; None if it can.

    None also for a panel that is not of people: it enrols its panelists itself.
    """
    rows = ledger.query("SELECT * FROM steps WHERE run = ? AND state = 'open'", (ledger.run,))
    kind = ledger.spec.get("config", {}).get("panel", {}).get("kind", "people")
    if not rows or kind != "people":
        return None
    step, m = rows[0]["step"], rows[0]["m"]
    panel = ledger.query(
        "SELECT count(*) AS n FROM panelists p WHERE NOT EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist) AND NOT EXISTS "
        "(SELECT 1 FROM events WHERE kind = 'erase' "
        "AND json_extract(body, '$.panelist') = p.panelist) OR EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist AND revoked_us IS NULL)"
    )[0]["n"]
    # Somebody who skipped a comparison is not asked it again.
    lost = ledger.query(
        "SELECT c.comparison, count(l.assignment) AS lost FROM comparisons c LEFT JOIN "
        "(SELECT a.comparison, a.assignment FROM assignments a JOIN votes v USING (assignment) "
        "WHERE v.revision = (SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "AND v.choice = 'skip') l ON l.comparison = c.comparison "
        "WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND c.identical = 0 "
        "GROUP BY c.comparison",
        (ledger.run, step),
    )
    short = sum(panel - row["lost"] < m for row in lost)
    if not short:
        return None
    return (
        f"step {step}: {short} of {len(lost)} comparisons cannot get their {m} votes from the "
        f"{panel} panelists who may vote; invite more people, or close the round by hand"
    )


def _changes(ledger: Ledger) -> int:
    marks = ", ".join("?" * len(_CHANGES))
    sql = f"SELECT coalesce(max(event), 0) AS last FROM events WHERE kind IN ({marks})"
    return int(ledger.query(sql, _CHANGES)[0]["last"])
