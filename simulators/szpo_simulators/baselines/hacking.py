"""Reward hacking on the track: a reward model that sees only some features, and PPO on it.

The panel sees the true return and votes for the drive with more progress. The reward model sees
only some features of a drive; their Bradley-Terry weights are fitted to the votes, and PPO-clip
improves the driver on the reward that they give to each move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from szpo.types import Floats, Ints
from szpo_simulators.baselines import ppo, reward_model
from szpo_simulators.worlds import oracle
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.track import FEATURES, MOVES, Track
from szpo_simulators.worlds.world import draws

RIDGE = 1e-3


def fit_weights(
    track: Track, root_seeds: Sequence[int], votes: int, eyes: Sequence[str], panel: LinkPanel
) -> Floats:
    """Fitted weights (S, features) from one vote on each of n pairs of untrained drives.

    Features outside ``eyes`` weigh 0. Drives and votes come from each repetition's root seed:
    they do not depend on ``eyes``, and a smaller n takes the first of a larger one.
    """
    theta = np.tile(track.theta0, (len(root_seeds), 1))
    walks = track.walks(theta, draws(track, root_seeds, 0, 0, 2 * votes, "pairs"))
    pairs = (len(root_seeds), votes, 2)
    gap = np.diff(walks.returns.reshape(pairs))[..., 0]
    won = oracle.votes(panel.chance(gap), oracle.coins(root_seeds, 0, (votes, 1))[0])
    visible = [FEATURES.index(name) for name in eyes]
    seen = track.move_features(walks.states).sum(2)[..., visible].reshape(*pairs, len(visible))
    x = seen[:, :, 1] - seen[:, :, 0]
    spread = x.std(1) + 1e-12  # so that the ridge means the same for laps and for counts
    found = np.zeros((len(root_seeds), len(FEATURES)))
    found[:, visible] = reward_model.fit(x / spread[:, None], won, RIDGE) / spread
    return found


def train_ppo(
    track: Track, w: Floats, root_seeds: Sequence[int], how: ppo.Recipe
) -> Iterator[Floats]:
    """`ppo.iterate` on the reward of weights (S, features): θ (S, d), without end.

    No voter and no true reward takes part.
    """

    def sample(theta: Floats, batch: int) -> tuple[Ints, Floats]:
        u = draws(track, root_seeds, batch, 0, how.walks, "practice")
        walks = track.walks(theta, u)
        cells = walks.states[:, :, :-1].astype(np.int64)
        rewards = np.einsum("snhf,sf->snh", track.move_features(walks.states), w)
        return cells * len(MOVES) + walks.actions, rewards

    theta = np.tile(track.theta0, (len(root_seeds), 1))
    return ppo.iterate(theta, sample, how, moves=len(MOVES))
