"""REINFORCE and PPO-clip on CartPole as in a widely copied RLHF notebook, with its mistakes.

The notebook uses a net 4 → 128 ReLU → 2, Adam at 1e-2, γ = .99, an episode's returns normalised
to mean 0 and deviation 1, and one update per episode; PPO has ε = .2, four epochs and no critic.
Two lines of its PPO are wrong. *Resampled*: the new log-probabilities are of newly drawn actions,
so that a ratio compares two different actions. *Crossed*: ratios (T, 1) times returns (T,) make a
(T, T) table of every action with every return; returns have mean 0, so nothing is left to learn
from. Either mistake alone prevents learning.

Moves are drawn in NumPy, and an episode's log-probabilities are computed in one pass; the
arithmetic is the notebook's. Both also train any `Network`, to compare methods on one policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from szpo.seeds import derive, generator, integer
from szpo.types import Floats
from szpo_simulators.worlds.cartpole import NOTEBOOK, SCALE, Network

GAMMA, RATE, CLIP, EPOCHS = 0.99, 1e-2, 0.2, 4


FORMS: Mapping[str, tuple[str, ...]] = {
    "as written": ("resampled", "crossed"),
    "only resampled": ("resampled",),
    "only crossed": ("crossed",),
    "repaired": (),
}
"""Forms of PPO, each with the mistakes that it still has."""


class Learner:
    """A net with two logits, its optimizer, the environment and the random numbers of one seed."""

    def __init__(self, seed: int, rate: float = RATE, policy: Network = NOTEBOOK) -> None:
        self.policy = policy
        self.torch = torch.Generator().manual_seed(integer(derive(seed, "torch"), 0, 2**62))
        self.net = _layers(policy)
        for parameter in self.net.parameters():
            hidden = policy.hidden
            # torch's own initialisation, from this seed; a linear policy starts at 0.
            reach = 0.0 if not hidden else 0.5 if len(parameter) == hidden else hidden**-0.5
            nn.init.uniform_(parameter, -reach, reach, generator=self.torch)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=rate)
        self.chance = generator(derive(seed, "moves"))
        self.world = gymnasium.make("CartPole-v1")
        self.world.reset(seed=integer(derive(seed, "starts"), 0, 2**31))

    def theta(self) -> Floats:
        """The weights (d,) for `Network.logit`, with the two logits as one."""
        *inner, outward, last = (
            p.detach().numpy().astype(np.float64) for p in self.net.parameters()
        )
        parts = [np.ravel(p.T) for p in inner]
        return np.concatenate([*parts, outward[1] - outward[0], [last[1] - last[0]]])

    def episode(self) -> tuple[Tensor, Tensor]:
        """Play an episode with the current net: inputs (T, 4) and chosen actions (T,)."""
        theta = self.theta()[None]
        seen, _ = self.world.reset()
        states, actions, over = [], [], False
        while not over:
            odds = self.policy.logit(theta, seen[None, None].astype(np.float64))[0, 0]
            action = int(self.chance.random() < 1 / (1 + np.exp(-odds)))
            states.append(seen)
            actions.append(action)
            seen, _, fallen, cut, _ = self.world.step(action)
            over = fallen or cut
        entered = np.array(states) / (SCALE if self.policy.scaled else 1.0)
        return torch.from_numpy(entered.astype(np.float32)), torch.tensor(actions)

    def logprob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities log π(action | state), (T,)."""
        logs = torch.log_softmax(self.net(states), dim=1)
        return logs.gather(1, actions[:, None])[:, 0]

    def resample(self, states: Tensor) -> Tensor:
        """Newly drawn actions (T,) at the states of an episode."""
        chances = torch.softmax(self.net(states).detach(), dim=1)
        return torch.multinomial(chances, 1, generator=self.torch)[:, 0]

    def descend(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()


def _layers(policy: Network) -> nn.Sequential:
    h = policy.hidden
    if not h:
        return nn.Sequential(nn.Linear(4, 2))
    bend = nn.ReLU() if policy.activation == "relu" else nn.Tanh()
    return nn.Sequential(nn.Linear(4, h), bend, nn.Linear(h, 2))


def returns(length: int, gamma: float = GAMMA) -> Tensor:
    """Returns to go of an episode with reward 1 per move, normalised over its moves.

    >>> [round(x, 2) for x in returns(3).tolist()]
    [1.0, 0.0, -1.0]
    """
    to_go = torch.from_numpy((1 - gamma ** np.arange(length, 0, -1)) / (1 - gamma)).float()
    return (to_go - to_go.mean()) / (to_go.std() + 1e-9)


def reinforce(
    seed: int, rate: float = RATE, policy: Network = NOTEBOOK
) -> Iterator[tuple[int, Learner]]:
    """REINFORCE (Williams 1992): yields each episode's length and the learner, without end."""
    learner = Learner(seed, rate, policy)
    while True:
        states, actions = learner.episode()
        learner.descend(-(learner.logprob(states, actions) * returns(len(actions))).sum())
        yield len(actions), learner


def ppo(
    seed: int,
    mistakes: Collection[str] = FORMS["repaired"],
    rate: float = RATE,
    policy: Network = NOTEBOOK,
) -> Iterator[tuple[int, Learner]]:
    """PPO-clip (Schulman et al. 2017) with some of the notebook's mistakes; see `reinforce`."""
    learner = Learner(seed, rate, policy)
    while True:
        states, actions = learner.episode()
        advantages = returns(len(actions))
        old = learner.logprob(states, actions).detach()
        for _ in range(EPOCHS):
            taken = learner.resample(states) if "resampled" in mistakes else actions
            ratio = torch.exp(learner.logprob(states, taken) - old)
            if "crossed" in mistakes:
                ratio = ratio[:, None]
            clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
            learner.descend(-torch.min(ratio * advantages, clipped * advantages).mean())
        yield len(actions), learner
