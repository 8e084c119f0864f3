"""One MuJoCo task of gymnasium as a world: Reacher-v5 under a linear policy without noise.

An extra, since MuJoCo is large. Episodes are played one after the
other in gymnasium's own environment; a walk's one uniform number seeds its reset, so that both
sides of a comparison may start from the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from szpo.errors import UsageError
from szpo.plugins import how_to_install
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Trajectories, Uniforms, uniforms


def environment(task: str) -> gymnasium.Env[Any, Any]:
    """The task of that name, with continuous moves.

    Raises:
        UsageError: MuJoCo is not installed, or there is no such task.
    """
    try:
        made = gymnasium.make(task)
    except DependencyNotInstalled:
        raise UsageError(f"task {task} needs mujoco: {how_to_install('mujoco')}") from None
    except gymnasium.error.Error as error:
        raise UsageError(f"task {task}: {str(error).strip()}") from None
    if not isinstance(made.action_space, gymnasium.spaces.Box):
        raise UsageError(f"task {task} has no continuous moves; choose one such as Reacher-v5")
    return made


@dataclass(frozen=True)
class Linear:
    """A `World`: moves are tanh(W · observation + b) times the task's bound; θ = (W, b), 0 first.

    Raises:
        UsageError: when first used, as `environment`.
    """

    task: str = "Reacher-v5"
    evaluations: int = 8
    """Episodes behind `value`."""

    @cached_property
    def _world(self) -> gymnasium.Env[Any, Any]:
        return environment(self.task)

    @property
    def _sizes(self) -> tuple[int, int]:
        """How many numbers are seen, and how many are chosen."""
        seen, moved = self._world.observation_space.shape, self._world.action_space.shape
        return int(np.prod(seen or ())), int(np.prod(moved or ()))

    @property
    def dim(self) -> int:
        """A weight per observation and move, a bias per move."""
        seen, moved = self._sizes
        return (seen + 1) * moved

    @property
    def width(self) -> int:
        """The number that seeds the reset."""
        return 1

    @property
    def theta0(self) -> Floats:
        """No move at all."""
        return np.zeros(self.dim)

    @property
    def horizon(self) -> int:
        """Moves after which the task cuts an episode off."""
        spec = self._world.spec
        return 1000 if spec is None or spec.max_episode_steps is None else spec.max_episode_steps

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n)."""
        return self.walks(theta, u).returns

    def walks(self, theta: Reals, u: Uniforms) -> Trajectories:
        """The episodes, one after the other."""
        lead, (seen, moved) = u.shape[:2], self._sizes
        states = np.zeros((*lead, self.horizon + 1, seen))
        actions = np.zeros((*lead, self.horizon, moved))
        rewards, moves = np.zeros((*lead, self.horizon)), np.zeros(lead, dtype=np.int64)
        space = self._world.action_space
        bound = space.high if isinstance(space, gymnasium.spaces.Box) else np.ones(moved)
        for place in np.ndindex(lead):
            weights = theta[place[0]].astype(np.float64).reshape(moved, seen + 1)
            state, _ = self._world.reset(seed=int(u[place][0] * 2**24))
            states[place][0], over = state, False
            while not over:
                t = moves[place]
                actions[place][t] = bound * np.tanh(weights[:, :-1] @ state + weights[:, -1])
                state, reward, ended, cut, _ = self._world.step(actions[place][t])
                states[place][t + 1], rewards[place][t] = state, reward
                moves[place] += 1
                over = ended or cut
        return Trajectories(states, actions, rewards, moves)

    def value(self, theta: Reals) -> Floats:
        """Mean return (S,) of ``evaluations`` episodes from starts that are always the same."""
        u = uniforms(derive(0, "mujoco value"), self.evaluations)[None, :, None]
        shape = (len(theta), self.evaluations, 1)
        return np.asarray(self.returns(theta, np.broadcast_to(u, shape)).mean(-1))
