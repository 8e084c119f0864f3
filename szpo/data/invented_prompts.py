"""Prompts that a model invents after examples: the request, its answer read, near copies dropped.

After Self-Instruct (Wang et al. 2023), which shows eight tasks and drops what is .7 alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from szpo import seeds
from szpo.types import Answer, Prompt

EXAMPLES: Final = 8
"""Examples in a request."""
COPY_SHARE: Final = 0.7
"""Share of words in common, of the words of either, from which two prompts are near copies."""
MAX_CHARACTERS: Final = 400
"""Characters of a prompt."""
ROUNDS: Final = 4
"""Times that the model is asked for what is missing, twice as much each time."""
_MARKS: Final = re.compile(r"^(\d+[.)]|[-*•]|prompt:|request:)\s*", re.IGNORECASE)

Ask: TypeAlias = Callable[[Sequence[Prompt], int], Sequence[Answer]]
"""One answer to each request; the number names the round."""


@dataclass(frozen=True, slots=True)
class Invented:
    """What was invented."""

    texts: tuple[str, ...]
    asked: int
    copies: int
    """Left out: near copies of one's own or of each other."""
    unreadable: int
    """Left out: empty, cut at the limit, of one word, or too long."""


def request(examples: Sequence[str]) -> Prompt:
    """Ask for one more prompt like these.

    >>> print(request(["Sing.", "Name a bird."]).text)
    Here are requests to a writer:
    - Sing.
    - Name a bird.
    Write one more request of this kind, on one line.
    """
    lines = "".join(f"- {text}\n" for text in examples)
    end = "Write one more request of this kind, on one line."
    return Prompt.user(f"Here are requests to a writer:\n{lines}{end}")


def read(answer: Answer) -> str | None:
    """The prompt in an answer: its first line, without mark or quotes; None where there is none.

    >>> read(Answer('1. "Name a fish."')), read(Answer("Name a")), read(Answer("Na", end="length"))
    ('Name a fish.', 'Name a', None)
    """
    first, *more = answer.text.strip().splitlines() or [""]
    if answer.end == "length" and not more:  # cut before the line's end
        return None
    text = _MARKS.sub("", first.strip()).strip(" \t\"'“”")
    return text if len(text.split()) > 1 and len(text) <= MAX_CHARACTERS else None


def is_near(text: str, others: Iterable[str]) -> bool:
    """Whether a prompt has nearly the words of one of the others.

    >>> is_near("Name a red bird, please.", ["name a bird please"]), is_near("Sing.", ["Dance."])
    (True, False)
    """
    own = _words(text)
    return any(len(own & w) >= COPY_SHARE * len(own | w) for w in map(_words, others))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def invent(own: Sequence[str], count: int, ask: Ask, *, seed: int) -> Invented:
    """Ask for ``count`` prompts that are like one's own and no near copies; it may find fewer.

    Args:
        own: Prompts, each request shows `EXAMPLES` of them in a drawn order.
        count: How many.
        ask: The model.
        seed: Names the draws of examples.
    """
    found: list[str] = []
    asked = copies = unreadable = 0
    for number in range(ROUNDS):
        missing = 2 * (count - len(found))
        if missing <= 0:
            break
        keys = (seeds.derive(seed, "invented prompts", step=number, k=k) for k in range(missing))
        orders = (seeds.permutation(key, len(own))[:EXAMPLES] for key in keys)
        asked += missing
        for answer in ask([request([own[i] for i in order]) for order in orders], number):
            text = read(answer)
            if text is None:
                unreadable += 1
            elif is_near(text, (*own, *found)):
                copies += 1
            elif len(found) < count:
                found.append(text)
    return Invented(tuple(found), asked, copies, unreadable)
