"""A world's policy behind the `Policy` protocol: the same walks, described as text.

With it a world runs through the ordinary loop, with ledger and vote service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from szpo.errors import RunError
from szpo.optim import parameters
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.seeds import derive
from szpo.types import Answer, Batch, Floats, Layout, Prompt, Shift, Theta, Update
from szpo_simulators.worlds.world import World, uniforms

PROMPT = Prompt.user("Walk.")
_RETURN = re.compile(r"return (\S+)$")


class WorldPolicy:
    """The policy of a world with directions of its own, at θ₀ of the world.

    A rollout's ``seed`` is the step's number: walks are those of
    `szpo_simulators.worlds.repetitions`, by ``crn`` shared between both sides or not.
    """

    def __init__(
        self, world: World, root_seed: int, law: Law | None = None, *, crn: bool = True
    ) -> None:
        self.world, self.root_seed, self.crn = world, root_seed, crn
        self.layout: Layout = (("theta", (world.dim,)),)
        self.dim = world.dim
        self.space = Space(root_seed, self.layout, law or Law(normalise=True))
        self._theta: Theta = {"theta": world.theta0.astype(np.float32)}

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """One walk per prompt, whatever it says."""
        return [
            self._walks(self._shift_theta(shift), len(asked), seed, shift)
            for asked, shift in zip(prompts, shifts, strict=True)
        ]

    def apply(self, update: Update) -> None:
        """θ ← θ + coef · v, or θ + vector."""
        self._theta = parameters.apply_update(self.space, self._theta, update)

    def theta(self) -> Theta:
        """A copy of the master coordinates."""
        return {name: values.copy() for name, values in self._theta.items()}

    def digest(self) -> str:
        """SHA-256 of θ in canonical form."""
        return parameters.digest(self._theta, self.layout)

    def value(self) -> float:
        """The world's value of the current θ."""
        return float(self.world.value(self._theta["theta"][None])[0])

    def _shift_theta(self, shift: Shift) -> Floats:
        moved = parameters.shift(self.space, self._theta, shift)
        return np.asarray(moved["theta"])

    def _walks(self, theta: Floats, count: int, step: int, shift: Shift) -> Batch:
        side = None if self.crn else "plus" if shift.sign > 0 else "minus"
        key = derive(self.root_seed, "world walk", k=shift.k, name=side)
        size = count * self.world.width
        u = uniforms(key, size, size * step).reshape(1, count, self.world.width)
        walked = self.world.walks(theta[None], u)
        totals = self.world.returns(theta[None], u)[0].tolist()
        return tuple(
            Answer(
                _describe_walk(walked.actions[0, i], walked.states[0, i], totals[i]),
                "stop",
                int(moves),
            )
            for i, moves in enumerate(walked.moves[0])
        )


def worth(answer: Answer) -> float:
    """The return that a walk's text names.

    Raises:
        RunError: the text is no walk.
    """
    found = _RETURN.search(answer.text)
    if not found:
        raise RunError(f"{answer.text[:60]!r} is not a walk of a world")
    return float(found[1])


def _describe_walk(actions: Floats, states: Floats, total: float) -> str:
    moves = "".join(str(int(action)) for action in actions)
    places = " ".join(f"{x:g}" for x in np.ravel(states).tolist())
    return f"moves {moves}; places {places}; return {total!r}"
