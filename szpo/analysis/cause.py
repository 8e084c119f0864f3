"""Why votes show no taste: no differences, too few votes, disagreement, or the coordinates.

`Watch` warns of questions without a difference during the run; `szpo.policies.teachable` warns
before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from szpo.analysis import agreement, evidence, features, vote_rows
from szpo.analysis.feature_weights import fit_taste, read_votes
from szpo.errors import SzpoError
from szpo.evaluators import hidden_reward
from szpo.intervals import Share, share
from szpo.ledger.database import Ledger
from szpo.optim.rules.findings import Findings
from szpo.policies.teachable import advise

MIN_VOTES: Final = 80
"""With fewer votes nobody can say that they follow no named feature.

Of 60 simulated runs on sixty features, this many look as if they followed none after 40 and after
80 votes: 53 and 54 where votes are random, 35 and 18 where the taste is half as clear as usual,
5 and 0 where it is usual (tests/analysis/test_cause.py)."""
PAIRS: Final = 40
"""With this many pairs of votes on one comparison, their agreement decides."""
ALIKE: Final = 0.6
"""Share of agreeing pairs from which voters agree: half way from chance to the usual 70 %."""
SURE: Final = 10
"""With this many comparisons, the share of those without a difference is reported."""
USUAL: Final = "length,readability,politeness,sentiment,questions,repetition,overlap"
"""Features that are tested where the run names none; for English texts."""


def describe(
    *, votes: int, asked: int, same: int, undecided: bool, alike: Share, foretold: Share,
    clearer: str, rows: int = 8,
) -> str:  # fmt: skip
    """The first cause that holds, in a sentence with advice.

    Args:
        votes: counted votes.
        asked: comparisons, including those tied without being asked.
        same: those of them without a difference: ties, equal sides, equal for a simulated panel.
        undecided: more votes like these would probably show a taste (`Findings.undecided`).
        alike: share of pairs of votes on one comparison that chose the same side.
        foretold: share of votes that named features predict from the others; empty where named
            features are the coordinates.
        clearer: advice on asking the voters more clearly; empty where they read no words.
        rows: prompts in a comparison.
    """
    if equal := _describe_equal(same, asked, rows):
        return equal
    if votes < MIN_VOTES or undecided:
        return f"the votes are too few (a clear taste takes 40 to {MIN_VOTES}): continue voting"
    pairs = f"in {alike.hits:.0f} of {alike.of:.0f} pairs two votes on one comparison"
    known = alike.of >= PAIRS
    if known and (alike.value or 0.0) < ALIKE:
        then = clearer or "take another panel"
        return (
            f"the voters disagree ({pairs} agree): {then}, or look for several tastes (clusters)"
        )
    if known or foretold.low > 0.5:
        how = pairs if known else f"{100 * (foretold.value or 0):.0f} % can be foretold"
        return (
            f"the voters agree ({how}{' agree' * known}), but these coordinates do not carry what "
            "they want: take prompts that invite it, or other coordinates (features.add, "
            "subspace.kind, subspace.dim)"
        )
    return (
        "the voters disagree, or want what these coordinates do not carry: several votes on a "
        "comparison tell which (optimizer.M)"
    )


def _describe_equal(same: int, asked: int, rows: int) -> str:
    """That half of the questions show no difference; empty where that is not known."""
    if asked < SURE or 2 * same < asked:
        return ""
    return f"{same} of {asked} questions show no difference: {advise(rows)}"


@dataclass(slots=True)
class Watch:
    """Warns once, while a run goes on, that half of its questions show no difference.

    It looks whenever the number of questions has doubled, so as not to read a long run each step.
    """

    ledger: Ledger
    _next: int = field(default=SURE)

    def look(self) -> str:
        """The warning, if it is due now; else empty."""
        if not self._next:
            return ""
        votes, automatic, ties = _count(self.ledger)
        asked = votes + automatic
        if asked < self._next:
            return ""
        self._next = 2 * asked
        same = _count_same(self.ledger, votes, automatic, ties)
        if found := _describe_equal(same, asked, _rows(self.ledger)):
            self._next = 0
        return found


def read(ledger: Ledger, found: Findings) -> tuple[str, bool]:
    """Why a run's votes show no taste, and whether more votes may show one.

    If half of the questions show no difference, more votes show nothing.
    """
    cast, automatic, ties = _count(ledger)
    votes, asked = cast + count_earlier(ledger), cast + automatic
    alike = agreement.within(evidence.read(ledger).totals)  # with those of second people
    unknown = found.taught is None and not found.undecided
    look = unknown and votes >= MIN_VOTES and alike.of < PAIRS
    same = _count_same(ledger, cast, automatic, ties)
    rows = _rows(ledger)
    words = describe(
        votes=votes,
        asked=asked,
        same=same,
        undecided=found.undecided,
        alike=alike,
        foretold=_predicted(ledger) if look else share(0, 0),
        clearer=_ask_more_clearly(ledger.spec.get("config", {})),
        rows=rows,
    )
    return words, not _describe_equal(same, asked, rows)


def _rows(ledger: Ledger) -> int:
    """Prompts in a comparison."""
    return int(ledger.spec.get("optimizer", {}).get("D", 1))


def count_earlier(ledger: Ledger) -> int:
    """The number of votes of an earlier run that count in full."""
    return int((ledger.spec.get("prior") or {}).get("full", 0))


def _ask_more_clearly(config: Mapping[str, Any]) -> str:
    """Advice by kind of panel: people read the question, a judge what counts, others neither."""
    kind, judge = config.get("panel", {}).get("kind"), config.get("judge") or {}
    if kind == "people":
        return "ask a clearer question (panel.question)"
    if kind != "judge" or judge.get("kind") == "scorer":
        return ""
    name = "judge.principles" if judge.get("principles") else "panel.guideline"
    return f"say more clearly what counts ({name})"


def _count(ledger: Ledger) -> tuple[int, int, int]:
    """Over all steps, the numbers of votes, ties without asking, and ties among the votes."""
    row = ledger.query(
        "SELECT max(json_extract(body, '$.total_votes')) AS votes, "
        "sum(json_extract(body, '$.automatic_ties')) AS same, "
        "sum(json_extract(body, '$.ties')) AS ties FROM events WHERE kind = 'step'"
    )[0]
    return int(row["votes"] or 0), int(row["same"] or 0), int(row["ties"] or 0)


def _count_same(ledger: Ledger, votes: int, automatic: int, ties: int) -> int:
    """Questions without a difference: ties, equal sides, equal for a simulated panel."""
    return automatic + (max(ties, _without_difference(ledger)) if votes else 0)


def _without_difference(ledger: Ledger) -> int:
    """Counted votes on comparisons whose sides a simulated panel likes equally."""
    score = hidden_reward.find_reward(ledger)
    if score is None:
        return 0
    cast = vote_rows.read_judged(ledger)
    equal = [
        sum(score(row.prompt, row.plus) - score(row.prompt, row.minus) for row in c.rows) == 0
        for c in cast.comparisons
    ]
    return sum(equal[which] for which in cast.which)


def _predicted(ledger: Ledger) -> Share:
    """The share of votes that `USUAL` features predict from the votes on other comparisons."""
    try:
        votes = read_votes(ledger, features.parse(USUAL))
        return fit_taste(votes, seed=ledger.root_seed).held_out
    except SzpoError:  # no votes, or no feature differs
        return share(0, 0)
