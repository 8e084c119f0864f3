"""LLM-as-a-judge by points: the request, the parsed score, best and worst candidates.

The additive five-point judging of Self-Rewarding Language Models (Yuan et al. 2024): each of five
demands that an answer meets adds a point, and the judge ends with "Score: n". Pure text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from szpo.data.pairs import Pair
from szpo.types import Answer, Prompt

MOST = 5.0
DEMANDS = (
    "it is about what was asked and says something of use, even if parts are missing",
    "it deals with most of what was asked, even if the matter is not settled",
    "it gives the person the basics of what they need",
    "it is written as a helpful assistant would write: direct, complete, well ordered",
    "it could not be better: expert, to the point, nothing that does not belong",
)
"""One point each, in this order."""

_SCORE = re.compile(
    r"\bscore\b[\s*_`\"'”“]*(?:is|of|:|=|-|–|—)?[\s*_`\"'<(\[”“]*"
    r"(?P<points>[+-]?\d+(?:\.\d+)?)(?![\d.]*\d)(?!\s*(?:[-+*x×–]|to)\s*\d)"
    r"(?:[\s*_`>)\]]*(?:/|out of)[\s*_`<(\[]*(?P<most>\d+))?",
    re.IGNORECASE,
)


def request(prompt: Prompt, answer: str) -> Prompt:
    """The request to the judge for one answer to a prompt.

    >>> request(Prompt.user("Hello?"), "Hi.").text.splitlines()[-1]
    'End with a line "Score: n", n from 0 to 5.'
    """
    asked = "\n\n".join(f"{role}: {words}" for role, words in prompt.turns)
    listed = "\n".join(f"- one point if {demand}" for demand in DEMANDS)
    return Prompt.user(
        f"Give points to an assistant's answer. They add up, at most {MOST:g}:\n{listed}\n\n"
        f"<conversation>\n{asked}\n</conversation>\n<answer>\n{answer}\n</answer>\n\n"
        "First say in at most 100 words which points it earns and why. Do not answer the "
        f'conversation yourself.\nEnd with a line "Score: n", n from 0 to {MOST:g}.'
    )


def score(text: str) -> float | None:
    """The points that a judge's text gives, 0 to 5; None where it names none or others.

    The last score counts, as judges end with theirs. Markup, other words for the colon and
    "4/5" are understood; sums, ranges, other scales and words for numbers are not guessed at.

    >>> score("Relevant and clear. Score: 4")
    4.0
    >>> score("**Score**: 3.5/5"), score("Score: 9"), score("Four points.")
    (3.5, None, None)
    """
    *_, found = None, *_SCORE.finditer(text)
    if found is None:
        return None
    points, most = float(found["points"]), float(found["most"] or MOST)
    return points if 0 <= points <= MOST == most else None


def average(texts: Sequence[str]) -> float | None:
    """The mean of the scores that could be read; None where none could."""
    known = [points for points in map(score, texts) if points is not None]
    return sum(known) / len(known) if known else None


def extremes(points: Sequence[float | None]) -> tuple[int, int] | None:
    """Places of the best and of the worst candidate; None where all are tied or unread.

    Of equal ones the first counts.

    >>> extremes([2.0, None, 4.5, 1.0])
    (2, 3)
    >>> extremes([3.0, 3.0, None]) is None
    True
    """
    known = [(value, -place) for place, value in enumerate(points) if value is not None]
    if not known or max(known)[0] == min(known)[0]:
        return None
    lowest = min(value for value, _ in known)
    return -max(known)[1], next(-place for value, place in known if value == lowest)


@dataclass(frozen=True)
class Judged:
    """A prompt's candidate answers with the texts of their judgements."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    judgements: tuple[tuple[str, ...], ...]
    """Per candidate its judgements."""

    @property
    def points(self) -> tuple[float | None, ...]:
        """Per candidate its average, None where no judgement had a score."""
        return tuple(average(texts) for texts in self.judgements)

    @property
    def pair(self) -> Pair | None:
        """Best against worst; None for a tie, or where they are the same text."""
        ends = extremes(self.points)
        if ends is None:
            return None
        best, worst = (self.answers[place] for place in ends)
        return None if best.text == worst.text else Pair(self.prompt, best, worst, "judge")


@dataclass(frozen=True)
class Round:
    """The judged candidates of all prompts of a round."""

    judged: tuple[Judged, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """One per prompt whose candidates differ in points."""
        return tuple(one.pair for one in self.judged if one.pair is not None)

    @property
    def figures(self) -> dict[str, float]:
        """Counts, the share of judgements with a score, and the mean score."""
        texts = [text for one in self.judged for own in one.judgements for text in own]
        read = [value for value in map(score, texts) if value is not None]
        return {
            "judgements": float(len(texts)),
            "parsed": len(read) / len(texts) if texts else 0.0,
            "points": sum(read) / len(read) if read else 0.0,
            "pairs": float(len(self.pairs)),
            "ties": float(len(self.judged) - len(self.pairs)),
        }
