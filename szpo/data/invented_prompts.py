"""Prompts that a model invents, like those of a user.

As in Self-Instruct (Wang et al. 2023): it shows eight tasks, and drops new ones with similarity
.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from szpo import seeds
from szpo.types import Answer, Prompt

EXAMPLES: Final = 8
"""Examples shown in a request."""
COPY_SHARE: Final = 0.7
"""Two prompts are near copies if they share at least this part of all their words."""
MAX_CHARACTERS: Final = 400
"""Most characters of a prompt."""
ROUNDS: Final = 4
"""Most rounds of requests; each asks for twice as many prompts as are missing."""
_MARKS: Final = re.compile(r"^(\d+[.)]|[-*•]|prompt:|request:)\s*", re.IGNORECASE)

Ask: TypeAlias = Callable[[Sequence[Prompt], int], Sequence[Answer]]
"""A function of requests and the round's number that returns one answer to each request."""


def request_prompts(examples: Sequence[str]) -> Prompt:
    """The prompt that asks for one more request like these.

    >>> print(request_prompts(["Sing.", "Name a bird."]).text)
    Here are requests to a writer:
    - Sing.
    - Name a bird.
    Write one more request of this kind, on one line.
    """
    lines = "".join(f"- {text}\n" for text in examples)
    end = "Write one more request of this kind, on one line."
    return Prompt.user(f"Here are requests to a writer:\n{lines}{end}")


def read_invented(answer: Answer) -> str | None:
    """The prompt in an answer: its first line, without list mark or quotes; None if there is none.

    >>> read_invented(Answer('1. "Name a fish."')), read_invented(Answer("Na", end="length"))
    ('Name a fish.', None)
    """
    first, *more = answer.text.strip().splitlines() or [""]
    if answer.end == "length" and not more:  # cut within its first line
        return None
    text = _MARKS.sub("", first.strip()).strip(" \t\"'“”")
    return text if len(text.split()) > 1 and len(text) <= MAX_CHARACTERS else None


def is_near(text: str, others: Iterable[str]) -> bool:
    """Whether a prompt is a near copy of one of the others.

    >>> is_near("Name a red bird, please.", ["name a bird please"]), is_near("Sing.", ["Dance."])
    (True, False)
    """
    own = _words(text)
    return any(len(own & w) >= COPY_SHARE * len(own | w) for w in map(_words, others))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def invent(
    own: Sequence[str], count: int, ask: Ask, *, seed: int
) -> tuple[list[str], dict[str, int]]:
    """Ask for up to ``count`` prompts like one's own that are not near copies.

    Each request shows `EXAMPLES` of the user's own prompts in a random order.

    Returns the prompts, and how many answers were asked for and left out: near copies of the
    user's prompts or of each other; unreadable ones (empty, cut, of one word, or too long).
    """
    texts: list[str] = []
    asked = copies = unreadable = 0
    for number in range(ROUNDS):
        missing = 2 * (count - len(texts))
        if missing <= 0:
            break
        keys = (seeds.derive(seed, "invented prompts", step=number, k=k) for k in range(missing))
        orders = (seeds.permutation(key, len(own))[:EXAMPLES] for key in keys)
        asked += missing
        for answer in ask([request_prompts([own[i] for i in order]) for order in orders], number):
            text = read_invented(answer)
            if text is None:
                unreadable += 1
            elif is_near(text, (*own, *texts)):
                copies += 1
            elif len(texts) < count:
                texts.append(text)
    return texts, {"asked": asked, "copies": copies, "unreadable": unreadable}
