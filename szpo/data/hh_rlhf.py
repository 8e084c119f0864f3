r"""Anthropic's HH-RLHF (Bai et al. 2022): two transcripts that differ only in the last answer.

A record has ``chosen`` and ``rejected``, each a whole conversation of turns that begin with
"\n\nHuman:" or "\n\nAssistant:". The prompt reaches up to the last "Assistant:".
"""

from __future__ import annotations

import re
from typing import Any

from szpo.data.pairs import Preferences, get_text, make_pair, make_prompt, require_text
from szpo.errors import UsageError

TAG = "\n\nAssistant:"
ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")


def split(transcript: str, where: str = "transcript") -> tuple[str, str]:
    r"""Split a transcript into the prompt, up to the last "Assistant:", and the answer after it.

    >>> split("\n\nHuman: Hello?\n\nAssistant: Hi.")
    ('\n\nHuman: Hello?\n\nAssistant:', ' Hi.')
    """
    at = transcript.rfind(TAG)
    if at < 0:
        raise UsageError(
            f'{where} has no "Assistant:" after an empty line, so there is no answer in it; '
            "give transcripts of Human and Assistant turns"
        )
    end = at + len(TAG)
    return transcript[:end], transcript[end:]


def parse_turns(prompt: str, where: str = "prompt") -> tuple[tuple[str, str], ...]:
    r"""Parse the turns of a prompt that ends with "Assistant:".

    Empty turns are left out, and consecutive turns of one speaker are joined.

    >>> parse_turns("\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: Bye.\n\nAssistant:")
    (('user', 'Hello?'), ('assistant', 'Hi.'), ('user', 'Bye.'))
    """
    before, *parts = _TURN.split(prompt.removesuffix(TAG))
    if before.strip():
        raise UsageError(f"{where} begins before the first speaker; begin with \\n\\nHuman:")
    found: list[tuple[str, str]] = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        role, words = ROLES[speaker], text.strip()
        if words and found and found[-1][0] == role:
            found[-1] = (role, f"{found[-1][1]}\n\n{words}")
        elif words:
            found.append((role, words))
    if not found or found[-1][0] != "user":
        raise UsageError(f"{where}: the last turn before the answer must be Human's")
    return tuple(found)


def read_pairs(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of a record."""
    chosen, rejected = (get_text(record, key, where) for key in ("chosen", "rejected"))
    prompt, better = split(chosen, f"{where}: chosen")
    if not rejected.startswith(prompt):
        split(rejected, f"{where}: rejected")  # raises if the tag is missing
        raise UsageError(f"{where}: chosen and rejected do not share the prompt before the answer")
    worse = rejected[len(prompt) :]
    return make_pair(
        make_prompt(parse_turns(prompt, where), record, where),
        _answer(better, f"{where}: chosen"),
        _answer(worse, f"{where}: rejected"),
    )


def _answer(text: str, where: str) -> str:
    if _TURN.search(text):
        raise UsageError(f"{where} goes on with Human's turn after the last answer; end it there")
    return require_text(text.strip(), f"{where}: the last answer")
