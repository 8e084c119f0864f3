"""Fit prompts into a model's context: too long ones are refused or cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.context import Reader
from szpo.types import Prompt

TooLong: TypeAlias = Literal["refuse", "cut"]
SHOWN_CUTS = 3
"""Most long prompts that a warning names; the others are counted."""


def fit_prompts(prompts: PromptSet, reader: Reader, new: int, too_long: TooLong) -> PromptSet:
    """Make room for ``new`` tokens after each prompt; warnings name cut prompts, control words."""
    if reader.over(new + 1):
        raise UsageError(
            f"generation.max_new_tokens {new:,} leaves no room for a prompt: model {reader.name} "
            f"reads {reader.most:,} tokens; lower it"
        )
    places = prompts.places
    every = tuple(dict.fromkeys((*places, *prompts.train, *prompts.heldout)))
    held = sum(bool(loading.held_control_words(reader.tokenizer, prompt)) for prompt in every)
    if held and not any("control words" in warning for warning in prompts.warnings):
        note = f"{held} prompts with control words of the model (kept as text)"
        prompts = replace(prompts, warnings=(*prompts.warnings, note))
    long = {p: n for p in every if reader.over((n := reader.tokens(p)) + new)}
    if not long:
        return prompts
    if too_long == "refuse":
        prompt, tokens = next(iter(long.items()))
        more = f" ({len(long) - 1} more prompts are too long)" if len(long) > 1 else ""
        raise UsageError(
            f"{_locate(prompt, places)}: {tokens:,} tokens and {new:,} for the answer "
            f"(generation.max_new_tokens) are more than the {reader.most:,} that model "
            f"{reader.name} reads; shorten it, lower generation.max_new_tokens, or let it be cut: "
            f'prompts.too_long = "cut"{more}'
        )
    cut = {prompt: cut_prompt(prompt, reader, new, _locate(prompt, places)) for prompt in long}
    where = ", ".join(_locate(prompt, places) for prompt in [*cut][:SHOWN_CUTS])
    others = f" and {len(cut) - SHOWN_CUTS} more" if len(cut) > SHOWN_CUTS else ""
    warning = f"cut at their beginning to fit model {reader.name}: {where}{others}"
    return replace(
        prompts,
        train=tuple(cut.get(prompt, prompt) for prompt in prompts.train),
        heldout=tuple(cut.get(prompt, prompt) for prompt in prompts.heldout),
        warnings=(*prompts.warnings, warning),
        places={cut.get(prompt, prompt): place for prompt, place in places.items()},
    )


def cut_prompt(prompt: Prompt, reader: Reader, new: int, where: str = "prompt") -> Prompt:
    """Cut a prompt from its beginning until it fits.

    The oldest turns are dropped first, up to the user's next one, then the beginning of the last
    turn. The system turn and the end of the question stay.
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
    gone, enough = 0, len(text) - 1  # it fits without the first ``enough`` characters
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
    whole = left.partition(" ")[2].lstrip()  # begins with a whole word if there is one
    if text[enough - 1 : enough].strip() and whole and fits((*system, (role, whole))):
        left = whole
    return Prompt((*system, (role, left.lstrip() or left)))


def _locate(prompt: Prompt, places: Mapping[Prompt, str]) -> str:
    """The file and line of a prompt, or its first words."""
    if prompt in places:
        return places[prompt]
    text = " ".join(prompt.text.split())
    return f'prompt "{text if len(text) <= 40 else text[:39] + "…"}"'
