"""Planning on a learned reward with the true transitions: an upper bound for any PPO on it.

The plan may depend on time and knows the transitions exactly. No method that samples can do better
on the same reward.
"""

from __future__ import annotations

import numpy as np

from szpo.types import Floats
from szpo_simulators.worlds.gridworld import GridWorld


def value(world: GridWorld, w: Floats) -> Floats:
    """True value (S,) of the plans that are best for rewards w (S, cells) on arrival.

    Backward induction chooses by w; the true reward is carried along. The best of equals is the
    first move.
    """
    runs = len(w)
    believed = np.zeros((runs, world.sets * world.cells))
    true = np.zeros_like(believed)
    reward = np.tile(w, (1, world.sets))
    for _ in range(world.horizon):
        hope = _slipping(world, (reward + believed)[:, world.landing])
        fact = _slipping(world, (world.arrival + true)[:, world.landing])
        # The plan sees the cell and the time, as the reward does: all sets of a cell agree.
        best = hope.argmax(-1)[..., None]
        believed = np.take_along_axis(hope, best, -1)[..., 0]
        true = np.take_along_axis(fact, best, -1)[..., 0]
    return np.asarray(true[:, 0])


def _slipping(world: GridWorld, after: Floats) -> Floats:
    """Expectations (S, states, 4) by chosen move, from what each executed move leads to."""
    stays = (1 - world.slip) * after
    return np.asarray(stays + world.slip * after.mean(-1, keepdims=True))
