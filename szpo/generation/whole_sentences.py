"""Answers that end at their last full sentence, where the token limit would cut them.

What is cut off are tokens, before anybody reads the answer: texts, scores, KL and training see the
same shortened answer. Such an answer has no end token, since the model did not end it. The rule is
for a reader's eye: when in doubt, a mark ends nothing, and an earlier sentence is the last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from szpo.types import Answer

if TYPE_CHECKING:
    from szpo.models.batched_lora import AdaptedModel

Tokens: TypeAlias = tuple[tuple[int, ...], ...]
END: Final = re.compile(
    # Possessive, and from the first mark of a run alone: else a run takes quadratic time.
    "(?<![.!?…。！？؟।])(?P<marks>[.!?…。！？؟।]++)(?P<closers>[\"'”’»›)\\]}*_」』）]*+)"
)
"""Closing marks, and the quotes, brackets and emphasis that close after them."""
WIDE: Final = frozenset("。！？")
"""Marks of scripts without spaces between sentences."""
LEAD: Final = re.compile(r"[\w.'’-]*\Z")
"""The word that a mark ends."""
BEGINS: Final = re.compile(r"(?:\A|\n|[.!?:;])[\s#>*_•(\[–-]*\Z")
"""What stands before a list's number: the begin of a line, or the end of another item."""
NUMBER: Final = re.compile(r"(?:\d{1,3}|[ivxIVX]{1,4})\Z")
NEVER: Final = re.compile(
    "(?:[DMS]r|Mr?s|Mx|Prof|[MS]t|Sgt|Capt|Lt|Col|Gen|Rep|Sen|Gov|Hon|Rev|Messrs|vs|cf|approx|"
    r"Fig|No|Nr|Vol|Eq|Sec|bzw|ca)\Z"
)
"""Short forms after which the sentence goes on; "No" also is a sentence, see `_ends`."""
MAYBE: Final = re.compile(r"(?:etc|Inc|Ltd|Co|Corp|Jr|al|usw|ff)\Z")
"""Short forms that end a sentence unless a small letter follows."""


def sentence_ends(text: str, *, open_end: bool = False) -> list[int]:
    """The places in a text after each full sentence, with the quotes that close after its mark.

    Decimals, list numbers, initials and usual short forms end no sentence; nor does a mark before
    a small letter in quotes or after "…". With ``open_end`` the text was cut off, and a number
    with a point at its end may go on as a decimal or a list.

    >>> text = 'Dr. Li paid 3.50. "Why?" she asked. 2. Next, the'
    >>> [text[:end] for end in sentence_ends(text)]
    ['Dr. Li paid 3.50.', 'Dr. Li paid 3.50. "Why?" she asked.']
    """
    return [m.end() for m in END.finditer(text) if _ends(text, m, open_end=open_end)]


def _ends(text: str, found: re.Match[str], *, open_end: bool) -> bool:
    marks, rest = found["marks"], text[found.end() :]
    after = rest.lstrip()
    if rest and len(after) == len(rest) and not WIDE & set(marks):
        return False  # no space follows: a decimal, an address, a file's name
    goes_on = after[:1].islower()
    if marks != ".":
        return not (goes_on and (found["closers"] or "…" in marks or ".." in marks))
    word = LEAD.search(text, 0, found.start()).group()  # type: ignore[union-attr]
    if open_end and not after and word[-1:].isdigit():
        return False
    if NUMBER.match(word) and BEGINS.search(text, 0, found.start() - len(word)):
        return False
    if (len(word) == 1 and word.isalpha() and word != "I") or re.search(r"\.\w\Z", word):
        return False
    if word == "No":
        return not after[:1].isdigit()
    return not (NEVER.match(word) or (goes_on and (found["closers"] or MAYBE.match(word))))


def is_cut(answer: Answer) -> bool:
    """Whether the token limit ended an answer in the middle of a sentence.

    >>> is_cut(Answer("It rains. And", "length")), is_cut(Answer("It rains.", "length"))
    (True, False)
    """
    text = answer.text.rstrip()
    return answer.end == "length" and sentence_ends(text)[-1:] != [len(text)]


def cut_rows(adapted: AdaptedModel, rows: Sequence[Sequence[int]]) -> Tokens:
    """Cut each answer after its last full sentence; those that ended themselves stay whole."""

    def decode(tokens: Sequence[int]) -> str:
        text: str = adapted.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    stops = frozenset(adapted.stop_tokens)
    return tuple(
        tuple(row) if row and row[-1] in stops else tuple(row[: cut(row, decode)]) for row in rows
    )


def cut(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many tokens to keep: up to the last full sentence that ends with a token, else all."""
    text = decode(tokens)
    ends = frozenset(sentence_ends(text.rstrip(), open_end=True))
    kept, end = len(tokens), 0
    for count in range(len(tokens), 0, -1) if ends else ():
        begin = decode(tokens[:count]).rstrip()
        if end and len(begin) != end:
            break
        if len(begin) in ends and text.startswith(begin):
            kept, end = count, len(begin)  # a space after the mark goes too
    return kept
