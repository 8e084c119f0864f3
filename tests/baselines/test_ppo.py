"""PPO on a language model: stored choices, the reward it climbs, and runs that must stop."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from szpo.baselines import ppo, recipes
from szpo.baselines.actor import Actor
from szpo.baselines.advantages import gae, returns_to_go, standardise, token_rewards
from szpo.baselines.asking import Moment
from szpo.errors import RunError, UsageError
from szpo.metrics import words
from szpo.models import loading
from szpo.models.logprobs import Sample, batches
from szpo.models.sampling import Sampling
from szpo.types import Answer, Prompt
from tests.support import tiny_words
from tests.support.baseline_actors import WORDS, fresh, length, tiny_actor

PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(7, 17)]
SHORT = recipes.Ppo(steps=2, prompts=6, epochs=2, rate=1e-2)


@pytest.fixture
def tiny():
    """The trained model, with a LoRA of rank 1 that does nothing yet."""
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["down_proj"])
    base = loading.load("tiny", dtype="fp32")
    return fresh(base, config, sampling=Sampling(max_new_tokens=12), seed=1)


def test_log_probabilities_are_those_of_the_stored_tokens_at_the_temperature():
    warm = tiny_actor(sampling=Sampling(max_new_tokens=6, temperature=0.7))
    rows = [(9, 30, 41), (12,), (8, 200, 77, 55, 2)]
    asked = [warm.encode(prompt) for prompt in PROMPTS[:3]]
    samples = [Sample(ids, row) for ids, row in zip(asked, rows, strict=True)]
    with warm.training() as peft, torch.no_grad():
        learner = ppo._learner(warm, peft.get_base_model(), SHORT)
        (batch,) = batches(samples, device=torch.device("cpu"), vocab=320)
        found, values = ppo.token_values(learner, batch)
        expected = []
        for i in batch.index:
            logits = peft(torch.tensor([[*asked[i], *rows[i]]])).logits[0] / 0.7
            logs = logits.log_softmax(-1)[len(asked[i]) - 1 :]
            expected += [float(logs[t, token]) for t, token in enumerate(rows[i])]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert values.tolist() == [0.0] * 9  # the critic knows nothing yet


def test_each_token_learns_from_its_own_answer():
    """With β = 0, γ = λ = 1 a token's return is its answer's score, wherever it was padded to."""
    drawn = tiny_actor()
    how = SHORT.model_copy(update={"beta": 0.0, "lam": 1.0, "minibatches": 3})
    tokens = [(9,), (30, 41, 2), (7, 8), (5, 6, 7, 8, 2), (3,), (11, 12)]
    reward = np.array([1.0, -2.0, 3.0, 0.5, 7.0, -1.0])
    with drawn.training() as peft:
        learner = ppo._learner(drawn, peft.get_base_model(), how)
        parts = ppo._parts(learner, PROMPTS[:6], tokens, 0, 0)
        rollouts, figures = ppo._rollouts(learner, parts, reward)
    assert [len(group) for group in rollouts] == [1, 1, 1]
    seen: list[int] = []
    for group in rollouts:
        for part, *_, returns in group:
            rows, _ = part.places
            assert returns.tolist() == reward[rows].tolist()
            seen += rows.tolist()
            # Left of every answer stands its own prompt.
            for row, ids in zip(part.rows, part.batch.ids, strict=True):
                text = "".join(f" {i}" for i in (*drawn.encode(PROMPTS[row]), *tokens[row]))
                assert text in "".join(f" {int(i)}" for i in ids)
    assert sorted(seen) == sorted(i for i, row in enumerate(tokens) for _ in row)
    assert figures == {"reward": reward.mean(), "kl": 0.0, "value": 0.0}


def test_first_update_of_every_step_has_ratio_one_and_the_start_has_no_penalty():
    moments: list[Moment] = []
    how = SHORT.model_copy(update={"minibatches": 1, "epochs": 3, "steps": 3})
    made, draw = tiny_actor(), np.random.default_rng(3)
    start = {name: draw.normal(size=v.shape, scale=0.2) for name, v in made.start().items()}
    actor = Actor(made.loaded, made.sites, start, sampling=made.sampling, seed=1)
    ppo.train(actor, PROMPTS, length, how, seed=4, on_step=moments.append)
    for moment in moments:
        assert moment.figures["first_ratio_gap"] == 0.0
        assert moment.figures["ratio_gap"] > 1e-4  # the later epochs, whose policy has moved
    # The reference is the start with its adapter, not the bare base model.
    assert moments[0].figures["kl"] == 0.0
    assert moments[2].figures["kl"] != 0.0
    assert [moment.step for moment in moments] == [1, 2, 3]


def test_prompts_come_in_permutations():
    drawn = [prompt for step in range(5) for prompt in ppo.draw_prompts(PROMPTS, 4, 3, step)]
    assert set(drawn[:10]) == set(drawn[10:]) == set(PROMPTS)
    assert drawn[:10] != drawn[10:]


@pytest.mark.parametrize(
    ("score", "rate", "words"),
    [
        (lambda p, a: [math.inf] * len(a), 1e-2, "ppo: the reward of '"),
        (length, math.inf, "is nan at step 1: training diverged; lower the learning rate"),
        # Norms keep logits finite at any size of the weights; the answers are noise all the same.
        (length, 1.0, "nats per token from the start at step 2 (limit 3): training diverged;"),
    ],
)
def test_a_diverging_run_stops_with_one_line_and_leaves_the_actor_alone(score, rate, words, tiny):
    before = tiny.digest()
    with pytest.raises(RunError) as caught:
        ppo.train(tiny, PROMPTS, score, SHORT.model_copy(update={"rate": rate}), seed=2)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tiny.digest() == before
    assert tiny.sample(PROMPTS[:1], 1, seed=0) == tiny.sample(PROMPTS[:1], 1, seed=0, base=True)


@pytest.mark.parametrize(
    ("score", "rate", "words"),
    [
        (length, 1e-6, "it ends within 0.001 nats of its start"),
        (lambda p, a: [1.0] * len(a), 1e-2, "no two answers of a step ever differed in reward"),
    ],
)
def test_what_teaches_nothing_is_told(score, rate, words):
    done = ppo.train(
        tiny_actor(), PROMPTS, score, SHORT.model_copy(update={"rate": rate, "steps": 2}), seed=2
    )
    assert done.remark.startswith(words)


def test_what_cannot_be_trained_is_refused():
    for sampling in (Sampling(top_p=0.9), Sampling(temperature=0)):
        with pytest.raises(UsageError, match=r"set generation\.top_p to 1"):
            ppo.train(tiny_actor(sampling=sampling), PROMPTS, length, SHORT, seed=0)
    for prompts, reward, says in (
        ([], length, "no prompts"), (PROMPTS, lambda p, a: [1.0], "gave 1 numbers for 6 answers"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            ppo.train(tiny_actor(), prompts, reward, SHORT, seed=0)


def test_a_verifier_is_learned_from_on_the_tiny_model(tiny):
    """The share of answers in a good mood, held-out topics, before and after 12 steps."""

    def cheerful(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
        found = [set(words(answer.text)) for answer in answers]
        return [float(bool(WORDS["good"] & said) and not WORDS["bad"] & said) for said in found]

    asked, heldout = (
        [Prompt.user(ask.format(topic=topic)) for ask in tiny_words.ASKS for topic in topics]
        for topics in (tiny_words.TOPICS[:16], tiny_words.TOPICS[16:])
    )

    def rate(start: bool) -> float:
        rows = tiny.sample(heldout, 2, seed=9, base=start)
        return float(np.mean([cheerful([], row) for row in rows]))

    ppo.train(tiny, asked, cheerful, recipes.Ppo(steps=12, rate=1e-2, epochs=3), seed=3)
    before, after = rate(True), rate(False)
    assert 0.25 < before < 0.6
    # 160 answers: .2 is five standard errors of a difference of paired shares.
    assert after > before + 0.2


def test_returns_and_standardised_values_ignore_what_is_not_there():
    # 1; 1 + .99·1 = 1.99; 1 + .99·1.99 = 2.9701
    assert returns_to_go(np.ones(3), 0.99).tolist() == pytest.approx(
        [2.9701, 1.99, 1.0], abs=1e-12
    )
    values, there = np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]])
    assert standardise(values, there) == pytest.approx(np.array([[-1.0, 1.0, 0.0]]), abs=1e-6)
    assert not standardise(values, np.zeros((1, 3), bool)).any()


def test_losses_by_hand():
    # ρ = 1.5, 1.1, .5, .9 with A = 2, −1, −3, 1 and ε = .2:
    # min(3, 2.4) = 2.4; −1.1; min(−1.5, −2.4) = −2.4; .9: mean −.2/4 = −.05, loss .05.
    ratio = torch.tensor([1.5, 1.1, 0.5, 0.9], dtype=torch.float64)
    old = torch.log(torch.tensor([0.2, 0.3, 0.4, 0.5], dtype=torch.float64))
    logp = (old + ratio.log()).requires_grad_()
    advantages = torch.tensor([2.0, -1.0, -3.0, 1.0], dtype=torch.float64)
    loss, found, clipped = ppo.policy_loss(logp, old, advantages)
    assert loss.item() == pytest.approx(0.05, abs=1e-6)
    assert found.tolist() == pytest.approx(ratio.tolist(), abs=1e-12)
    assert clipped == 0.5
    loss.backward()
    # Nothing pulls where the clipped term is the smaller one; elsewhere −ρA/4.
    assert logp.grad.tolist() == pytest.approx([0, 0.275, 0, -0.225], abs=1e-6)
    # V = 1, 0; V_old = .5, 0; R = 2, 1; ε = .2: V_clip = .7, 0;
    # ½·mean(max(1, 1.69), max(1, 1)) = ½·1.345 = .6725; without clipping ½·1 = .5.
    values, old, returns = (torch.tensor(v) for v in ([1.0, 0.0], [0.5, 0.0], [2.0, 1.0]))
    assert ppo.value_loss(values, old, returns).item() == pytest.approx(0.6725, abs=1e-6)
    plain = ppo.value_loss(values, old, returns, clip=math.inf)
    assert plain.item() == pytest.approx(0.5, abs=1e-6)


def test_rewards_per_token_add_up_to_the_penalised_reward_of_answers_that_have_tokens():
    # Two tokens: r = 1.5 − .1·((−1 + 3) + (−2 + 1)) = 1.5 − .1 = 1.4; one token: −1 − .1·.5.
    logp = np.array([[-1.0, -2.0, 0.0], [-0.5, 9.0, 9.0]])
    reference = np.array([[-3.0, -1.0, 0.0], [-1.0, -9.0, 9.0]])
    there = np.array([[True, True, False], [True, False, False]])
    found = token_rewards(np.array([1.5, -1.0]), logp, reference, there, beta=0.1)
    assert found == pytest.approx(np.array([[-0.2, 1.6, 0.0], [-1.05, 0.0, 0.0]]), abs=1e-12)
    assert found.sum(1) == pytest.approx([1.4, -1.05], abs=1e-12)
    free = token_rewards(np.array([1.5, -1.0]), logp, reference, there, beta=0.0)
    assert free.sum(1).tolist() == [1.5, -1.0]  # β = 0: r_φ alone
    logp, there = np.array([[0.0, 0.0], [-1.0, -1.0]]), np.array([[False] * 2, [True] * 2])
    found = token_rewards(np.array([7.0, 2.0]), logp, logp, there, beta=0.3)
    assert found.tolist() == [[0.0, 0.0], [0.0, 2.0]]


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=6),
    st.integers(0, 4),
    st.floats(0, 1),
    st.floats(0.5, 1),
)
def test_padding_behind_an_end_changes_no_advantage(rewards, pad, lam, gamma):
    values = np.array([*(0.3 * np.arange(len(rewards))), 0.0])
    short = gae(np.array(rewards), values, lam, gamma)
    longer = gae(np.array(rewards + [0.0] * pad), np.append(values, [0.0] * pad), lam, gamma)
    assert longer.tolist() == pytest.approx([*short, *[0.0] * pad], abs=1e-12)
