"""Back ends of a judge: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from szpo.errors import RunError
from szpo.judges.prompting import Labels
from szpo.types import Prompt


class JudgeError(RunError):
    """A judge could not be asked or could not be read, and is configured to stop the run."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the randomness of the reply to it."""

    prompt: Prompt
    key: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A back end's reply, or why there is none; with the tokens it cost either way."""

    text: str = ""
    odds: tuple[float, float] | None = None
    """Log-probabilities of the two names, nats, where they were asked for."""
    ended: bool = True
    """False: cut at the longest text allowed."""
    failure: str | None = None
    """What went wrong, in a few words."""
    final: bool = False
    """No retry will help: it was tried often enough, or can never work."""
    tokens_in: int = 0
    tokens_out: int = 0


class Backend(Protocol):
    """Replies to questions. Failures that a retry may mend are `Reply.failure`, not raised."""

    @property
    def name(self) -> str:
        """As the record and error lines call it; holds no secret."""

    @property
    def reserved(self) -> Sequence[str]:
        """Texts that the model reads as control."""

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """A text for each question.

        Raises:
            RunError: no retry can help, such as a refused key.
        """

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """The log-probabilities with which each reply would begin with one or the other label.

        Raises:
            RunError: no retry can help.
        """
