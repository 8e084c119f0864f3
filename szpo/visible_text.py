"""Make text from models, people or records safe to show: no character hides or reorders text."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters (except tab and line feed), directional marks, and zero-width characters.

Joiners (U+200C, U+200D) stay, since some scripts and emoji need them.
"""


def visible(text: str) -> str:
    r"""The text with Unix line ends, and with the code point of each hidden character.

    >>> visible("left\u202eright\x1b[2K\r\n")
    'left⟨202E⟩right⟨001B⟩[2K\n'
    """
    return HIDDEN.sub(lambda found: f"⟨{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))
