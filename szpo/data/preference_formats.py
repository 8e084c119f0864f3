r"""Formats of preferences: TRL, HH-RLHF, UltraFeedback and sheets.

Reads the standard, conversational and implicit-prompt forms, and files that repeat the prompt in
both answers, such as the binarised UltraFeedback. Writes the conversational form with an explicit
prompt.

Anthropic's HH-RLHF (Bai et al. 2022): two transcripts that differ only in the last answer. A
record has ``chosen`` and ``rejected``, each a whole conversation of turns that begin with
"\n\nHuman:" or "\n\nAssistant:". The prompt reaches up to the last "Assistant:".

UltraFeedback-style files (Cui et al. 2023): several rated completions of an instruction. A record
has ``prompt`` or ``instruction``, and ``completions``, each with a text under ``response``,
``text`` or ``content`` and a rating. Records with ``chosen`` and ``rejected`` are read as TRL's
format.

Sheets of questions filled in by people: id, prompt, a, b, choice (A, B, tie, skip), by. Where a
prompt has several turns, they are also given as messages.

`szpo select` writes them as .csv or .jsonl. Unanswered and skipped questions give neither a pair
nor a tie.

Rankings and ratings of answers to one prompt become pairs of a better and a worse one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any, Final, Literal, TypeAlias, get_args

from szpo.data import messages, text_files
from szpo.data.messages import SYSTEM_KEYS, TAG, TURN, Turns
from szpo.data.text_files import clean_answer
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo.visible_text import is_blank

Source: TypeAlias = Literal["pair", "batch", "note", "ranking", "file", "judge"]
End: TypeAlias = Literal["stop", "length"]
MESSAGES: Final = "messages"
"""Key or column of all turns of a prompt, where it is more than one text."""
ASKED: Final = ("prompt", "instruction", "question", "conversations")
"""Keys or columns of a record's prompt, of which the first that is there counts."""
ANSWERS: Final = ("completion", "answer", "text")
"""Keys or columns of a good answer, of which the first that is there counts."""
SCORE: Final = re.compile("score|rating|reward")
"""What keys of scores of both answers contain, beside "chosen" and "rejected"."""
TEXTS = ("response", "text", "content")
RATINGS = ("score", "rating", "fine-grained_score", "overall_score")
"""Keys of a completion's own rating, used without annotations; the first that exists counts."""
CHOICES: Final = {"a": "A", "b": "B", "tie": "tie", "skip": "skip"}
"""Choices by what people may write, in lower case."""
COLUMN: Final = "choice"
COLUMNS: Final = (
    "id", *ASKED, "a", "b", COLUMN, "by", "gain", MESSAGES, *SYSTEM_KEYS, "chosen", "rejected",
    "completion", "chosen_end", "rejected_end", "source", "votes",
)  # fmt: skip
"""Columns of tables of pairs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, the answer that was preferred and the one that was not. A tie gives no pair."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    source: Source = "pair"
    """Where the preference is from: a vote on these two answers, on a whole batch, …"""
    votes: int = 1
    """Number of votes behind it; all rows of a batch have the votes on the batch."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """The pairs of a record, file, run or round of questions, and counts of the rest."""

    pairs: Sequence[Pair]
    ties: int = 0
    """Comparisons without a preferred answer, skipped ones of a run included."""
    records: int = 0
    """Number of records read from a file, or of comparisons of a run with votes."""
    bad: tuple[str, ...] = ()
    """For each record of a file that was left out: its line and why."""
    unused: int = 0
    """Votes on batches with rows that were left out, since nobody judged them singly."""


def order_by_rank(ranks: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """List (better, worse) for all answers whose ranks differ; the lowest rank is the best.

    A ranking of n answers without ties gives n(n − 1)/2 pairs.

    >>> order_by_rank([3, 1, 2])
    ((1, 0), (2, 0), (1, 2))
    >>> len(order_by_rank([2, 4, 1, 3]))
    6
    """
    return tuple(
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    )


def make_pairs(
    prompt: Prompt, answers: Sequence[str], ranks: Sequence[float], source: Source
) -> Preferences:
    """Make the pairs of ranked answers to one prompt; equal ranks or equal texts are ties."""
    pairs = [
        Pair(prompt, _ended(answers[better]), _ended(answers[worse]), source)
        for better, worse in order_by_rank(ranks)
        if answers[better] != answers[worse]
    ]
    count = len(answers)
    return Preferences(tuple(pairs), count * (count - 1) // 2 - len(pairs))


def make_pair(
    prompt: Prompt,
    chosen: str,
    rejected: str,
    source: Source = "file",
    votes: int = 1,
    ends: tuple[End, End] = ("stop", "stop"),
) -> Preferences:
    """Make one pair from a preferred answer and another one; equal texts are a tie."""
    if chosen == rejected:
        return Preferences((), 1)
    better, worse = _ended(chosen, ends[0]), _ended(rejected, ends[1])
    return Preferences((Pair(prompt, better, worse, source, votes),))


def make_prompt(turns: Turns, record: Mapping[str, Any], where: str) -> Prompt:
    """Make a prompt from turns (role, text) and the record's system prompt, cleaned for UTF-8."""
    return text_files.clean_prompt(Prompt(messages.add_system(turns, record, where)))


def get_text(record: dict[str, object], key: str, where: str, *, blank: bool = False) -> str:
    """Return the text under ``key`` of a record; ``blank``: it may be empty."""
    value = record.get(key)
    if value is None:
        raise UsageError(f"{where}: needs {key} (found: {text_files.list_keys(record)})")
    return require_text(value, f"{where}: {key}", blank=blank)


def require_text(value: object, where: str, *, blank: bool = False) -> str:
    """Return a value that must be text without NUL; ``where`` ends with its name.

    Only with ``blank`` it may be empty or show nothing.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where} must be text (got {type(value).__name__})")
    if "\0" in value:
        raise UsageError(f"{where} holds a NUL character; remove it")
    if not blank and is_blank(value):
        raise UsageError(f"{where} is empty")
    return value


def _ended(words: str, end: End = "stop") -> Answer:
    return clean_answer(Answer(words, end))


def to_trl(pair: Pair) -> dict[str, Any]:
    """Make a record from a pair; ``source`` and ``votes`` say where the preference is from.

    ``chosen_end`` and ``rejected_end`` say whether an answer ended by itself or was cut at the
    limit; only the former is trained with an end token.

    >>> from szpo.types import Answer, Prompt
    >>> to_trl(Pair(Prompt.user("Hello?"), Answer("Hi."), Answer("No.")))["chosen"]
    [{'role': 'assistant', 'content': 'Hi.'}]
    """
    return {
        "prompt": [{"role": role, "content": words} for role, words in pair.prompt.turns],
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "chosen_end": pair.chosen.end,
        "rejected_end": pair.rejected.end,
        "source": pair.source,
        "votes": pair.votes,
    }


def read_trl(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of a record."""
    given = _given(record, where)
    (before, chosen), (also, rejected) = (
        _answer_turns(record, key, where, given) for key in ("chosen", "rejected")
    )
    if before != also:
        raise UsageError(f"{where}: chosen and rejected do not share the prompt before the answer")
    if not before:
        raise UsageError(
            f"{where}: no prompt; give one as prompt or before both answers "
            f"(found: {text_files.list_keys(record)})"
        )
    if (ahead := _lead(record, where)) is not None and ahead <= 0:
        if ahead < 0:
            raise UsageError(f"{where}: its scores prefer the rejected answer; swap the two")
        return Preferences((), 1)
    ends = _end(record, "chosen"), _end(record, "rejected")
    return make_pair(
        make_prompt(before, record, where), chosen, rejected, *_evidence(record, where), ends
    )


def _lead(record: Mapping[str, Any], where: str) -> float | None:
    """By how much a record's own scores prefer the chosen answer; None if it has none."""
    pairs = ((key, key.replace("chosen", "rejected")) for key in record if "chosen" in key)
    margins = [
        better - worse
        for key, other in pairs
        if SCORE.search(key)
        and (better := _number(record[key])) is not None
        and (worse := _number(record.get(other))) is not None
    ]
    margins += [] if (margin := _number(record.get("margin"))) is None else [margin]
    if messages.is_bad(record):
        label = record["label"]
        raise UsageError(f"{where}: label {label!r} says that chosen is not the better one")
    return min(margins, default=None)


def read_example(record: dict[str, Any], where: str) -> tuple[Prompt, Answer]:
    """Read a prompt with a good answer: ``prompt`` and `ANSWERS`, or ``messages``.

    Each is text or messages, as in TRL's formats for supervised fine-tuning; the last message is
    the assistant's. The answer counts as complete.

    >>> read_example({"prompt": "Hello?", "completion": "Hi."}, "line 1")[1].text
    'Hi.'
    """
    key = next((name for name in (MESSAGES, *ANSWERS) if name in record), ANSWERS[0])
    if messages.is_bad(record):
        raise UsageError(
            f"{where}: label {record['label']!r} says that the answer is no good one; leave it out"
        )
    given = _given(record, where)
    before, words = _answer_turns(record, key, where, given)
    if not before:
        raise UsageError(f"{where}: no prompt; give one as prompt or before the answer")
    return make_prompt(before, record, where), clean_answer(Answer(words))


def read_prompt(record: dict[str, Any], where: str) -> Prompt:
    """Read a record's prompt: its messages, a list or that as JSON, else what it has as prompt."""
    given = record.get(MESSAGES)
    turns = given or record.get("prompt")
    if turns is None:
        raise UsageError(
            f"{where}: needs prompt, a text or a list of messages "
            f"(found: {text_files.list_keys(record)})"
        )
    return make_prompt(
        read_turns(turns, f"{where}: {MESSAGES if given else 'prompt'}"), record, where
    )


def read_turns(value: Any, where: str) -> Turns:
    """Read the turns of a prompt from a text, a transcript or a list of messages."""
    value = messages.unpack(value, where)
    if isinstance(value, str):
        return messages.read_transcript(value, where) or (("user", require_text(value, where)),)
    if isinstance(value, list):
        return messages.conversation(value, where)
    raise UsageError(f"{where} must be text or a list of messages")


def _given(record: dict[str, Any], where: str) -> Turns | None:
    """The record's own prompt, if it has one."""
    key = next((key for key in ASKED if record.get(key) is not None), None)
    return None if key is None else read_turns(record[key], f"{where}: {key}")


def _answer_turns(
    record: dict[str, Any], key: str, where: str, prompt: Turns | None
) -> tuple[Turns, str]:
    """An answer's prompt and text; an answer without a prompt of its own has the record's."""
    place, blank = f"{where}: {key}", f"{key}_end" in record  # a model's answer may be empty
    value = messages.unpack(record.get(key), place)
    if not isinstance(value, list):
        text = get_text(record, key, where, blank=blank)
        if prompt is None or not _is_transcript(text):
            return prompt or (), text
        head, words = split_transcript("\n\n" + text.lstrip(), place)
        if messages.parse_turns(head, place) != prompt:
            raise UsageError(f"{place}: the turns before the answer are not the record's prompt")
        return prompt, _answer(words, place)
    role, said = messages.read_message(value[-1], place) if value else ("", "")
    if role != "assistant":
        raise UsageError(f"{place}: the last message must come from the assistant")
    words = require_text(said, f"{place}: content", blank=blank)
    before = messages.conversation(value[:-1], place) if len(value) > 1 else (prompt or ())
    rest = before[1:] if before and before[0][0] == "system" else before
    if prompt and prompt not in (before, rest):
        raise UsageError(f"{place}: the messages before the answer are not the record's prompt")
    return before, words


def _is_transcript(text: str) -> bool:
    whole = "\n\n" + text.lstrip()
    return whole.startswith("\n\nHuman:") and TAG in whole


def _end(record: dict[str, Any], key: str) -> End:
    """Why an answer ended; "stop" if the file does not say."""
    return "length" if record.get(f"{key}_end") == "length" else "stop"


def _evidence(record: dict[str, Any], where: str) -> tuple[Source, int]:
    """A record's source and votes; with another project's source, both are ignored."""
    source: Any = record.get("source")
    votes = record.get("votes", 1)
    if source not in get_args(Source):
        return "file", 1
    if isinstance(votes, bool) or not isinstance(votes, int) or votes < 1:
        raise UsageError(f"{where}: votes must be a whole number of at least 1 (got {votes!r})")
    return source, votes


def split_transcript(transcript: str, where: str = "transcript") -> tuple[str, str]:
    r"""Split a transcript into the prompt, up to the last "Assistant:", and the answer after it.

    >>> split_transcript("\n\nHuman: Hello?\n\nAssistant: Hi.")
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


def read_hh_rlhf(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of a record."""
    chosen, rejected = (get_text(record, key, where) for key in ("chosen", "rejected"))
    prompt, better = split_transcript(chosen, f"{where}: chosen")
    if not rejected.startswith(prompt):
        split_transcript(rejected, f"{where}: rejected")  # raises if the tag is missing
        raise UsageError(f"{where}: chosen and rejected do not share the prompt before the answer")
    worse = rejected[len(prompt) :]
    return make_pair(
        make_prompt(messages.parse_turns(prompt, where), record, where),
        _answer(better, f"{where}: chosen"),
        _answer(worse, f"{where}: rejected"),
    )


def _answer(text: str, where: str) -> str:
    if TURN.search(text):
        raise UsageError(f"{where} goes on with Human's turn after the last answer; end it there")
    return require_text(text.strip(), f"{where}: the last answer")


def read_ultrafeedback(record: dict[str, Any], where: str) -> Preferences:
    """Read all n(n − 1)/2 pairs of a record's completions; equal ratings make ties."""
    if "completions" not in record:
        return read_trl(record, where)
    texts, ratings = [], []
    for place, item in list_completions(record, where):
        texts.append(_words(item, place))
        ratings.append(_rating(item, place))
    return make_pairs(
        read_instruction(record, where), texts, [-rating for rating in ratings], "ranking"
    )


def read_candidates(record: dict[str, Any], where: str) -> tuple[Any, list[str]]:
    """Read the prompt and texts of a record with unrated completions."""
    listed = list_completions(record, where)
    texts = [_words(item, place, blank=True) for place, item in listed]  # a model's may be empty
    return read_instruction(record, where), texts


def read_instruction(record: dict[str, Any], where: str) -> Any:
    """Read a record's prompt, which is a text or a list of messages."""
    if (turns := _given(record, where)) is None:
        raise UsageError(f"{where}: needs prompt or instruction")
    return make_prompt(turns, record, where)


def list_completions(record: dict[str, Any], where: str) -> list[tuple[str, Any]]:
    """List a record's completions (at least two), each with its place for error messages."""
    listed = record.get("completions")
    if not isinstance(listed, list) or len(listed) < 2:
        raise UsageError(f"{where}: completions must be a list of at least two")
    return [(f"{where}: completion {i}", item) for i, item in enumerate(listed, start=1)]


def _words(item: Any, where: str, *, blank: bool = False) -> str:
    if isinstance(item, str):
        return require_text(messages.unpack(item, where), where, blank=blank)
    for key in TEXTS if isinstance(item, dict) else ():
        if key in item:
            place = f"{where}: {key}"
            return require_text(messages.unpack(item[key], place), place, blank=blank)
    raise UsageError(f"{where} needs its text under {', '.join(TEXTS)}")


def _rating(item: Any, where: str) -> float:
    """Mean rating over the annotated aspects if there are any, else the completion's own rating.

    Some overall scores of UltraFeedback are known to be wrong, so aspects have precedence.
    """
    aspects = item.get("annotations") if isinstance(item, dict) else None
    if isinstance(aspects, dict):
        rated = [a.get("Rating") for a in aspects.values() if isinstance(a, dict)]
        numbers = [value for value in map(_number, rated) if value is not None]
        if numbers:
            return sum(numbers) / len(numbers)
    for key in RATINGS if isinstance(item, dict) else ():
        value = _number(item.get(key))
        if value is not None:
            return value
    raise UsageError(f"{where} has no rating; give a number under {', '.join(RATINGS)}")


def _number(value: Any) -> float | None:
    """A finite number from a number or text; None for anything else, such as "N/A"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def read_sheet(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of an answered question; the choice tie and equal texts are ties."""
    prompt = read_prompt(record, where)
    a, b = (_answer_turns(record, name, where, prompt.turns)[1] for name in ("a", "b"))
    given = read_choice(record) if COLUMN in record else get_text(record, COLUMN, where)
    if given in ("", "skip"):
        return Preferences(())
    if given == "tie":
        return Preferences((), 1)
    if given not in ("A", "B"):
        raise UsageError(f"{where}: choice {given!r} is unknown; give A, B, tie or skip")
    chosen, rejected = (a, b) if given == "A" else (b, a)
    return make_pair(prompt, chosen, rejected, "pair")


def read_choice(record: dict[str, Any]) -> str:
    """A record's choice as szpo writes it; "" if nobody answered."""
    given = str(record.get(COLUMN) or "").strip()
    return CHOICES.get(given.lower(), given)
