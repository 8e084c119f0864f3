"""Probes of a judge: pairs whose better answer is certain, and measures of its biases.

The pairs are requests with a form to keep (`szpo_simulators.rewards.verifiers`), answered twice by
generated texts: once in that form, once not, otherwise equal. The biases are those described for
language models as judges (Zheng et al., arXiv:2306.05685).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from szpo import seeds
from szpo.intervals import share
from szpo.judges.backends import Backend, Question
from szpo.judges.llm_judge import LanguageJudge, Opinion, Opinionated
from szpo.judges.prompting import Labels
from szpo.models import tiny
from szpo.types import Answer, Choice, Comparison, Prompt, Row
from szpo_simulators.rewards.verifiers import verifier

Change = Callable[[str], str]
FORMS: Final[tuple[tuple[str, str, Change, Change], ...]] = (
    ("lowercase", "Use small letters only.", str.lower, str),
    ("uppercase", "Use capital letters only.", str.upper, str),
    ("exclaims", "Use an exclamation mark.", lambda t: t[:-1] + "!", str),
    ("quoted", "Put the whole answer in double quotes.", lambda t: f'"{t}"', str),
    ("question", "End with a question.", lambda t: t + " Or was it?", lambda t: t + " It was."),
    ("has_digit", "Name a number, in digits.", lambda t: t + " At 7.", lambda t: t + " At ten."),
    ("no_comma", "Use no comma.", lambda t: t.replace(",", ""), lambda t: f"Well, {t}"),
    (
        "contains(table)",
        'Use the word "table".',
        lambda t: t + " By the table.",
        lambda t: t + " By the chair.",
    ),
)
"""Checks with their request in words, and how a text is made to pass and to fail."""
OTHER_NAMES: Final[dict[str, Labels]] = {
    "letters exchanged": ("B", "A"),
    "numbers": ("1", "2"),
    "assistants": ("Assistant 1", "Assistant 2"),
}


@cache
def tasks(count: int, seed: int = 0, rows: int = 1) -> tuple[Comparison, ...]:
    """Comparisons of which the plus side keeps the form asked for and the minus side does not.

    >>> row = tasks(1)[0].rows[0]
    >>> row.prompt.text, row.plus.text
    ('Tell me about the cat. Use small letters only.', 'this time the cat was beautiful.')
    """
    texts = tiny.corpus(seed, count * rows)
    found = []
    for i in range(count):
        made = []
        for j in range(rows):
            name, asked, keep, miss = FORMS[(i + j) % len(FORMS)]
            ask, text = next(texts)
            good, bad = keep(text), miss(text)
            check = verifier(name)
            assert check(good) and not check(bad), (name, text)
            made.append(Row(Prompt.user(f"{ask} {asked}"), Answer(good), Answer(bad)))
        found.append(Comparison(f"task-{seed}-{i}", 0, 0, i, tuple(made)))
    return tuple(found)


def pad(comparison: Comparison) -> Comparison:
    """The good answer with a padded copy of itself: plus is the longer one."""
    rows = tuple(
        Row(r.prompt, Answer(f"{r.plus.text} To say it once more: {r.plus.text}"), r.plus)
        for r in comparison.rows
    )
    return replace(comparison, id=f"{comparison.id}-padded", rows=rows)


@dataclass(frozen=True)
class Answers:
    """Opinions on comparisons; in each, plus stood on side A."""

    opinions: tuple[Opinion, ...]

    @property
    def orders(self) -> list[tuple[Choice, Choice]]:
        """The answers in both orders, A for plus; a judge without orders counts twice."""
        found: list[tuple[Choice, Choice]] = []
        for each in self.opinions:
            if each.choice != "skip":
                pairs = each.details.get("orders") or [(each.choice, each.choice)]
                found += [(pair[0], pair[1]) for pair in pairs]
        return found

    @property
    def firsts(self) -> list[bool]:
        """For every single reply that names a side: whether it prefers the answer shown first."""
        flat = [(a == "A", a) for a, _ in self.orders] + [(b == "B", b) for _, b in self.orders]
        return [first for first, choice in flat if choice != "tie"]

    def figures(self) -> dict[str, Any]:
        """Shares as [value, low, high, of], 95 % (Wilson); None where there is no answer."""
        choices = [each.choice for each in self.opinions]
        details = [each.details for each in self.opinions]
        decided = [choice == "A" for choice in choices if choice in ("A", "B")]
        same = [a == b != "tie" for a, b in self.orders]
        odds = [each["p"] > 0.5 for each in details if "p" in each and each["p"] != 0.5]
        return {
            "consistency": share_of(same),
            "first place": share_of(self.firsts),
            "plus": share_of(decided),
            "liking cancelled": share_of(odds),
            "ties": share_of([choice == "tie" for choice in choices]),
            "unreadable": share_of([choice == "skip" for choice in choices]),
            "errors": sorted({str(d["error"]) for d in details if "error" in d}),
            "tokens": [sum(d.get("tokens", (0, 0))[i] for d in details) for i in (0, 1)],
        }


def share_of(hits: Sequence[bool]) -> list[float] | None:
    """A share as [value, low, high, of]."""
    if not hits:
        return None
    found = share(sum(hits), len(hits))
    return [sum(hits) / len(hits), found.low, found.high, len(hits)]


def ask(judge: Opinionated, comparisons: Sequence[Comparison]) -> Answers:
    """Every comparison put to the judge once, plus on side A."""
    keys = [seeds.derive(0, "bench", name=each.id) for each in comparisons]
    return Answers(
        tuple(
            judge.opinion(each, panelist="p", plus_side="A", key=key)
            for each, key in zip(comparisons, keys, strict=True)
        )
    )


def rename(judge: LanguageJudge, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How often a single reply prefers the same answer when the two sets have other names."""
    before = ask(judge, comparisons)
    found = {}
    for name, labels in OTHER_NAMES.items():
        after = ask(replace(judge, labels=labels), comparisons)
        same = [
            one == other
            for a, b in zip(before.opinions, after.opinions, strict=True)
            if "skip" not in (a.choice, b.choice)
            for pair, again in zip(a.details["orders"], b.details["orders"], strict=True)
            for one, other in zip(pair, again, strict=True)
        ]
        found[name] = share_of(same)
    return found


def own_and_other(
    own: Backend, other: Backend, comparisons: Sequence[Comparison]
) -> tuple[Comparison, ...]:
    """Both models' answers to the same requests, plus the judge's own.

    Only where both or neither keep the form asked for: by that they are equally good.
    """
    prompts = [each.rows[0].prompt for each in comparisons]
    asked = [Question(p, seeds.derive(0, "own", name=p.text)) for p in prompts]
    mine, theirs = own.write(asked), other.write(asked)
    found = []
    for i, (each, a, b) in enumerate(zip(comparisons, mine, theirs, strict=True)):
        check = verifier(FORMS[i % len(FORMS)][0])
        texts = a.text.strip(), b.text.strip()
        if all(texts) and texts[0] != texts[1] and check(texts[0]) == check(texts[1]):
            row = Row(each.rows[0].prompt, Answer(texts[0]), Answer(texts[1]))
            found.append(replace(each, id=f"{each.id}-own", rows=(row,)))
    return tuple(found)
