"""Comparisons and scripted back ends for the tests of judges."""

from collections.abc import Callable, Sequence
from typing import Any

from szpo.config.tables import Judge
from szpo.judges.llm_judge import LanguageJudge
from szpo.judges.prompting import Labels, Question, Reply
from szpo.types import Answer, Comparison, Prompt, Row


def comparison(*rows: tuple[str, str], n: int = 0) -> Comparison:
    """A comparison with rows (plus, minus) to numbered requests."""
    return Comparison(
        f"c{n}", 0, 0, n,
        tuple(Row(Prompt.user(f"Request no. {i}"), Answer(a), Answer(b))
              for i, (a, b) in enumerate(rows)),
    )  # fmt: skip


class Scripted:
    """A back end that replies by a function and keeps the questions."""

    name = "scripted"
    reserved: tuple[str, ...] = ()

    def __init__(self, reply: Callable[[str], Reply | str]):
        self.reply = reply
        self.asked: list[str] = []
        self.calls: list[int] = []
        self.keys: list[bytes] = []

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        self.calls.append(len(questions))
        found = []
        for question in questions:
            self.asked.append(question.prompt.text)
            self.keys.append(question.key)
            message = self.reply(question.prompt.text)
            found.append(
                Reply(message, tokens_in=7, tokens_out=2) if isinstance(message, str) else message
            )
        return found

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        return self.write(questions)


def judge(reply: Callable[[str], Reply | str], **settings: Any) -> LanguageJudge:
    """A scripted judge; ``labels``, ``principles``, ``references`` go to `LanguageJudge`."""
    own = {k: settings.pop(k) for k in ("labels", "principles", "references") if k in settings}
    return LanguageJudge(Scripted(reply), Judge(**settings), "what is better", **own)


def places(text: str, word: str) -> list[bool]:
    """Whether the first and the second set of answers in a question's text contain a word."""
    parts = text.split("Answer of ")[1:]
    return [any(word in part for part in parts[side::2]) for side in (0, 1)]
