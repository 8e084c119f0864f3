"""CartPole: our step against gymnasium's, worlds against themselves, the net against torch."""

import json

import gymnasium
import numpy as np
import pytest

from szpo.cli.app import call
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.policies.protocol import check_policy
from szpo.seeds import derive
from szpo.types import Answer, Floats, Prompt, Shift, Update
from szpo_simulators.panels.text_rewards import parse
from szpo_simulators.worlds.cartpole import (
    HORIZON,
    NOTEBOOK,
    CartPole,
    CartPolePolicy,
    Network,
    begin,
    count_moves,
    play,
    prompts,
    start,
)
from szpo_simulators.worlds.world import draws, uniforms

KEEN = np.array([0.0, 0.5, 8.0, 10.0, 0.0])
"""A linear net that balances well, but not always: lean and spin decide."""


def by_gymnasium(state: Floats, u: Floats, theta: Floats, net: Network) -> list[Floats]:
    world = gymnasium.make("CartPole-v1")
    world.reset(seed=0)
    world.unwrapped.state = state.copy()
    found, over = [state], False
    while not over:
        odds = net.logit(theta[None], found[-1][None, None])[0, 0]
        action = int(u[len(found) - 1] < 1 / (1 + np.exp(-odds)))
        _, reward, fallen, cut, _ = world.step(action)
        assert reward == 1.0
        found.append(np.array(world.unwrapped.state))
        over = fallen or cut
    return found


@pytest.mark.parametrize("theta", [np.zeros(5), KEEN, -KEEN], ids=["even", "keen", "contrary"])
def test_whole_episodes_are_those_of_make(theta):
    world = CartPole()
    u = draws(world, [1], 0, 0, 6)
    starts, lengths = start(u[:, :, :4]), world.returns(theta[None], u)
    states = [starts, *(after for after, _, _ in play(world.net, theta[None], starts, u[..., 4:]))]
    for i in range(6):
        found = by_gymnasium(starts[0, i], u[0, i, 4:], theta, world.net)
        assert lengths[0, i] == len(found) - 1
        ours = [state[0, i] for state in states[: len(found)]]
        assert np.allclose(ours, np.array(found), rtol=0, atol=1e-9)
    if theta is KEEN:
        assert (lengths == HORIZON).any()


def test_the_untrained_nets_and_their_value():
    assert np.array_equal(CartPole().theta0, np.zeros(5))
    for net in (Network(3), NOTEBOOK):
        theta = net.start(1)
        assert theta.shape == (net.dim,)
        assert np.abs(theta[: 5 * net.hidden]).max() <= 0.5
        assert np.abs(theta[5 * net.hidden :]).max() <= net.hidden**-0.5
        assert not np.array_equal(theta, net.start(2))
    world = CartPole()
    even, keen = world.value(np.stack([np.zeros(5), KEEN]))
    # A fair coin lasts 22.0 ± .2 moves (20,000 episodes of gymnasium's vector environment).
    assert 18 < even < 27
    assert keen > 300
    assert world.value(KEEN[None])[0] == keen


PROMPTS = prompts(12)


def test_episodes_are_those_of_the_world():
    """The same start and the same numbers: the text tells what the world plays."""
    for net in (Network(), Network(6)):
        tried = CartPolePolicy(3, net)
        check_policy(tried, PROMPTS, radius=1.0, space=tried.space)
        assert tried.dim == net.dim
    tried = CartPolePolicy(1)
    tried.apply(Update(0, 0, vector=tuple(KEEN.tolist())))
    (batch,) = tried.rollout([PROMPTS], [Shift(0, 0, 0, 0.0)], seed=9)
    rng = np.random.default_rng(0)
    u = np.empty((1, 12, 4 + HORIZON), dtype=np.float32)
    u[0, :, 4:] = uniforms(derive(9, "cartpole", k=0), 12 * HORIZON).reshape(12, HORIZON)
    # A number in the middle of the cell of the grid that the prompt names.
    states = np.array([begin(prompt) for prompt in PROMPTS])
    u[0, :, :4] = (np.rint((states + 0.05) * 10_000) + rng.uniform(0.3, 0.7)) / 1001
    assert np.array_equal(start(u[0, :, :4]), states)
    lengths = CartPole().returns(KEEN[None], u)
    pushed = [right for _, right, _ in play(Network(), KEEN[None], states[None], u[..., 4:])]
    for i, answer in enumerate(batch):
        moves = int(lengths[0, i])
        letters = "".join("LR"[int(right[0, i])] for right in pushed[:moves])
        assert answer.text.startswith(letters + ". ")
        assert answer.tokens == moves == count_moves(PROMPTS[i], answer)
        assert answer.end == ("length" if moves == HORIZON else "stop")
    assert len({answer.tokens for answer in batch}) > 1


def test_what_is_refused():
    with pytest.raises(UsageError, match=r"names no start; give prompts\.path a file"):
        begin(Prompt.user("Balance the pole."))
    with pytest.raises(UsageError, match="names no start"):
        begin(Prompt.user(PROMPTS[0].text.replace("position +0.0", "position +0.1")))
    with pytest.raises(UsageError, match="1 lists of prompts for 2 shifts"):
        CartPolePolicy(0).rollout([PROMPTS], [Shift(0, 0, 1, 1.0), Shift(0, 0, -1, 1.0)], seed=0)
    with pytest.raises(RunError, match="no episode of CartPole"):
        count_moves(PROMPTS[0], Answer("LRLR"))
    with pytest.raises(UsageError, match="takes nothing after a colon"):
        parse("balance:3")


@pytest.mark.full
def test_a_run_through_the_ledger_verifies_and_balances_longer(tmp_path):
    """`szpo run` with this policy and reward: 96 votes of a simulated panel on single episodes."""
    lines = [
        json.dumps({"text": p.text, "split": "train" if i % 4 else "heldout"})
        for i, p in enumerate(prompts(64))
    ]
    (tmp_path / "starts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sets = (
        "model.name=cartpole panel.reward=balance optimizer.mu=2 optimizer.D=1 "
        "optimizer.N=2 run.votes=96 run.seed=2 run.name=pole "
        f"prompts.path={tmp_path / 'starts.jsonl'}"
    )
    words = [word for text in sets.split() for word in ("--set", text)]
    assert call(["run", "--folder", str(tmp_path), *words]) == 0
    assert call(["verify", str(tmp_path / "pole.db")]) == 0
    with Ledger.open(tmp_path / "pole.db") as ledger:
        rows = ledger.query(
            "SELECT plus, minus FROM answers JOIN comparisons USING (comparison) ORDER BY step"
        )
        sides = [row[side] for row in rows for side in ("plus", "minus")]
    lasted = [count_moves(PROMPTS[0], Answer(text)) for text in sides]
    assert len(lasted) == 2 * 96
    assert np.mean(lasted[-32:]) > 4 * np.mean(lasted[:32])
