"""REINFORCE and PPO of the RLHF notebook: its two mistakes, what each does, and the repair."""

from itertools import islice

import numpy as np
import pytest
import torch

from szpo_simulators.cartpole import CLIP, FORMS, NOTEBOOK, Learner, ppo, reinforce, returns
from szpo_simulators.worlds.cartpole import SCALE, Network


def lengths(learning, episodes: int) -> list[int]:
    return [length for length, _ in islice(learning, episodes)]


def test_crossed_ratios_leave_no_gradient_and_flat_ones_that_of_reinforce():
    """At the old policy every ratio is 1: the gradient is that of mean(A · log π)."""
    learner = Learner(1)
    states, actions = learner.episode()
    advantages = returns(len(actions))
    logs = learner.logprob(states, actions)
    ratio = torch.exp(logs - logs.detach())
    weights = list(learner.net.parameters())

    def slope(objective: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(objective, weights, retain_graph=True)
        return torch.cat([g.ravel() for g in found])

    def clip(r: torch.Tensor) -> torch.Tensor:
        return torch.min(r * advantages, r.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()

    wanted = slope((logs * advantages).mean())
    assert torch.allclose(slope(clip(ratio)), wanted, atol=1e-6)
    crossed = slope(clip(ratio[:, None]))
    assert float(crossed.norm()) < 1e-5 * float(wanted.norm())


@pytest.mark.full
def test_the_same_seed_gives_the_same_lengths_and_others_do_not():
    first = lengths(reinforce(3), 12)
    assert lengths(reinforce(3), 12) == first
    assert lengths(reinforce(4), 12) != first
    # The first episode is played before any update: all forms begin the same.
    assert {lengths(ppo(3, form), 1)[0] for form in FORMS.values()} == {first[0]}
    assert lengths(ppo(3, FORMS["as written"]), 12) != lengths(ppo(3), 12)


@pytest.mark.full
def test_the_repair_and_reinforce_reach_500():
    """Single seeds chosen because they are quick; shares over seeds are the bench's matter."""
    assert max(lengths(ppo(1), 40)) == 500
    assert max(lengths(reinforce(2), 60)) == 500


@pytest.mark.parametrize("policy", [NOTEBOOK, Network(), Network(3)])
def test_the_two_logits_in_torch_are_the_one_in_numpy(policy):
    learner = Learner(0, policy=policy)
    with torch.no_grad():
        for parameter in learner.net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=learner.torch))
    assert learner.theta().shape == (policy.dim,)
    seen = np.random.default_rng(0).normal(size=(6, 4)) * 0.2
    entered = torch.from_numpy((seen / SCALE if policy.scaled else seen).astype(np.float32))
    odds = policy.logit(learner.theta()[None], seen[None])[0]
    logs = learner.logprob(entered, torch.ones(6, dtype=torch.int64)).detach().numpy()
    assert np.exp(logs) == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-5)
