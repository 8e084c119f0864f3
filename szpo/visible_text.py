"""Make text from models, people or records safe to show: no character hides or reorders text."""

from __future__ import annotations

import re
from typing import Final

FILLERS: Final = "\u115f\u1160\u2800\u3164\uffa0\U00016fe4\U0001d159"
"""Letters and signs that are drawn as nothing: of Hangul, Braille, Khitan and musical notes."""
_LATIN: Final = "\x00-\u024f"
HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028\u2029\u202a-\u202e\u2060-\u206f\ufe00-\ufe0d\ufeff\ufff0-\ufffb"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    f"\U0001d173-\U0001d17a\U000e0000-\U000e0fff{FILLERS}]"
    f"|(?<![^{_LATIN}])[\u200c\u200d](?![^{_LATIN}])"
    f"|(?<![^{_LATIN}])(?<![\xa9\xae])[\ufe0e\ufe0f](?!\u20e3)|(?<=[\ufe0e\ufe0f])[\ufe0e\ufe0f]"
)
"""Characters that nobody sees: controls (except tab and line feed), directional marks, zero-width
characters, fillers, variation selectors.

Joiners (U+200C, U+200D) and selectors (U+FE0E, U+FE0F) stay beside letters of scripts that need
them and in emoji.
"""


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen."""
    return not HIDDEN.sub("", text).strip()


def visible(text: str) -> str:
    r"""The text with Unix line ends, and with the code point of each hidden character.

    >>> visible("left\u202eright\x1b[2K\r\n")
    'left⟨202E⟩right⟨001B⟩[2K\n'
    >>> visible("a\u3164b\u200dc")
    'a⟨3164⟩b⟨200D⟩c'
    """
    return HIDDEN.sub(lambda found: f"⟨{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))
