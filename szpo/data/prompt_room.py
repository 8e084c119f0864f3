"""Fit prompts into a model's context: those that are too long are refused, or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.models.context import Reader
from szpo.types import Prompt

TooLong: TypeAlias = Literal["refuse", "cut"]
SHOWN = 3
"""Long prompts that a warning names; the others are counted."""


def fit_prompts(prompts: PromptSet, reader: Reader, new: int, too_long: TooLong) -> PromptSet:
    """Make room for ``new`` tokens after each prompt of a set; cuts are named in a warning.

    Raises:
        UsageError: A prompt is too long and is not to be cut, or cannot be.
    """
    every = tuple(dict.fromkeys((*prompts.places, *prompts.train, *prompts.heldout)))
    fitted = fit_each(every, reader, new, too_long, prompts.places)
    if not (changed := [prompt for prompt in every if fitted[prompt] != prompt]):
        return prompts
    where = ", ".join(_locate(prompt, prompts.places) for prompt in changed[:SHOWN])
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    warning = f"cut at their beginning to fit model {reader.name}: {where}{more}"
    return replace(
        prompts,
        train=tuple(fitted[prompt] for prompt in prompts.train),
        heldout=tuple(fitted[prompt] for prompt in prompts.heldout),
        warnings=(*prompts.warnings, warning),
        places={fitted[prompt]: place for prompt, place in prompts.places.items()},
    )


def fit_each(
    prompts: Sequence[Prompt],
    reader: Reader,
    new: int,
    too_long: TooLong,
    places: Mapping[Prompt, str] | None = None,
) -> dict[Prompt, Prompt]:
    """Map each prompt to the one that the model gets: itself, or what is left after cutting.

    Args:
        prompts: The prompts.
        reader: The model's tokenizer and context length.
        new: Tokens that an answer may have.
        too_long: What to do with prompts that leave no room.
        places: File and line of each prompt, for the message.

    Raises:
        UsageError: One is too long and is not to be cut, or cannot be.
    """
    if reader.over(new + 1):
        raise UsageError(
            f"generation.max_new_tokens {new:,} leaves no room for a prompt: model {reader.name} "
            f"reads {reader.most:,} tokens; lower it"
        )
    long = {p: n for p in prompts if reader.over((n := reader.tokens(p)) + new)}
    if long and too_long == "refuse":
        prompt, tokens = next(iter(long.items()))
        more = f" ({len(long) - 1} more prompts are too long)" if len(long) > 1 else ""
        raise UsageError(
            f"{_locate(prompt, places)}: {tokens:,} tokens and {new:,} for the answer "
            f"(generation.max_new_tokens) are more than the {reader.most:,} that model "
            f"{reader.name} reads; shorten it, lower generation.max_new_tokens, or let it be cut: "
            f'prompts.too_long = "cut"{more}'
        )
    return {p: cut_prompt(p, reader, new, _locate(p, places)) if p in long else p for p in prompts}


def cut_prompt(prompt: Prompt, reader: Reader, new: int, where: str = "prompt") -> Prompt:
    """Cut a prompt from its beginning until it fits.

    The oldest turns go first, up to the next one of the user, then the beginning of the last one.
    A system turn stays whole, and so does the end of the question.

    Raises:
        UsageError: Not even the last character of the question fits beside the system turn.
    """

    def fits(turns: tuple[tuple[str, str], ...]) -> bool:
        return not reader.over(reader.tokens(Prompt(turns)) + new)

    first = 1 if prompt.turns[0][0] == "system" else 0
    system, rest = prompt.turns[:first], prompt.turns[first:]
    starts = [i for i, (role, _) in enumerate(rest) if role == "user"]
    for start in starts:
        if fits((*system, *rest[start:])):
            return Prompt((*system, *rest[start:]))
    role, text = rest[-1]
    gone, enough = 0, len(text) - 1  # without the first ``enough`` characters it fits
    if not fits((*system, (role, text[enough:]))):
        raise UsageError(
            f"{where}: cannot be cut to fit the {reader.most:,} tokens that model {reader.name} "
            "reads: its system prompt and the answer leave no room; shorten the system prompt or "
            "lower generation.max_new_tokens"
        )
    while enough - gone > 1:
        middle = (gone + enough) // 2
        if fits((*system, (role, text[middle:]))):
            enough = middle
        else:
            gone = middle
    left = text[enough:]
    whole = left.partition(" ")[2].lstrip()  # not from the middle of a word, where there is one
    if text[enough - 1 : enough].strip() and whole and fits((*system, (role, whole))):
        left = whole
    return Prompt((*system, (role, left.lstrip() or left)))


def _locate(prompt: Prompt, places: Mapping[Prompt, str] | None) -> str:
    """The file and line of a prompt, or its first words."""
    if places and prompt in places:
        return places[prompt]
    text = " ".join(prompt.text.split())
    return f'prompt "{text if len(text) <= 40 else text[:39] + "…"}"'
