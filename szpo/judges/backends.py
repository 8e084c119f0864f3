"""What a judge is asked through: a model in this process, or a server."""

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
    """What came back, or why nothing did; tokens are what it cost either way."""

    text: str = ""
    odds: tuple[float, float] | None = None
    """Log-probabilities of the two names, nats, where they were asked for."""
    ended: bool = True
    """False: cut at the longest text allowed."""
    failure: str | None = None
    """What went wrong, in a few words."""
    final: bool = False
    """Asking again is no use: it was tried often enough, or can never work."""
    tokens_in: int = 0
    tokens_out: int = 0


class Backend(Protocol):
    """Replies to questions. It never raises for what may be better next time: `Reply.failure`."""

    @property
    def name(self) -> str:
        """As the record and error lines call it; holds no secret."""

    @property
    def reserved(self) -> Sequence[str]:
        """Texts that the model reads as control."""

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """A text for each question.

        Raises:
            RunError: asking again cannot help, such as a refused key.
        """

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """The log-probabilities with which each reply would begin with one or the other label.

        Raises:
            RunError: asking again cannot help.
        """
