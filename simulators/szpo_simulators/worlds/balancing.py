"""CartPole behind the `Policy` protocol: a prompt names a start, an answer describes an episode.

An answer is "RLLRL. Fell after 5 moves." or "… Stood for all 500 moves.", so that panels,
ledgers and rewards treat it as they treat any text. Both sides of a direction share all chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from szpo.errors import RunError, UsageError
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.seeds import derive
from szpo.types import Answer, Batch, Floats, Layout, Prompt, Shift, Theta, Update
from szpo_simulators.worlds.cartpole import HORIZON, START, Network, play, start
from szpo_simulators.worlds.world import Reals, uniforms

_NUMBER = r"([+-]0\.\d{4})"
_START = re.compile(rf"position {_NUMBER}, speed {_NUMBER}, angle {_NUMBER}, spin {_NUMBER}\.")
_EPISODE = re.compile(r"[LR]+\. (?:Fell after|Stood for all) (\d+) moves\.")


def prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts that name n random starts.

    >>> prompts(1)[0].text
    'Balance the pole from position +0.0309, speed +0.0187, angle +0.0178, spin +0.0160.'
    """
    states = start(uniforms(derive(seed, "cartpole starts"), 4 * count).reshape(count, 4))
    names = ("position", "speed", "angle", "spin")
    return tuple(
        Prompt.user(
            "Balance the pole from "
            + ", ".join(f"{name} {x:+.4f}" for name, x in zip(names, state, strict=True))
            + "."
        )
        for state in states.tolist()
    )


def begin(prompt: Prompt) -> list[float]:
    """The start that a prompt names.

    Raises:
        UsageError: it names none, or one from which no episode starts.
    """
    found = _START.search(prompt.text)
    state = [float(number) for number in found.groups()] if found else []
    if not state or max(map(abs, state)) > START:
        raise UsageError(
            f"prompt {prompt.text[:60]!r} names no start; give prompts.path a file with lines "
            f'such as "{prompts(1)[0].text}", each number within ±{START}'
        )
    return state


class CartPolePolicy:
    """A small net that balances a pole; θ starts untrained, as `Network.start` has it."""

    def __init__(self, root_seed: int, net: Network | None = None, law: Law | None = None) -> None:
        self.net = net or Network()
        self.dim = self.net.dim
        self.layout: Layout = (("net", (self.dim,)),)
        self.space = Space(root_seed, self.layout, law or Law.for_dim(self.dim))
        self._theta: Theta = {"net": self.net.start(root_seed).astype(np.float32)}

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """One episode per prompt and shift, by numbers that both sides of a direction share.

        Raises:
            UsageError: as many lists of prompts as shifts are needed, each prompt a start.
        """
        if len(prompts) != len(shifts):
            raise UsageError(f"rollout: {len(prompts)} lists of prompts for {len(shifts)} shifts")
        return [
            self._episodes(
                parameters.shift(self.space, self._theta, shift)["net"],
                [begin(prompt) for prompt in asked],
                derive(seed, "cartpole", k=shift.k),
            )
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

    def _episodes(self, theta: Reals, starts: Sequence[Sequence[float]], key: bytes) -> Batch:
        rows = len(starts)
        if not rows:
            return ()
        u = uniforms(key, rows * HORIZON).reshape(1, rows, HORIZON)
        state: Floats = np.array(starts)[None]
        letters: list[list[str]] = [[] for _ in range(rows)]
        for _, right, walking in play(self.net, theta[None], state, u):
            for i in np.flatnonzero(walking[0]):
                letters[i].append("R" if right[0, i] else "L")
        return tuple(_describe_episode("".join(moves)) for moves in letters)


def policy(*, root_seed: int) -> CartPolePolicy:
    """The policy by name: the entry point ``cartpole`` of `szpo.policies`."""
    return CartPolePolicy(root_seed)


@dataclass(frozen=True)
class Balance:
    """How long the pole was balanced, read from the text: 1 to 500 moves."""

    def score(self, prompt: Prompt, answer: Answer) -> float:
        """The number of moves.

        Raises:
            RunError: the text is no episode.
        """
        found = _EPISODE.fullmatch(answer.text)
        if not found:
            raise RunError(f"reward balance: {answer.text[:60]!r} is no episode of CartPole")
        return float(found[1])


def balance(argument: str | None) -> Balance:
    """The reward by name: the entry point ``balance`` of `szpo.rewards`.

    Raises:
        UsageError: something follows a colon.
    """
    if argument is not None:
        raise UsageError("takes nothing after a colon")
    return Balance()


def _describe_episode(moves: str) -> Answer:
    """An episode's moves as an answer; 500 moves count as stood even if the last one is a fall."""
    whole = len(moves) == HORIZON
    end = "Stood for all" if whole else "Fell after"
    return Answer(f"{moves}. {end} {len(moves)} moves.", "length" if whole else "stop", len(moves))
