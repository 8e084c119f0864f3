"""The taste that a run's votes taught, in words and as curves; or why they taught none.

Probabilities are given once the votes show a taste. Where the coordinates are named features, they
come from each step's findings (`szpo.optim.rules.findings`), otherwise from the shown texts
(`szpo.analysis.text_taste`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from szpo.analysis import cause, text_taste
from szpo.features import dictionary, own
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config, recorded_settings
from szpo.optim.named_features import Claim, groups_of
from szpo.optim.rules.findings import Findings
from szpo.training import budget
from szpo.training.status import round_status
from szpo.voting import set_aside

LIKELY: Final = 0.5
"""Probability from which a claim is stated."""
LISTED: Final = 0.1
"""Probability from which a claim is drawn, and is mentioned where no claim is likely."""
UNEXPLAINED: Final = "a taste that no named feature explains"
UNNAMED: Final = (": no taste shown", "not clear yet")
"""What a lesson holds that names no taste."""
LENGTH: Final = "length"
"""The feature that is often liked without being meant."""
DRAWN: Final = 5
"""The most groups in a chart."""
FIGURES: Final = {"logprob": "log-probability", "tokens": "length", "margin": "topic"}
"""Names for people of the figures of predicted guards."""


@dataclass(frozen=True, slots=True)
class Line:
    """A group's probability after each step."""

    name: str
    votes: tuple[int, ...]
    chances: tuple[float, ...]
    """0 where the group was not listed, since its probability was below a fiftieth."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """The taste that all votes of a run taught, or why they taught none."""

    votes: int
    words: str
    """The taste, with probabilities once it is shown; empty where no claim is likely."""
    shown: bool
    """The votes show a taste."""
    why: str = ""
    """Why the votes show no taste in the run's coordinates; empty where they show one."""
    more_may: bool = True
    """More votes may show one, or more of it."""
    aside: tuple[str, ...] = ()
    """Groups that an order leaves out (``szpo not-about``)."""
    by_texts: bool = False
    """The taste is inferred from the texts, since the run's coordinates have no names."""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """The leading groups, the likeliest first; empty before a taste is shown."""

    def __str__(self) -> str:
        """The lesson in one line.

        >>> str(Lesson(31, "fewer commas (97 %)", True))
        '31 votes: fewer commas (97 %)'
        """
        besides = f", besides {', '.join(self.aside)}" if self.aside else ""
        besides += ", by their texts" * self.by_texts
        if self.shown:
            but = f"; no taste shown in the run's coordinates: {self.why}" if self.why else ""
            return f"{self.votes} votes{besides}: {self.words}{but}"
        perhaps = f"; perhaps {self.words}" if self.words else ""
        return f"{self.votes} votes{besides}: no taste shown{perhaps}; {self.why}"

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
        of = feature if coordinate else f"of {own.split(feature)[0]}"
        return f"{'more' if more else 'less'} {of}"
    return entry.more if more else entry.fewer


def words(found: Findings) -> str:
    """The taste of the votes, with probabilities only once they show one; "" if none is likely."""
    if found.taught is None:
        return ""
    likely = [each for each in found.taught if each.chance >= LIKELY]
    if not found.shown:
        return ", ".join(phrase_claim(each, found) for each in likely)
    if not likely and found.mix and found.unnamed >= LIKELY:
        leading = sorted(found.mix, key=lambda each: -abs(each[1]))[:DRAWN]
        parts = ", ".join(_describe_nats(name, nats > 0, nats) for name, nats in leading)
        return f"a little of many ({_percent(found.unnamed)}): {parts}"
    if not likely and found.unnamed + found.chance >= LIKELY:
        return f"{UNEXPLAINED} ({_percent(found.unnamed + found.chance)} for none)"
    return _describe_claims(found.taught, found)


def _describe_claims(every: Sequence[Claim], found: Findings | None = None) -> str:
    """A shown taste in words: its likely claims, or the leading ones where none is likely."""
    likely = [_describe_claim(each, found) for each in every if each.chance >= LIKELY]
    if likely:
        return ", ".join(likely)
    some = " or ".join(_describe_claim(each, found) for each in every[:2] if each.chance >= LISTED)
    return f"not clear yet: {some}" if some else "a taste, not clear yet which"


def phrase_claim(claim: Claim, found: Findings | None = None) -> str:
    """The group of a claim and its sense in plain words, without figures."""
    name = claim.group or claim.feature
    return phrase(name, claim.more, coordinate=found is not None and name in dict(found.mix))


def _describe_nats(name: str, more: bool, nats: float, chance: str = "") -> str:
    """A named coordinate's part of the recommended point, in a sense, with its probability."""
    held = max(0.0, nats if more else -nats)
    return f"{phrase(name, more, coordinate=True)} ({held:.1f} nats{chance})"


def _describe_claim(claim: Claim, found: Findings | None) -> str:
    """The group with its probability, then its likeliest feature where that is likely in it.

    A named coordinate is said with its nats, and what none of them carries with what would.
    """
    mix = {} if found is None else dict(found.mix)
    if claim.group in mix:
        chance = f", {_percent(claim.chance)}"
        return _describe_nats(claim.group, claim.more, mix[claim.group], chance)
    if found is not None and claim.group in found.lacking:
        return (
            f"{phrase_claim(claim)} ({_percent(claim.chance)}), which no adapter here carries: "
            f"szpo adapters make --of {shlex.quote(claim.feature)} makes one that does"
        )
    very = ""
    if claim.group not in ("", claim.feature) and claim.share >= LIKELY:
        very = (
            f", most likely {phrase(claim.feature, claim.more)} "
            f"({_percent(claim.chance * claim.share)})"
        )
    return f"{phrase_claim(claim)} ({_percent(claim.chance)}){very}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def read(ledger: Ledger) -> Lesson | None:
    """The lesson of a run as of its last step, from its named features or else from its texts.

    None before the first step. Where the coordinates have no names, also None if the coordinates
    show a taste that the texts do not, or if the rule does not fit all votes and the texts show
    none.
    """
    steps = ledger.query(
        "SELECT json_extract(body, '$.total_votes') AS votes, json_extract(body, "
        "'$.extra.findings') AS found FROM events WHERE kind = 'step' ORDER BY event"
    )
    known = [
        (row["votes"], Findings.from_json(json.loads(row["found"])))
        for row in steps
        if row["found"] is not None
    ]
    cast, last = known[-1] if known else (0, None)
    votes, why, more_may = cast + cause.count_earlier(ledger), "", True
    if last is not None and not last.shown:
        why, more_may = cause.read(ledger, last)
    if last is None or last.taught is None:
        if said := text_taste.read(ledger):
            told = _describe_claims(said[1])
            return Lesson(said[0], told, True, why, more_may, by_texts=True)
        return Lesson(votes, "", False, why, more_may) if why else None
    lines = _lines(known) if last.shown else ()
    return Lesson(votes, words(last), last.shown, why, more_may, last.aside, lines=lines)


def last_findings(ledger: Ledger) -> Findings | None:
    """What the votes say as of the last step; None before it, and if the rule fits no votes."""
    last = ledger.query(
        "SELECT json_extract(body, '$.extra.findings') AS found FROM events WHERE kind = 'step' "
        "ORDER BY event DESC LIMIT 1"
    )
    found = last[0]["found"] if last else None
    return None if found is None else Findings.from_json(json.loads(found))


def shown_from(ledger: Ledger) -> tuple[int, ...]:
    """Counted votes after the step in which they first showed a taste, and after later ones."""
    rows = ledger.query(
        "SELECT json_extract(body, '$.total_votes') AS votes, "
        "json_extract(body, '$.extra.findings') AS found FROM events WHERE kind = 'step' "
        "ORDER BY event"
    )
    shown = [row["found"] and Findings.from_json(json.loads(row["found"])).shown for row in rows]
    return tuple(row["votes"] for row in rows[shown.index(True) :]) if True in shown else ()


def note(extra: Mapping[str, Any], votes: int) -> str:
    """A few words for the line of a step; empty where there is nothing to say."""
    if not votes or (body := extra.get("findings")) is None:
        return ""
    found = Findings.from_json(body)
    parts = [] if found.shown else ["no taste shown yet"]
    if said := words(found):
        parts.append(said if found.shown else f"perhaps {said}")
    if found.share < 1:
        held = f"{100 * found.share:.0f} % of the way" if found.share else "the start"
        parts.append(f"predicted guards ({_list_figures(found)}) hold it at {held}")
    return ", ".join(parts)


def describe_hold(found: Findings | None) -> str:
    """What holds the recommended point back, with advice; empty where nothing does."""
    if found is None or found.share >= 1:
        return ""
    guards = f"guards predicted from the base's answers ({_list_figures(found)}) hold"
    if found.share:
        return (
            f"{guards} the recommended point at {100 * found.share:.0f} % of the way that the "
            "votes would take it"
        )
    return (
        f"{guards} nowhere in the direction that the votes prefer, so the recommended point "
        "stays at the start: try other coordinates (subspace.dim, adapter.layers) or, to watch "
        "the guards yourself, optimizer.guarded=false in a new run"
    )


def _list_figures(found: Findings) -> str:
    return ", ".join(FIGURES.get(name, name) for name in found.broken)


def describe_prior(ledger: Ledger) -> str:
    """Which votes of another run count, in one line; empty without any."""
    prior = ledger.spec.get("prior")
    return "" if prior is None else f"{prior['full']:,} votes of {prior['file']} count in full"


def ask_about_length(ledger: Ledger, found: Findings | None) -> str:
    """Where people's votes are about length: whether to go on, or how to leave it out; else "".

    Length is often liked without being meant. Nothing is asked once an order leaves it out.
    """
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
    if not said or group in set_aside.in_force(ledger):
        return ""
    first = ""
    if round_status(ledger).state == "finished":
        first = f"give more votes ({budget.describe_more(ledger)}) and "
    return (
        f"the votes are about length ({'; '.join(said)}): if that is what you mean, go on; "
        f"if not, {first}leave it out: szpo not-about {ledger.path} {shlex.quote(str(group))}"
    )


def more_votes(ledger: Ledger, lesson: Lesson | None) -> str:
    """How to give the run more votes, in words; "" where nobody can, or they would not help.

    ``lesson``: the result of `read`.
    """
    may = not cause.Watch(ledger).look() if lesson is None else lesson.more_may
    return budget.describe_more(ledger) if may else ""


def _lines(known: Sequence[tuple[int, Findings]]) -> tuple[Line, ...]:
    every = [{phrase_claim(c, found): c.chance for c in found.taught or ()} for _, found in known]
    leading = [name for name, chance in every[-1].items() if chance >= LISTED][:DRAWN]
    at = tuple(votes for votes, _ in known)
    return tuple(Line(name, at, tuple(c.get(name, 0.0) for c in every)) for name in leading)
