"""The taste that a run's votes taught, in words and as curves.

The taste comes from each step's findings on named features (`szpo.optim.regression`), with
probabilities once the votes show one. For other runs `szpo taste --features` fits what you name.
`Watch` warns of questions without a difference during the run; `szpo.policies.teachable` warns
before it.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import dropwhile
from typing import Any, Final

from szpo.analysis import vote_rows
from szpo.errors import UsageError
from szpo.features import dictionary, user_features
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config, recorded_settings
from szpo.optim.named_features import Claim, groups_of
from szpo.optim.regression import Findings
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED
from szpo.policies import subspaces
from szpo.policies.teachable import advise
from szpo.replay import replay
from szpo.runs import budget
from szpo.taste import Taste
from szpo.voting import panel_evaluator, withdrawals

LIKELY: Final = 0.5
"""Probability from which a claim is stated."""
LISTED: Final = 0.1
"""Probability from which a claim is drawn, and is mentioned where no claim is likely."""
PERHAPS: Final = 3
"""Most claims that are mentioned before a taste is shown."""
UNEXPLAINED: Final = "a taste that no words of the dictionary say"
NAMED: Final = "taste named"
"""Event: a person names what no words of the dictionary say."""
LONGEST_NAME: Final = 80
"""Most characters of such a name."""
UNNAMED: Final = (": no taste shown", "not clear yet", "not clear any more")
"""What a lesson holds that names no taste."""
LENGTH: Final = "length"
"""The feature that is often liked without being meant."""
DRAWN: Final = 5
"""The most groups in a chart."""
GREW: Final = math.log(1.25)
"""Evidence that has grown by so many nats since half of the votes is called growing."""
SURE: Final = 10
"""With this many comparisons, the share of those without a difference is reported."""


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


def _rows(ledger: Ledger) -> int:
    """Prompts in a comparison."""
    return int(ledger.spec.get("optimizer", {}).get("D", 1))


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
    score = panel_evaluator.find_reward(ledger)
    if score is None:
        return 0
    cast = vote_rows.read_judged(ledger)
    equal = [
        sum(score(row.prompt, row.plus) - score(row.prompt, row.minus) for row in c.rows) == 0
        for c in cast.comparisons
    ]
    return sum(equal[which] for which in cast.which)


@dataclass(frozen=True, slots=True)
class Lesson:
    """The taste that all votes of a run taught."""

    votes: int
    words: str
    """The taste, with probabilities once it is shown; empty where no claim is likely."""
    shown: bool
    """The votes show a taste."""
    decided: int | None = None
    """Those of the votes that preferred a side; None where all did."""
    evidence: str = ""
    """How near to a shown taste they are, and whether that was growing; empty once it is shown."""
    equal: str = ""
    """That half of the questions show no difference, so that more votes show nothing."""
    lines: tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...] = field(
        default=(), repr=False
    )
    """The leading groups, the likeliest first: votes after each step, and the probability then, 0
    below a fiftieth. Empty before a taste is shown."""
    mixed: tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...] = field(
        default=(), repr=False
    )
    """The adapters that are mixed most, the farthest first: votes after each step, and what each
    alone costs then in nats, below 0 against its name. Empty without adapters, or once weights
    are adopted."""

    def __str__(self) -> str:
        """The lesson in one line.

        >>> str(Lesson(31, "fewer commas (97 %)", True))
        '31 votes: fewer commas (97 %)'
        """
        began = f"{self.votes} vote{'s' * (self.votes != 1)}"
        if self.shown:
            return f"{began}: {self.words}"
        began += "" if self.decided is None else f", {self.decided} decided"
        evidence = f" ({self.evidence})" if self.evidence else ""
        perhaps = f"; perhaps {self.words}" if self.words else ""
        return f"{began}: no taste shown{evidence}{perhaps}{'; ' * bool(self.equal)}{self.equal}"

    def as_dict(self) -> dict[str, Any]:
        """The values for ``--json``."""
        return {**asdict(self), "text": str(self)}


def phrase(feature: str, more: bool, *, coordinate: bool = False) -> str:
    """More or less of a feature, or of a named coordinate, in plain words.

    A coordinate may also be called by what there is more or less of, as "shorter".

    >>> phrase("commas", False), phrase("first person", True, coordinate=True)
    ('fewer commas', 'more first person')
    """
    entry = dictionary.BY_NAME.get(feature)
    if entry is None and coordinate:
        for each in dictionary.ENTRIES:
            if feature in (each.more, each.fewer):
                return each.more if more == (feature == each.more) else each.fewer
    if entry is None:
        of = feature if coordinate else f"of {user_features.split(feature)[0]}"
        return f"{'more' if more else 'less'} {of}"
    return entry.more if more else entry.fewer


def require_name(text: str) -> str:
    """A name for what no words of the dictionary say, without spaces around it.

    Raises:
        UsageError: it is empty, too long, or more than one printable line.
    """
    name = text.strip()
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise UsageError(f"--name: give one line of 1 to {LONGEST_NAME} printable characters")
    return name


def give_name(ledger: Ledger, name: str, by: str) -> None:
    """Record what a person calls what no words of the dictionary say; the last name counts."""
    with ledger.transaction(by):
        ledger.record_event(NAMED, by, {"name": require_name(name)})


def read_name(ledger: Ledger, before: int = 2**62) -> str:
    """The name given last before this event; "" where there is none."""
    given = [each["body"]["name"] for each in ledger.events(NAMED) if each["event"] < before]
    return str(given[-1]) if given else ""


def recorded_taste(ledger: Ledger, body: Mapping[str, Any]) -> Taste:
    """The taste that an improvement was on, by the name that it has now."""
    return replace(Taste.from_json(body["taste"]), called=read_name(ledger))


def words(found: Findings, name: str = "") -> str:
    """The taste of the votes with probabilities; "" where nothing is said.

    Before they show one, what is likeliest, from `LISTED` on. ``name``: what a person calls what
    no words of the dictionary say.
    """
    unexplained = name or UNEXPLAINED
    if found.taught is None:
        return ""
    if not found.shown:
        perhaps = [(phrase_claim(each, found), each.chance) for each in found.taught]
        perhaps.append((unexplained, found.unnamed))
        most = sorted((each for each in perhaps if each[1] >= LISTED), key=lambda each: -each[1])
        return ", ".join(f"{name} ({_percent(chance)})" for name, chance in most[:PERHAPS])
    likely = [each for each in found.taught if each.chance >= LIKELY]
    if not likely and found.mix and found.unnamed >= LIKELY:
        held = [(name, nats) for name, nats in found.mix if nats is not None]
        parts = _describe_most(held)
        return f"a little of many ({_percent(found.unnamed)}){': ' * bool(parts)}{parts}"
    if not likely and found.chance >= LIKELY:
        return f"not clear any more: it may be chance ({_percent(found.chance)})"
    if not likely and found.unnamed + found.chance >= LIKELY:
        return f"{unexplained} ({_percent(found.unnamed)})"
    if likely:
        return ", ".join(_describe_claim(each, found) for each in likely)
    leading = [each for each in found.taught[:2] if each.chance >= LISTED]
    some = " or ".join(_describe_claim(each, found) for each in leading)
    return f"not clear yet: {some}" if some else "a taste, not clear yet which"


def phrase_claim(claim: Claim, found: Findings) -> str:
    """The group of a claim and its sense in plain words, without figures."""
    name = claim.group or claim.feature
    return phrase(name, claim.more, coordinate=name in dict(found.mix))


def _describe_most(held: Sequence[tuple[str, float]]) -> str:
    """The named coordinates that cost most alone, the farthest first."""
    most = sorted(held, key=lambda each: -abs(each[1]))[:DRAWN]
    return ", ".join(_describe_nats(name, nats > 0, nats) for name, nats in most)


def _describe_nats(name: str, more: bool, nats: float, chance: str = "") -> str:
    """A named coordinate's part of the recommended point, in a sense, with its probability."""
    held = max(0.0, nats if more else -nats)
    return f"{phrase(name, more, coordinate=True)} ({held:.1f} nats{chance})"


def _describe_claim(claim: Claim, found: Findings) -> str:
    """The group with its probability, then its likeliest feature where that is likely in it."""
    mix = dict(found.mix)
    if (nats := mix.get(claim.group)) is not None:
        return _describe_nats(claim.group, claim.more, nats, f", {_percent(claim.chance)}")
    if claim.group in mix:
        return f"{phrase_claim(claim, found)} ({_percent(claim.chance)})"
    if claim.group in found.lacking:
        return (
            f"{phrase_claim(claim, found)} ({_percent(claim.chance)}), which no adapter here "
            f"carries: szpo adapters make --model MODEL --of {shlex.quote(claim.feature)} makes "
            "one that does"
        )
    very = ""
    if claim.group not in ("", claim.feature) and claim.share >= LIKELY:
        very = (
            f", most likely {phrase(claim.feature, claim.more)} "
            f"({_percent(claim.chance * claim.share)})"
        )
    return f"{phrase_claim(claim, found)} ({_percent(claim.chance)}){very}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def read(ledger: Ledger) -> Lesson | None:
    """The lesson of a run as of its last step.

    None before the first step, if the rule does not fit all votes, and if coordinates without
    names show a taste.
    """
    known = _read_findings(ledger)
    if not known:
        return None
    cast, last = known[-1]
    last = last if theta.last_adopted(ledger) is None else last.replaced
    votes = cast - withdrawals.count_out(ledger, ledger.last_applied())
    equal = "" if last.shown else Watch(ledger).look()
    ties = _count(ledger)[2]
    if last.taught is None and last.shown:
        return None
    lines = _lines(known) if last.shown else ()
    return Lesson(
        votes, words(last, read_name(ledger)), last.shown, max(0, votes - ties) if ties else None,
        _describe_evidence(known), equal, lines, _mixed(known, last),
    )  # fmt: skip


def _describe_evidence(known: Sequence[tuple[int, Findings]]) -> str:
    """The odds of votes that show no taste, beside those after half of them."""
    votes, last = known[-1]
    if last.shown or not votes:
        return ""
    half = max((each.factor for cast, each in known if 2 * cast <= votes), default=-math.inf)
    grew = "growing" if last.factor > half + GREW else "not growing"
    before = f"; {grew}, {math.exp(half):.2g} after half of them" if half > -math.inf else ""
    return f"odds of {math.exp(last.factor):.2g} where it takes {BAYES_FACTOR_NEEDED:g}{before}"


def describe_unshown(found: Findings) -> str:
    """How far votes are from showing a taste, and what it may be."""
    perhaps = words(found)
    return (
        f"(odds of {math.exp(found.factor):.2g}, it takes {BAYES_FACTOR_NEEDED:g})"
        f"{'; perhaps ' * bool(perhaps)}{perhaps}"
    )


def last_findings(ledger: Ledger, steps: int | None = None) -> Findings | None:
    """What the votes say after the last step, or after so many; None without a step that fits."""
    last = ledger.query(
        "SELECT json_extract(body, '$.extra.findings') AS found FROM events WHERE kind = 'step' "
        "AND (?1 IS NULL OR json_extract(body, '$.step') < ?1) ORDER BY event DESC LIMIT 1",
        (steps,),
    )
    body = last[0]["found"] if last else None
    if body is None:
        return None
    found = Findings.from_json(json.loads(body))
    return found if theta.last_adopted(ledger, steps) is None else found.replaced


def describe_mix(ledger: Ledger, found: Findings | None) -> str:
    """Which adapters a run mixes whose rule fits no taste, each with its nats alone; else "".

    ``found``: the result of `last_findings`.
    """
    if not ledger.spec.get("space", {}).get("sources") or found is not None:
        return ""
    blocks, moved = subspaces.read_recorded(ledger).blocks, replay.fold(ledger)
    if blocks is None or "z" not in moved:  # improved further
        return ""
    each = blocks.nats(moved["z"]).items()
    return _describe_most([(name, nats) for name, nats in each if abs(nats) >= 0.05])


def shown_from(ledger: Ledger) -> tuple[int, ...]:
    """Counted votes after the step in which they first showed a taste, and after later ones."""
    known = _read_findings(ledger)
    return tuple(votes for votes, _ in dropwhile(lambda each: not each[1].shown, known))


def _read_findings(ledger: Ledger) -> list[tuple[int, Findings]]:
    """The votes counted after each step, and what they say; empty where no rule fits them."""
    rows = ledger.query(
        "SELECT json_extract(body, '$.total_votes') AS votes, json_extract(body, "
        "'$.extra.findings') AS found FROM events WHERE kind = 'step' ORDER BY event"
    )
    found = ((row["votes"], row["found"]) for row in rows if row["found"] is not None)
    return [(votes, Findings.from_json(json.loads(text))) for votes, text in found]


def note(extra: Mapping[str, Any], votes: int) -> str:
    """A few words for the line of a step; empty where there is nothing to say."""
    if not votes or (body := extra.get("findings")) is None:
        return ""
    found = Findings.from_json(body)
    parts = [] if found.shown else ["no taste shown yet"]
    if said := words(found):
        parts.append(said if found.shown else f"perhaps {said}")
    return ", ".join(parts)


def ask_about_length(ledger: Ledger, found: Findings | None) -> str:
    """Where people's votes are about length: whether it is meant, as it often is not; else ""."""
    config = recorded_config(ledger)
    if config is None or config.panel.kind != "people" or found is None or not found.shown:
        return ""
    named = recorded_settings(ledger).features
    every = {} if named is None else groups_of(named)
    group = next((name for name, own in every.items() if LENGTH in own), None)
    said = [
        f"{phrase(LENGTH, each.more)}, {_percent(each.chance)}"
        for each in found.taught or ()
        if each.group == group and each.chance >= LIKELY
    ]
    if not said:
        return ""
    return (
        f"the votes are about length ({'; '.join(said)}): if that is what you mean, go on; "
        "if not, say so in panel.guideline of a new run"
    )


def more_votes(ledger: Ledger, lesson: Lesson | None) -> str:
    """How to give the run more votes, in words; "" where nobody can, or they would not help.

    ``lesson``: the result of `read`.
    """
    equal = Watch(ledger).look() if lesson is None else lesson.equal
    return "" if equal else budget.describe_more(ledger)


def _mixed(
    known: Sequence[tuple[int, Findings]], last: Findings
) -> tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...]:
    end = {name: nats for name, nats in last.mix if nats}
    at, every = tuple(votes for votes, _ in known), [dict(found.mix) for _, found in known]
    return tuple(
        (name, at, tuple(mix.get(name) or 0.0 for mix in every))
        for name in sorted(end, key=lambda each: -abs(end[each]))[:DRAWN]
    )


def _lines(
    known: Sequence[tuple[int, Findings]],
) -> tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...]:
    every = [{phrase_claim(c, found): c.chance for c in found.taught or ()} for _, found in known]
    leading = [name for name, chance in every[-1].items() if chance >= LISTED][:DRAWN]
    at = tuple(votes for votes, _ in known)
    return tuple((name, at, tuple(c.get(name, 0.0) for c in every)) for name in leading)
