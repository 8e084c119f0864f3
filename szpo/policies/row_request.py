"""What rows are answered from: coordinates, members, prompts as tokens, keys of random numbers.

This is all that travels to a worker on another machine: kilobytes, whatever the model's size. A
row's uniform numbers are a slice of its key's stream, so they are the same wherever it is
answered.
Only texts of JSON and numpy arrays make up a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, TypeAlias

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


@dataclass(frozen=True)
class RowRequest:
    """Rows to be answered by members of one base model."""

    theta: Theta
    """Master coordinates θ."""
    shifts: tuple[Shift, ...]
    """The members: each is θ + its shift. Without any, see ``thetas``."""
    prompts: tuple[tuple[int, ...], ...]
    """Different prompts, as tokens."""
    keys: tuple[bytes, ...]
    """Keys of random numbers, 16 bytes each."""
    rows: NDArray[np.int64]
    """(rows, 4): numbers of the row's prompt, member and key; its place in the key's stream."""
    sampling: Sampling
    canary: bool = False
    """Members that answer a common prompt must differ in the logits after it."""
    base: bool = False
    """θ is the start; where that is the base model itself, no adapter is computed."""
    thetas: tuple[Theta, ...] = ()
    """Without shifts: the members' own coordinates. Without either the bare base model answers."""

    def row_prompts(self) -> list[tuple[int, ...]]:
        """The tokens of each row's prompt."""
        return [self.prompts[i] for i in self.rows[:, 0]]

    def members(self) -> list[int]:
        """The member of each row."""
        members: list[int] = self.rows[:, 1].tolist()
        return members

    def uniforms(self) -> Floats:
        """The numbers in [0, 1) that decide the draws, (rows, new tokens)."""
        width = self.sampling.max_new_tokens
        parts = [
            seeds.uniform(self.keys[key], width, start=place * width)
            for key, place in self.rows[:, 2:].tolist()
        ]
        return np.stack(parts) if parts else np.zeros((0, width))


def split(request: RowRequest, size: int) -> list[tuple[NDArray[np.int64], RowRequest]]:
    """Cut a request into chunks of ``size`` rows, each with the numbers of its rows.

    Rows of one prompt stay side by side, so plus and minus of a comparison mostly share a chunk.
    The plan depends on the rows and ``size`` alone, never on who will answer.
    """
    order = np.argsort(request.rows[:, 0], kind="stable")
    cuts = [order[i : i + size] for i in range(0, len(order), size)]
    return [(rows, pick(request, rows)) for rows in cuts]


def pick(request: RowRequest, rows: NDArray[np.int64]) -> RowRequest:
    """The request for some of its rows, without the prompts, members and keys of the others."""
    table = request.rows[rows].copy()
    used = []
    for column in range(3):
        numbers, table[:, column] = np.unique(table[:, column], return_inverse=True)
        used.append(numbers.tolist())
    prompts, members, keys = used
    return replace(
        request,
        shifts=tuple(request.shifts[i] for i in members if request.shifts),
        thetas=tuple(request.thetas[i] for i in members if request.thetas),
        prompts=tuple(request.prompts[i] for i in prompts),
        keys=tuple(request.keys[i] for i in keys),
        rows=table,
        canary=request.canary and len(members) > 1,
    )


def to_message(request: RowRequest) -> Message:
    """Write a request as a message; the tokens of all prompts are one array."""
    head = {
        "shifts": [astuple(shift) for shift in request.shifts],
        "lengths": [len(prompt) for prompt in request.prompts],
        "sampling": asdict(request.sampling),
        "canary": request.canary,
        "base": request.base,
        "own": len(request.thetas),
    }
    return {
        "head": json.dumps(head),
        "prompts": np.array([t for prompt in request.prompts for t in prompt], np.int32),
        "keys": np.frombuffer(b"".join(request.keys), np.uint8),
        "rows": request.rows.astype(np.int32),
        **{f"{THETA}{name}": value for name, value in request.theta.items()},
        **stack_thetas(request.thetas),
    }


def from_message(message: Mapping[str, Any]) -> RowRequest:
    """Read what `to_message` wrote."""
    head = json.loads(message["head"])
    ends = np.cumsum(head["lengths"], dtype=np.int64)
    keys = np.asarray(message["keys"]).tobytes()
    sampling = head["sampling"]
    return RowRequest(
        theta={
            name.removeprefix(THETA): np.array(value)
            for name, value in message.items()
            if name.startswith(THETA)
        },
        shifts=tuple(
            Shift(step, k, sign, radius, None if grid is None else tuple(grid))
            for step, k, sign, radius, grid in head["shifts"]
        ),
        prompts=tuple(tuple(part.tolist()) for part in np.split(message["prompts"], ends[:-1])),
        keys=tuple(keys[i : i + 16] for i in range(0, len(keys), 16)),
        rows=np.asarray(message["rows"], np.int64),
        sampling=Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
        canary=head["canary"],
        base=head["base"],
        thetas=unstack_thetas(message, head["own"]),
    )


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
    """Write rows of tokens as one array (rows, longest), −1 behind each row's end."""
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
