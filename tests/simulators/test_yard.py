"""The yard: its exact value and KL against walks really taken, and the policy's contract."""

import numpy as np
import pytest

from szpo.errors import RunError, UsageError
from szpo.optim.parameters import round13
from szpo.policies.protocol import Monitored, check_policy
from szpo.types import Answer, Floats, Prompt, Shift, Update
from szpo_simulators.rewards.text_rewards import matrix, parse
from szpo_simulators.worlds.yard import PIT, WELL, TabularPolicy, Walk, Yard

PROMPTS = Yard().prompts()


def move(seed: int = 0, by: float = 1.0) -> TabularPolicy:
    policy = TabularPolicy(seed)
    policy.apply(Update(0, 0, coef=float(round13(by))))
    return policy


def logits(policy: TabularPolicy) -> Floats:
    return policy.theta()["logits"].astype(np.float64)


def test_it_is_a_policy():
    policy = move(by=0.5)
    check_policy(policy, PROMPTS, radius=0.5, space=policy.space)
    assert isinstance(policy, Monitored)


def test_the_exact_value_is_the_mean_reward_of_many_walks():
    policy = move(by=1.5)
    drawn = policy.sample(PROMPTS, 600, seed=1)
    rewards = matrix(Walk(), PROMPTS, drawn)
    stderr = rewards.std(axis=1).mean() / np.sqrt(rewards.size)
    assert rewards.mean() == pytest.approx(policy.value(), abs=3.5 * stderr)
    assert abs(policy.value() - TabularPolicy(0).value()) > 10 * stderr


def test_the_value_of_two_cells_by_hand():
    # One free cell beside the well, no wind: right reaches it, the others stay. With p = P(right)
    # and at most two moves: −.04 + p + (1 − p)(−.04 + p).
    yard = Yard(rows=1, columns=2, well=(0, 1), pits=(), walls=(), wind=0.0, horizon=2)
    weights = np.zeros((2, 4))
    weights[0, 1] = np.log(2.0)  # p = 2 / 5
    assert yard.value(weights) == pytest.approx(-0.04 + 0.4 + 0.6 * (0.4 - 0.04))
    # KL per visit: Σ π log(π / ¼); visits: 1 and, with probability .6, a second one.
    local = 0.4 * np.log(1.6) + 0.6 * np.log(0.8)
    assert yard.divergence(weights, np.zeros((2, 4))) == pytest.approx(1.6 * local)


def test_kl_is_the_mean_log_ratio_of_walks():
    policy = move(by=1.0)
    kl, stderr = policy.kl(PROMPTS, seed=0)
    assert stderr == 0
    shares = np.exp(logits(policy))
    shares /= shares.sum(axis=1, keepdims=True)
    ratios = []
    for prompt, row in zip(PROMPTS, policy.sample(PROMPTS, 400, seed=2), strict=True):
        for answer in row:
            cell, total = policy.yard.start(prompt), 0.0
            for word in answer.text.partition(".")[0].split():
                names = ("up", "right", "down", "left")
                chosen, _, turned = word.partition(">")
                total += np.log(4 * shares[cell, names.index(chosen)])
                cell = int(policy.yard.landing[cell, names.index(turned or chosen)])
            ratios.append(total)
    assert kl == pytest.approx(np.mean(ratios), abs=3.5 * np.std(ratios) / len(ratios) ** 0.5)


def test_walks_tell_how_they_ended_and_what_they_are_worth():
    answers = [a for row in TabularPolicy(0).sample(PROMPTS, 40, seed=0) for a in row]
    ends = {a.text.partition(".")[2].strip() for a in answers}
    assert ends == {WELL, PIT, ""}
    for answer in answers:
        assert answer.tokens == len(answer.text.partition(".")[0].split())
        assert (answer.end == "stop") == (WELL in answer.text or PIT in answer.text)
    worth = parse("walk").score(PROMPTS[0], Answer(f"up right>up. {WELL}"))
    assert worth == pytest.approx(1 - 2 * 0.04)
    assert Walk().score(PROMPTS[0], Answer("left.")) == pytest.approx(-0.04)
    with pytest.raises(RunError, match="not a walk"):
        Walk().score(PROMPTS[0], Answer("Once upon a time."))


def test_rollout_is_repeatable_shares_chance_between_sides_and_nests_prompts():
    policy = TabularPolicy(3)
    pairs = [Shift(0, k, sign, 0.5) for k in range(2) for sign in (1, -1)]
    asked = [list(PROMPTS)] * 4
    first = policy.rollout(asked, pairs, seed=5)
    assert first == policy.rollout(asked, pairs, seed=5)
    assert first != policy.rollout(asked, pairs, seed=6)
    assert [len(batch) for batch in first] == [len(PROMPTS)] * 4
    # Radius 0: the two sides of a direction walk the same way, different directions do not.
    still = policy.rollout(asked, [Shift(0, s.k, s.sign, 0.0) for s in pairs], seed=5)
    assert still[0] == still[1]
    assert still[2] == still[3]
    assert still[0] != still[2]
    # A row's walk depends on its place, not on what else is asked.
    assert policy.rollout([PROMPTS[:2]], pairs[:1], seed=5)[0] == first[0][:2]
    with pytest.raises(UsageError, match="1 lists of prompts for 2 shifts"):
        policy.rollout([PROMPTS], pairs[:2], seed=5)
    with pytest.raises(UsageError, match="names no free cell"):
        policy.sample([Prompt.user("Walk from row 1, column 1.")], 1, seed=0)
