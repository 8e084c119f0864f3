"""CartPole behind the `Policy` protocol: a prompt names a start, an answer describes an episode.

An answer is "RLLRL. Fell after 5 moves." or "… Stood for all 500 moves.", so panels, ledgers and
rewards treat it as any text. Both sides of a direction share all random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from szpo.errors import RunError, UsageError
from szpo.optim.sample_directions import Law
from szpo.seeds import derive
from szpo.types import Answer, Batch, Floats, Prompt, Theta
from szpo_simulators.panels.text_features import Scored, bare
from szpo_simulators.worlds.cartpole import HORIZON, START, Network, play, start
from szpo_simulators.worlds.world import WorldPolicy, uniforms

_NUMBER = r"([+-]0\.\d{4})"
_START = re.compile(rf"position {_NUMBER}, speed {_NUMBER}, angle {_NUMBER}, spin {_NUMBER}\.")
_EPISODE = re.compile(r"[LR]+\. (?:Fell after|Stood for all) (\d+) moves\.")


def prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts that name ``count`` random starts.

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
    """The start that a prompt names."""
    found = _START.search(prompt.text)
    state = [float(number) for number in found.groups()] if found else []
    if not state or max(map(abs, state)) > START:
        raise UsageError(
            f"prompt {prompt.text[:60]!r} names no start; give prompts.path a file with lines "
            f'such as "{prompts(1)[0].text}", each number within ±{START}'
        )
    return state


class CartPolePolicy(WorldPolicy):
    """A small net that balances a pole; θ begins at `Network.start`."""

    purpose = "cartpole"

    def __init__(self, root_seed: int, net: Network | None = None, law: Law | None = None) -> None:
        self.net = net or Network()
        super().__init__(root_seed, {"net": self.net.start(root_seed).astype(np.float32)}, law)

    def walk(self, theta: Theta, prompts: Sequence[Prompt], key: bytes) -> Batch:
        """One episode per prompt."""
        starts = [begin(prompt) for prompt in prompts]
        rows = len(starts)
        if not rows:
            return ()
        u = uniforms(key, rows * HORIZON).reshape(1, rows, HORIZON)
        state: Floats = np.array(starts)[None]
        letters: list[list[str]] = [[] for _ in range(rows)]
        for _, right, walking in play(self.net, theta["net"][None], state, u):
            for i in np.flatnonzero(walking[0]):
                letters[i].append("R" if right[0, i] else "L")
        return tuple(_describe_episode("".join(moves)) for moves in letters)


def policy(*, root_seed: int) -> CartPolePolicy:
    """The entry point ``cartpole`` of `szpo.policies`."""
    return CartPolePolicy(root_seed)


def count_moves(prompt: Prompt, answer: Answer) -> float:
    """How many moves the pole was balanced, read from the text: 1 to 500."""
    found = _EPISODE.fullmatch(answer.text)
    if not found:
        raise RunError(f"reward balance: {answer.text[:60]!r} is no episode of CartPole")
    return float(found[1])


balance = bare(Scored("balance", count_moves))
"""The entry point ``balance`` of `szpo.rewards`."""


def _describe_episode(moves: str) -> Answer:
    """An episode's moves as an answer; 500 moves count as stood even if the last one is a fall."""
    whole = len(moves) == HORIZON
    end = "Stood for all" if whole else "Fell after"
    return Answer(f"{moves}. {end} {len(moves)} moves.", "length" if whole else "stop", len(moves))
