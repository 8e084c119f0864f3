"""CartPole behind `Policy`: the contract, the texts, and a whole run with its ledger."""

import json

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.policies.protocol import check_policy
from szpo.seeds import derive
from szpo.types import Answer, Prompt, Shift, Update
from szpo_simulators.rewards.text_rewards import parse
from szpo_simulators.worlds.balancing import Balance, CartPolePolicy, begin, prompts
from szpo_simulators.worlds.cartpole import HORIZON, CartPole, Network, start
from szpo_simulators.worlds.world import uniforms

PROMPTS = prompts(12)
KEEN = (0.0, 0.5, 8.0, 10.0, 0.0)


@pytest.mark.parametrize("net", [Network(), Network(6)], ids=["linear", "hidden"])
def test_it_is_a_policy(net):
    tried = CartPolePolicy(3, net)
    check_policy(tried, PROMPTS, radius=1.0, space=tried.space)
    assert tried.dim == net.dim


def test_episodes_are_those_of_the_world():
    """The same start and the same numbers: the text tells what `CartPole.walks` walks."""
    tried = CartPolePolicy(1)
    tried.apply(Update(0, 0, vector=KEEN))
    (batch,) = tried.rollout([PROMPTS], [Shift(0, 0, 0, 0.0)], seed=9)
    rng = np.random.default_rng(0)
    u = np.empty((1, 12, 4 + HORIZON), dtype=np.float32)
    u[0, :, 4:] = uniforms(derive(9, "cartpole", k=0), 12 * HORIZON).reshape(12, HORIZON)
    # A number in the middle of the cell of the grid that the prompt names.
    states = np.array([begin(prompt) for prompt in PROMPTS])
    u[0, :, :4] = (np.rint((states + 0.05) * 10_000) + rng.uniform(0.3, 0.7)) / 1001
    assert np.array_equal(start(u[0, :, :4]), states)
    walks = CartPole().walks(np.array([KEEN]), u)
    for i, answer in enumerate(batch):
        moves = walks.moves[0, i]
        letters = "".join("LR"[a] for a in walks.actions[0, i, :moves])
        assert answer.text.startswith(letters + ". ")
        assert answer.tokens == moves == Balance().score(PROMPTS[i], answer)
        assert answer.end == ("length" if moves == HORIZON else "stop")
    assert len({answer.tokens for answer in batch}) > 1


def test_what_is_refused():
    with pytest.raises(UsageError, match=r"names no start; give prompts\.path a file"):
        begin(Prompt.user("Balance the pole."))
    far = PROMPTS[0].text.replace("position +0.0", "position +0.1")
    with pytest.raises(UsageError, match="names no start"):
        begin(Prompt.user(far))
    with pytest.raises(UsageError, match="1 lists of prompts for 2 shifts"):
        CartPolePolicy(0).rollout([PROMPTS], [Shift(0, 0, 1, 1.0), Shift(0, 0, -1, 1.0)], seed=0)
    with pytest.raises(RunError, match="no episode of CartPole"):
        Balance().score(PROMPTS[0], Answer("LRLR"))
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
    sets = {
        "model.name": "cartpole", "panel.reward": "balance", "optimizer.mu": 2,
        "optimizer.rows": 1, "optimizer.comparisons": 2, "run.votes": 96, "run.seed": 2,
        "prompts.path": tmp_path / "starts.jsonl", "run.name": "pole",
    }  # fmt: skip
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    assert call(["run", "--folder", str(tmp_path), *words]) == 0
    assert call(["verify", str(tmp_path / "pole.db")]) == 0
    with Ledger.open(tmp_path / "pole.db") as ledger:
        lasted = [
            Balance().score(PROMPTS[0], Answer(row[side]))
            for row in ledger.query(
                "SELECT plus, minus FROM answers JOIN comparisons USING (comparison) ORDER BY step"
            )
            for side in ("plus", "minus")
        ]
    assert len(lasted) == 2 * 96
    assert np.mean(lasted[-32:]) > 4 * np.mean(lasted[:32])
