"""Prepares a run's loop from its parts: evaluator, guards, and when a round closes.

A run for people begins with A/A comparisons: both batches are from the same policy, so neither is
better. The votes show side bias, and how often panelists see a difference where there is none. A/A
comparisons are made once, and never move the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Final, TypeAlias

from szpo import seeds
from szpo.data.text_files import clean_prompt
from szpo.evaluators.panel_evaluator import LedgerEvaluator
from szpo.evaluators.protocol import Evaluator
from szpo.features import dictionary, own
from szpo.features.dictionary import Entry
from szpo.ledger.database import Ledger
from szpo.optim.named_features import NamedFeatures
from szpo.optim.rules.guard_geometry import Moments
from szpo.policies.protocol import moved
from szpo.runs import assemble, sample_check, samples
from szpo.runs.assemble import RunParts
from szpo.runs.cost_plan import KL_PROMPTS
from szpo.training import guards, services, start_features
from szpo.training.services import Services
from szpo.types import Row, Say, Theta
from szpo.voting import calibration, lease
from szpo.voting.service import VoteService

CHECKS: Final = 0.25
"""Share of the rows that compare an answer of the improved policy with one of its start."""
REPEATS: Final = 0.1
"""Share of the chosen rows that show an earlier row again, to measure how far verdicts agree."""
Chosen: TypeAlias = tuple[tuple[Entry, ...], tuple[own.Description, ...]]
"""Entries that may become a run's features, and what to record of the user's own among them."""


def prepare(ledger: Ledger, parts: RunParts, say: Say = lambda line: None) -> Services:
    """Make what the loop needs to run until the settings' votes or steps are used up.

    For people, sample answers are checked behind the first sheet, which may pause the run and
    reports through ``say``; a run that waits for its operator is checked before. A/A comparisons
    are made then, too.
    """
    config = parts.config
    assemble.require_counted(parts)
    people = config.panel.kind == "people"

    def behind() -> None:
        if people:
            sample_check.check_once(ledger, parts, say)
            if config.panel.calibration:
                make(ledger, parts)

    if lease.controller(ledger)["paused_by"] is not None:
        behind()
    minutes = config.panel.deadline_minutes
    chosen = _choose_features(parts)
    return Services(
        ledger,
        parts.policy,
        evaluator(ledger, parts),
        services.prompt_order(parts.prompts.train, parts.settings),
        until_step=config.run.steps,
        votes_budget=config.run.votes,
        bands=guards.bands(config.guards),
        lag=config.run.lag if config.run.lag is not None else int(people),
        deadline_s=None if minutes is None else minutes * 60,
        kl=_quadratic_kl(parts),
        measured_kl=measure_kl(parts) if parts.base or config.guards.kl is not None else None,
        entries=parts.entries if chosen is None else {each.name: each for each in chosen[0]},
        moments=_moments(parts),
        behind=behind,
        features=None if chosen is None else partial(_draw_features, parts, chosen, say),
        repeats=REPEATS,
        sheet=config.sheet if people and config.picks_pairs else None,
        checks=CHECKS,
        aside=services.set_aside(parts.prompts.train, ledger.root_seed)[1],
        evens=people,
    )


def _moments(parts: RunParts) -> Callable[[], Moments] | None:
    """Moments of the start's answers, read at the first call; None where there are no scores."""
    settings, base = parts.settings, parts.base
    if not settings.section.guarded or settings.idle or base is None or not base.subspace.in_z:
        return None

    @cache
    def read() -> Moments:
        from szpo.training import guard_moments

        found = guard_moments.load_or_read(parts.language, parts.prompts.train)
        return found.moments(settings.scale, apart=settings.features is not None)

    return read


def _choose_features(parts: RunParts) -> Chosen | None:
    """What a run without coordinates draws its features from; None where they are known."""
    if not parts.settings.idle or parts.settings.features is not None:
        return None
    features = parts.config.features
    holding = dictionary.holding([prompt.text for prompt in parts.prompts.train])
    return own.choose(features.own, features.drop, holding, parts.rate)


def _draw_features(parts: RunParts, chosen: Chosen, say: Say) -> NamedFeatures:
    """Read the features of a run without coordinates; say which of the user's own never differ."""
    found = start_features.draw(
        parts.policy, parts.prompts.train, parts.settings.root_seed, *chosen
    )
    if still := {each.name for each in chosen[1]}.difference(found.names):
        say(assemble.warn_of_still(still, start_features.ANSWERS))
    return parts.config.with_said(found)


def evaluator(ledger: Ledger, parts: RunParts) -> Evaluator:
    """The evaluator: a panel in this process, or whoever votes through the ledger."""
    service = VoteService(ledger)
    if parts.panel is None or not parts.config.panel.inside:
        return LedgerEvaluator(service)
    return parts.panel.evaluator(service)


def _quadratic_kl(parts: RunParts) -> Callable[[Theta], float] | None:
    """KL to the start by its quadratic estimate |θ − θ₀|²/(2 scale²), nats per completion.

    It costs nothing, but is too large far from the start; `LoraPolicy.kl` measures by sampling.
    """
    if parts.base is None:
        return None
    start, scale = parts.language.start(), parts.settings.scale

    def estimate(theta: Theta) -> float:
        moved = sum(float(((theta[n].astype(float) - start[n]) ** 2).sum()) for n in start)
        return moved / (2 * scale * scale)

    return estimate


def measure_kl(parts: RunParts) -> Callable[[Theta], float]:
    """Monte-Carlo KL to the start at given coordinates, on a fixed set of held-out prompts."""
    policy = parts.language
    asked = (parts.prompts.heldout or parts.prompts.train)[:KL_PROMPTS]

    def measure(theta: Theta) -> float:
        with moved(policy, theta):
            return policy.kl(asked, seed=parts.config.run.root_seed)[0]

    return measure


COMPARISONS = 4


def make(ledger: Ledger, parts: RunParts, count: int = COMPARISONS) -> bool:
    """Store ``count`` A/A comparisons of D training prompts each; False if there are some.

    Both sides are independent samples of the policy at the latest weights. All draws derive from
    the root seed, and no other draw of the run depends on them.
    """
    if calibration.has_aa(ledger):
        return False
    root, pool, D = ledger.root_seed, parts.prompts.train, parts.settings.section.D
    key = seeds.derive(root, "aa prompts")  # the same permutation again where the prompts run out
    order = seeds.endless_order(len(pool), count * D, lambda lap: key)
    asked = [pool[i] for i in order]
    plus, minus = (
        samples.sample_answers(
            ledger, parts, asked, until=None, seed=seeds.as_seed(seeds.derive(root, "aa", k=k))
        )[0]
        for k in (0, 1)
    )
    rows = [Row(clean_prompt(p), a, b) for p, a, b in zip(asked, plus, minus, strict=True)]
    return calibration.store_comparisons(ledger, samples.cut(ledger, "aa", rows, D))
