"""Requests to the holder of a model: rows to be answered, or answers to be read.

A request is all that is sent to a worker on another machine: kilobytes of JSON and numpy arrays,
whatever the model's size. A row's uniform numbers are a slice of its key's stream, so they do not
depend on the worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.generation.sampling import Sampling
from szpo.types import Floats, Shift, Theta

Message: TypeAlias = dict[str, Any]
"""Strings and numpy arrays by name."""
Tokens: TypeAlias = tuple[tuple[int, ...], ...]
THETA = "theta/"
OWN = "own/"
What: TypeAlias = Literal[
    "logprobs", "totals", "kl", "scores", "moves", "inputs", "odds", "features"
]
"""``logprobs``: log-probability of each answer token, nats. ``totals``: of each whole answer.
``kl``: KL of member to start per answer, nats. ``scores``: gradients of log π(answer) in every B,
at the start or at the one member; several rows per answer if it is cut or tokens are redrawn.
``moves``: scores of each answer along the members, and its Fisher matrix in them.
``inputs``: an A for each site, from the layers' inputs. ``odds``: log-probability of each answer
token as the next token, nats. ``features``: mean and last hidden state of each answer."""
Reading: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name: "values", with one row per answer (``logprobs``: one value per token, answers
one after the other), or for ``inputs`` one array per site."""
VALUES = "values"


@dataclass(frozen=True)
class AnswerRequest:
    """Rows to be answered by members of one base model."""

    theta: Theta
    """Master coordinates θ."""
    shifts: tuple[Shift, ...]
    """One per member, at θ + shift. Without shifts, see ``thetas``."""
    prompts: tuple[tuple[int, ...], ...]
    """Different prompts, as tokens."""
    keys: tuple[bytes, ...]
    """Keys of random numbers, 16 bytes each."""
    rows: NDArray[np.int64]
    """(rows, 4): numbers of the row's prompt, member and key; its place in the key's stream."""
    sampling: Sampling
    canary: bool = False
    """Check that members which answer a common prompt differ in the logits after it."""
    base: bool = False
    """θ is the start; if the start is the base model itself, no adapter is computed."""
    thetas: tuple[Theta, ...] = ()
    """Without shifts: the members' coordinates. Without both, the bare base model answers."""

    def row_prompts(self) -> list[tuple[int, ...]]:
        """The tokens of each row's prompt."""
        return [self.prompts[i] for i in self.rows[:, 0]]

    def members(self) -> list[int]:
        """The member of each row."""
        members: list[int] = self.rows[:, 1].tolist()
        return members

    def uniforms(self) -> Floats:
        """The uniform numbers in [0, 1) for the draws, (rows, new tokens)."""
        width = self.sampling.max_new_tokens
        parts = [
            seeds.uniform(self.keys[key], width, start=place * width)
            for key, place in self.rows[:, 2:].tolist()
        ]
        return np.stack(parts) if parts else np.zeros((0, width))

    def split(self, size: int) -> list[tuple[NDArray[np.int64], Self]]:
        """Split the request into chunks of ``size`` rows, each with the indices of its rows.

        Rows of one prompt stay together, so plus and minus of a comparison mostly share a chunk.
        The chunks depend only on the rows and ``size``, never on the workers.
        """
        order = np.argsort(self.rows[:, 0], kind="stable")
        cuts = [order[i : i + size] for i in range(0, len(order), size)]
        return [(rows, self.pick(rows)) for rows in cuts]

    def pick(self, rows: NDArray[np.int64]) -> Self:
        """The request for some of its rows, without data that only the others need."""
        table = self.rows[rows].copy()
        used = []
        for column in range(3):
            numbers, table[:, column] = np.unique(table[:, column], return_inverse=True)
            used.append(numbers.tolist())
        prompts, members, keys = used
        return replace(
            self,
            shifts=tuple(self.shifts[i] for i in members if self.shifts),
            thetas=tuple(self.thetas[i] for i in members if self.thetas),
            prompts=tuple(self.prompts[i] for i in prompts),
            keys=tuple(self.keys[i] for i in keys),
            rows=table,
            canary=self.canary and len(members) > 1,
        )

    def to_message(self) -> Message:
        """Write it as a message."""
        head = {
            "shifts": [astuple(shift) for shift in self.shifts],
            "sampling": asdict(self.sampling),
            "canary": self.canary,
            "base": self.base,
            "own": len(self.thetas),
        }
        return {
            "head": json.dumps(head),
            **_write_tokens("prompts", self.prompts),
            "keys": np.frombuffer(b"".join(self.keys), np.uint8),
            "rows": self.rows.astype(np.int32),
            **{f"{THETA}{name}": value for name, value in self.theta.items()},
            **stack_thetas(self.thetas),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Read what `to_message` wrote."""
        head = json.loads(message["head"])
        keys = np.asarray(message["keys"]).tobytes()
        sampling = head["sampling"]
        return cls(
            theta={
                name.removeprefix(THETA): np.array(value)
                for name, value in message.items()
                if name.startswith(THETA)
            },
            shifts=tuple(
                Shift(step, k, sign, radius, None if grid is None else tuple(grid))
                for step, k, sign, radius, grid in head["shifts"]
            ),
            prompts=_read_tokens("prompts", message),
            keys=tuple(keys[i : i + 16] for i in range(0, len(keys), 16)),
            rows=np.asarray(message["rows"], np.int64),
            sampling=Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
            canary=head["canary"],
            base=head["base"],
            thetas=unstack_thetas(message, head["own"]),
        )


@dataclass(frozen=True)
class ReadRequest:
    """Answers to be read by members of one base model, by its start, or by the base itself."""

    what: What
    prompts: tuple[tuple[int, ...], ...]
    """The prompt of each answer, as tokens."""
    answers: tuple[tuple[int, ...], ...]
    thetas: tuple[Theta, ...] = ()
    """The members' master coordinates; without any, see ``start``."""
    owner: tuple[int, ...] = ()
    """The member of each answer."""
    start: bool = False
    """Without members: the starting policy reads; False: the bare base model does."""
    temperature: float = 1.0
    redraws: int = 0
    """``scores``: samples of the score per answer with redrawn tokens, besides its own."""
    seed: int = 0
    """``scores``: seed of the redrawn tokens."""
    cuts: tuple[int, ...] = ()
    """``scores``: token positions at which the second and later parts of an answer begin."""

    def split(self, size: int) -> list[Self]:
        """Split the request into chunks of ``size`` answers, in order; ``inputs`` is one chunk.

        Redrawn tokens have their own seed in every chunk but the first.
        """
        if self.what == "inputs":
            return [self]
        chunks = [
            self._pick(range(first, min(first + size, len(self.answers))))
            for first in range(0, len(self.answers), size)
        ]
        return chunks[:1] + [
            replace(chunk, seed=seeds.child_seed(self.seed, i, "chunk of scores"))
            for i, chunk in enumerate(chunks[1:], 1)
        ]

    def _pick(self, rows: Sequence[int]) -> Self:
        used = sorted({self.owner[row] for row in rows}) if self.thetas and self.owner else []
        number = {member: i for i, member in enumerate(used)}
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
            thetas=tuple(self.thetas[member] for member in used) if used else self.thetas,
            owner=tuple(number[self.owner[row]] for row in rows) if used else (),
        )

    def to_message(self) -> Message:
        """Write it as a message."""
        head = {
            "what": self.what,
            "owner": self.owner,
            "members": len(self.thetas),
            "start": self.start,
            "temperature": self.temperature,
            "redraws": self.redraws,
            "seed": self.seed,
            "cuts": self.cuts,
        }
        return {
            "task": "read",
            "head": json.dumps(head),
            **stack_thetas(self.thetas),
            **_write_tokens("prompts", self.prompts),
            **_write_tokens("answers", self.answers),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Read what `to_message` wrote."""
        head = json.loads(message["head"])
        return cls(
            head["what"], _read_tokens("prompts", message), _read_tokens("answers", message),
            unstack_thetas(message, head["members"]), tuple(head["owner"]), head["start"],
            head["temperature"], head["redraws"], head["seed"], tuple(head["cuts"]),
        )  # fmt: skip


def join_readings(parts: Sequence[Reading]) -> Reading:
    """Join the readings of a request's chunks."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return {VALUES: np.zeros(0)}
    return {VALUES: np.concatenate([part[VALUES] for part in parts])}


def _write_tokens(name: str, rows: Tokens) -> Message:
    """Write rows of tokens as one array and an array of their lengths."""
    return {
        name: np.array([token for row in rows for token in row], np.int32),
        f"{name} lengths": np.array([len(row) for row in rows], np.int32),
    }


def _read_tokens(name: str, message: Mapping[str, Any]) -> Tokens:
    ends = np.cumsum(message[f"{name} lengths"], dtype=np.int64)
    parts = np.split(message[name], ends[:-1]) if len(ends) else []
    return tuple(tuple(part.tolist()) for part in parts)


def stack_thetas(thetas: Sequence[Theta]) -> Message:
    """Write members' coordinates as one array per tensor, (members, *shape)."""
    names = list(thetas[0]) if thetas else []
    return {f"{OWN}{name}": np.stack([theta[name] for theta in thetas]) for name in names}


def unstack_thetas(message: Mapping[str, Any], count: int) -> tuple[Theta, ...]:
    """Read what `stack_thetas` wrote for this number of members."""
    stacked = {
        name.removeprefix(OWN): value for name, value in message.items() if name.startswith(OWN)
    }
    return tuple(
        {name: np.array(value[i]) for name, value in stacked.items()} for i in range(count)
    )


def tokens_to_array(tokens: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """Write rows of tokens as one array (rows, longest), padded with −1."""
    width = max((len(row) for row in tokens), default=0)
    found = np.full((len(tokens), width), -1, np.int32)
    for i, row in enumerate(tokens):
        found[i, : len(row)] = row
    return found


def array_to_tokens(array: NDArray[np.int32]) -> Tokens:
    """Read what `tokens_to_array` wrote."""
    return tuple(tuple(token for token in row if token >= 0) for row in array.tolist())


def message_bytes(message: Message) -> int:
    """Bytes of a message's strings and arrays."""
    return sum(
        len(value.encode()) if isinstance(value, str) else int(value.nbytes)
        for value in message.values()
    )
