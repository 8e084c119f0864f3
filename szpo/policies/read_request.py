"""What answers are read from: given tokens, the members that read them, and what is wanted.

The sibling of `szpo.policies.row_request`: there answers are written, here they are measured.
Only strings and numpy arrays make up a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.policies.row_request import Message, stack_thetas, unstack_thetas
from szpo.types import Floats, Theta

What: TypeAlias = Literal["logprobs", "totals", "kl", "scores", "inputs", "odds", "features"]
"""``logprobs``: nats of each answer token. ``totals``: nats of each answer. ``kl``: nats between
member and start, per answer. ``scores``: gradients of log π(answer) in every B, at the start or
at the one member, several rows per answer where words are drawn anew. ``inputs``: an A for each
site, from the layers' inputs. ``odds``: nats of each answer token as the one next token.
``features``: mean and last hidden state of each answer."""
Reading: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name: "values", with one row per answer (``logprobs``: one value per token, one row
after the other), or for ``inputs`` one array per site."""
VALUES = "values"


@dataclass(frozen=True)
class ReadRequest:
    """Answers to be read by members of one base model, by its start, or by the base itself."""

    what: What
    prompts: tuple[tuple[int, ...], ...]
    """As tokens, one for each answer."""
    answers: tuple[tuple[int, ...], ...]
    thetas: tuple[Theta, ...] = ()
    """The members' master coordinates; without any, see ``start``."""
    owner: tuple[int, ...] = ()
    """The member of each answer."""
    start: bool = False
    """Without members: the starting policy reads; False: the bare base model does."""
    temperature: float = 1.0
    redraws: int = 0
    """``scores``: samples of the score per answer besides that of its own words."""
    seed: int = 0
    """``scores``: of the words drawn anew."""


def split(request: ReadRequest, size: int) -> list[ReadRequest]:
    """Cut a request into chunks of ``size`` answers, in order; ``inputs`` is one chunk.

    Words drawn anew have a seed of their own in every chunk but the first.
    """
    if request.what == "inputs":
        return [request]
    chunks = [
        _pick(request, range(first, min(first + size, len(request.answers))))
        for first in range(0, len(request.answers), size)
    ]
    return chunks[:1] + [
        replace(chunk, seed=seeds.branch_seed(request.seed, i, "chunk of scores"))
        for i, chunk in enumerate(chunks[1:], 1)
    ]


def _pick(request: ReadRequest, rows: Sequence[int]) -> ReadRequest:
    used = sorted({request.owner[row] for row in rows}) if request.thetas else []
    number = {member: i for i, member in enumerate(used)}
    return replace(
        request,
        prompts=tuple(request.prompts[row] for row in rows),
        answers=tuple(request.answers[row] for row in rows),
        thetas=tuple(request.thetas[member] for member in used),
        owner=tuple(number[request.owner[row]] for row in rows) if used else (),
    )


def join(parts: Sequence[Reading]) -> Reading:
    """Put the readings of `split`'s chunks together again."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return {VALUES: np.zeros(0)}
    return {VALUES: np.concatenate([part[VALUES] for part in parts])}


def by_token(reading: Reading, answers: Sequence[Sequence[int]]) -> list[Floats]:
    """Read ``logprobs`` as one array per answer."""
    ends = np.cumsum([len(answer) for answer in answers])
    return list(np.split(np.asarray(reading[VALUES], np.float64), ends[:-1])) if answers else []


def to_message(request: ReadRequest) -> Message:
    """Write a request as a message."""
    head = {
        "what": request.what,
        "owner": request.owner,
        "members": len(request.thetas),
        "start": request.start,
        "temperature": request.temperature,
        "redraws": request.redraws,
        "seed": request.seed,
    }
    found: Message = {"task": "read", "head": json.dumps(head), **stack_thetas(request.thetas)}
    for name in ("prompts", "answers"):
        rows = getattr(request, name)
        found[name] = np.array([token for row in rows for token in row], np.int32)
        found[f"{name} lengths"] = np.array([len(row) for row in rows], np.int32)
    return found


def from_message(message: Message) -> ReadRequest:
    """Read what `to_message` wrote."""
    head = json.loads(message["head"])
    rows = {}
    for name in ("prompts", "answers"):
        ends = np.cumsum(message[f"{name} lengths"], dtype=np.int64)
        parts = np.split(message[name], ends[:-1]) if len(ends) else []
        rows[name] = tuple(tuple(part.tolist()) for part in parts)
    return ReadRequest(
        head["what"], rows["prompts"], rows["answers"],
        unstack_thetas(message, head["members"]), tuple(head["owner"]), head["start"],
        head["temperature"], head["redraws"], head["seed"],
    )  # fmt: skip
