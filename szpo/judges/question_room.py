"""Whether the longest question that a local judge can be asked fits into what its model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.judges import prompting
from szpo.models.context import Reader
from szpo.types import Prompt


def demand_room(
    config: Config,
    prompts: Sequence[Prompt],
    reader: Reader,
    principles: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
) -> None:
    """Refuse a judge whose model cannot read its longest question and write its reply.

    That is the question about the longest prompts with the longest principle, in which every
    answer has ``generation.max_new_tokens`` tokens.

    Raises:
        UsageError: It is too long.
    """
    judge = config.judge
    rows = 1 if judge.batches == "rows" else config.optimizer.rows
    longest = sorted(set(prompts), key=reader.tokens, reverse=True)
    if not longest:
        return
    shown = [longest[i % len(longest)] for i in range(rows)]
    frame = _frame(config, shown, reader, principles, references)
    sides = 1 if judge.ask == "grades" else 2
    answers = sides * rows * config.generation.max_new_tokens
    reply = 1 if judge.ask == "soft" else judge.max_tokens
    if reader.over(frame + answers + reply):
        raise UsageError(
            f"judge {judge.model} reads {reader.most:,} tokens, and its longest question needs "
            f"{frame + answers + reply:,}: {frame:,} for the frame and {rows} prompts, "
            f"{answers:,} for answers of generation.max_new_tokens, {reply:,} for its reply; "
            + (
                'lower optimizer.rows, or ask row by row: judge.batches = "rows"'
                if rows > 1
                else "lower generation.max_new_tokens or judge.max_tokens, or shorten prompts"
            )
        )


def _frame(
    config: Config,
    shown: Sequence[Prompt],
    reader: Reader,
    principles: Sequence[str],
    references: Mapping[str, str] | None,
) -> int:
    """Tokens of the question with empty answers."""
    criterion = max(principles, key=len, default=config.panel.guideline)
    given = prompting.Instructions(criterion, references or {})
    again = config.judge.retries > 0
    if config.judge.ask == "grades":
        asked = prompting.ask_grade([(prompt, "") for prompt in shown], given, again=again)
    else:
        asked = prompting.ask_verdict(
            "soft" if config.judge.ask == "soft" else "verdict",
            [(prompt, "", "") for prompt in shown],
            given,
            again=again,
        )
    return reader.tokens(asked)
