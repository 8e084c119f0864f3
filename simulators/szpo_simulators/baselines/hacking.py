"""A reward model with limited eyes on the track, and PPO that believes it.

The panel sees the truth and says which of two drives made more progress. The reward model sees
some features of a drive only; Bradley-Terry weights of these features are fitted to the votes, and
PPO-clip improves the driver on the reward that they give to each move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from szpo.baselines.advantages import gae
from szpo.types import Floats, Ints
from szpo_simulators.baselines import ppo, reward_model
from szpo_simulators.baselines.tables import Adam
from szpo_simulators.worlds import oracle
from szpo_simulators.worlds.oracle import Panel
from szpo_simulators.worlds.track import FEATURES, MOVES, Track
from szpo_simulators.worlds.world import draws

RIDGE = 1e-3
RATE, CLIP, EPOCHS, WALKS, LAMBDA = 0.1, 0.2, 4, 64, 0.95
"""Of PPO: Adam's usual rate, ε, epochs per batch, drives per batch, λ of the advantages."""


def weights(
    track: Track, root_seeds: Sequence[int], votes: int, eyes: Sequence[str], panel: Panel
) -> Floats:
    """Fitted weights (S, features) from one vote on each of so many pairs of untrained drives.

    Features outside ``eyes`` weigh 0. Drives and votes come from each repetition's root seed: the
    same for all eyes, and fewer of them are the first of more.
    """
    theta = np.tile(track.theta0, (len(root_seeds), 1))
    walks = track.walks(theta, draws(track, root_seeds, 0, 0, 2 * votes, "pairs"))
    pairs = (len(root_seeds), votes, 2)
    gap = np.diff(walks.returns.reshape(pairs))[..., 0]
    won = oracle.votes(panel.chance(gap), oracle.coins(root_seeds, 0, (votes, 1))[0])
    kept = [FEATURES.index(name) for name in eyes]
    seen = track.told(walks.states).sum(2)[..., kept].reshape(*pairs, len(kept))
    x = seen[:, :, 1] - seen[:, :, 0]
    spread = x.std(1) + 1e-12  # so that the ridge is alike for laps and for counts
    found = np.zeros((len(root_seeds), len(FEATURES)))
    found[:, kept] = reward_model.fit(x / spread[:, None], won, RIDGE) / spread
    return found


def practise(
    track: Track,
    w: Floats,
    root_seeds: Sequence[int],
    batches: int,
    *,
    rate: float = RATE,
    mark: Callable[[int, Floats], None] = lambda batch, theta: None,
) -> Floats:
    """Logits (S, d) after so many batches of PPO on the reward of weights (S, features).

    No voter and no truth takes part. ``mark`` is told the batch and θ, 0 and θ₀ first.
    """
    theta = np.tile(track.theta0, (len(root_seeds), 1))
    adam = Adam.empty(theta.shape)
    mark(0, theta)
    for batch in range(batches):
        u = draws(track, root_seeds, batch, 0, WALKS, "practice")
        walks = track.walks(theta, u)
        cells = walks.states[:, :, :-1].astype(np.int64)
        rewards = np.einsum("snhf,sf->snh", track.told(walks.states), w)
        advantage = gae(rewards, ppo.critic(rewards, cells, track.cells), LAMBDA)
        advantage = advantage - advantage.mean((1, 2), keepdims=True)
        advantage = advantage / (advantage.std((1, 2), keepdims=True) + 1e-9)
        taken: Ints = cells * len(MOVES) + walks.actions
        up, down = ppo.sums(taken, advantage, track.dim)
        old = theta
        for _ in range(EPOCHS):
            slope = ppo.gradient(theta, old, up, down, clip=CLIP, moves=len(MOVES))
            adam, move = adam.step(slope, rate)
            theta = theta + move
        mark(batch + 1, theta)
    return theta
