"""Back ends of a judge: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from szpo.errors import RunError
from szpo.judges.prompting import Labels
from szpo.types import Prompt


class JudgeError(RunError):
    """A judge could not be asked or could not be read, and is configured to stop the run."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the random key of the reply to it."""

    prompt: Prompt
    key: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A back end's reply, or why there is none, and the tokens used either way."""

    text: str = ""
    odds: tuple[float, float] | None = None
    """Log-probabilities of the two names, nats, where they were asked for."""
    ended: bool = True
    """False if it was cut at the token limit."""
    failure: str | None = None
    """What went wrong, in a few words."""
    final: bool = False
    """No retry will help: all tries were used, or it can never work."""
    tokens_in: int = 0
    tokens_out: int = 0
    value: Any = None
    """What the judge read in it: a preference, a grade, or log p(first)/p(second) of the names;
    None: unreadable."""


class Backend(Protocol):
    """Replies to questions. A failure that a retry may fix is in `Reply.failure`, not raised."""

    @property
    def name(self) -> str:
        """Its name in the record and in error messages; contains no secret."""

    @property
    def reserved(self) -> Sequence[str]:
        """Texts that the model reads as control tokens."""

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """A text for each question."""

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """For each question, the log-probabilities that its reply begins with either label."""
