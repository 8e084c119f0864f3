"""Why votes show no taste: equal questions, too few votes, voters who disagree, or no reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from szpo.analysis import agreement, evidence, features, vote_texts
from szpo.analysis.feature_weights import FeatureVotes, fit_taste
from szpo.errors import SzpoError
from szpo.evaluators import hidden_reward
from szpo.intervals import Share, share
from szpo.ledger.database import Ledger

FEW: Final = 80
"""Votes below which they are too few to say that they follow nothing that has a name.

Of 60 simulated runs on sixty features, those of a taste half as clear as usual that still look so
are 35 at 40 votes and 18 at 80, of a usual one 5 and 0, of votes by chance 53 and 54
(tests/analysis/test_taught.py)."""
PAIRS: Final = 40
"""Pairs of votes on one comparison from which their agreement decides."""
ALIKE: Final = 0.6
"""Agreement above which voters agree: half way from chance to a usual panel's 70 %."""
SURE: Final = 10
"""Comparisons from which the share of those without a difference is told."""
USUAL: Final = "length,readability,politeness,sentiment,questions,repetition,overlap"
"""Features that are looked at where nobody names one; for English texts."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a run without evidence shows of its cause."""

    votes: int
    """Counted."""
    asked: int
    """Comparisons, those tied without asking among them."""
    same: int
    """Those of them without a difference: ties, equal sides, equal for a simulated panel."""
    undecided: bool
    """More votes like these would probably show something."""
    alike: Share
    """Pairs of votes on one comparison that chose the same side."""
    foretold: Share
    """Votes that named features predict from the others; nothing where they are coordinates."""
    read: bool
    """Somebody read the question."""


def describe(signs: Signs) -> str:
    """The cause in a sentence with what to do; the first that holds."""
    if signs.asked >= SURE and 2 * signs.same >= signs.asked:
        return (
            f"{signs.same} of {signs.asked} questions show no difference: take prompts whose "
            "answers differ in what you want, or more rows in a vote (optimizer.rows)"
        )
    if signs.votes < FEW or signs.undecided:
        return f"the votes are too few (a clear taste takes 40 to {FEW}): continue voting"
    pairs = f"in {signs.alike.hits:.0f} of {signs.alike.of:.0f} pairs two votes on one comparison"
    alike = signs.alike.value or 0.0
    known = signs.alike.of >= PAIRS
    if known and alike < ALIKE:
        then = "ask a clearer question (panel.question)" if signs.read else "take another panel"
        return (
            f"the voters disagree ({pairs} agree): {then}, or look for several tastes (clusters)"
        )
    if known or signs.foretold.low > 0.5:
        how = pairs if known else f"{100 * (signs.foretold.value or 0):.0f} % can be foretold"
        return (
            f"the voters agree ({how}{' agree' * known}), but these coordinates do not carry what "
            "they want: take prompts that invite it, or other coordinates (features.add, "
            "subspace.dim)"
        )
    return (
        "the voters disagree, or want what these coordinates do not carry: second votes on a "
        "comparison tell which (panel.second_share)"
    )


def read(ledger: Ledger, *, undecided: bool, named: bool) -> str:
    """Why a run's votes show no taste; ``named``: its coordinates are named features."""
    rows = ledger.query(
        "SELECT sum(json_extract(body, '$.ties')) AS ties, "
        "sum(json_extract(body, '$.automatic_ties')) AS same, "
        "max(json_extract(body, '$.total_votes')) AS votes FROM events WHERE kind = 'step'"
    )[0]
    votes, automatic = int(rows["votes"] or 0), int(rows["same"] or 0)
    panel = ledger.spec.get("config", {}).get("panel", {}).get("kind", "people")
    alike = agreement.agreement(evidence.read(ledger)).same
    second = agreement.second_opinions(ledger)
    signs = Signs(
        votes,
        votes + automatic,
        automatic + max(int(rows["ties"] or 0), _without_difference(ledger)),
        undecided,
        share(alike.hits + second.hits, alike.of + second.of),
        share(0, 0),
        panel in ("people", "judge"),
    )
    if not (named or undecided) and votes >= FEW and signs.alike.of < PAIRS:
        signs = replace(signs, foretold=_foretold(ledger))
    return describe(signs)


def _without_difference(ledger: Ledger) -> int:
    """Counted votes on comparisons whose sides a simulated panel likes equally."""
    score = hidden_reward.find_reward(ledger)
    if score is None:
        return 0
    cast = vote_texts.read(ledger)
    equal = [
        sum(score(row.prompt, row.plus) - score(row.prompt, row.minus) for row in c.rows) == 0
        for c in cast.comparisons
    ]
    return sum(equal[which] for which in cast.which)


def _foretold(ledger: Ledger) -> Share:
    """Votes that the usual features predict from the votes on other comparisons."""
    try:
        cast = vote_texts.read(ledger)
        x = features.differences(features.parse(USUAL), cast.comparisons)[cast.which]
        votes = FeatureVotes(x, cast.y, cast.panelist, cast.ids)
        return fit_taste(votes, seed=ledger.root_seed).held_out
    except SzpoError:  # no votes, or no feature differs
        return share(0, 0)
