"""A preference pair: one prompt, the answer preferred and the answer not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from szpo.types import Answer, Prompt

Source: TypeAlias = Literal["pair", "batch", "note", "ranking", "file", "judge"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, the answer that was preferred and the one that was not. A tie gives no pair."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    source: Source = "pair"
    """The origin of the preference: a vote on these two, the verdict on a whole batch, …"""
    votes: int = 1
    """Number of votes that it comes from; rows of one batch verdict share their votes."""
