"""Measures of two policies and of two evaluators: pinned numbers, and laws to enumerate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from scipy.stats import entropy

from szpo import metrics
from szpo.baselines.actor import Actor
from szpo.errors import UsageError
from szpo.generation.sampling import Sampling
from szpo.models import loading
from szpo.types import Floats, Ints, Prompt


def test_kl_of_the_notebook():
    p, q = [0.2, 0.5, 0.3], [0.1, 0.4, 0.5]
    # .2 ln 2 + .5 ln 1.25 + .3 ln .6
    assert float(metrics.kl(p, q)) == pytest.approx(0.09695352463929671, abs=1e-12)
    assert float(metrics.kl(q, p)) == pytest.approx(0.09684067330131696, abs=1e-12)
    assert metrics.kl([p, p], [q, p]).tolist() == pytest.approx([0.0969535, 0.0], abs=1e-7)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=6))
def test_kl_is_that_of_scipy_and_never_negative(weights):
    p, q = (np.array(w) / sum(w) for w in zip(*weights, strict=True))
    found = float(metrics.kl(p, q))
    assert found == pytest.approx(entropy(p, q), abs=1e-12)
    assert found >= -1e-12


def test_kl_of_what_is_forbidden_and_of_what_is_no_distribution():
    assert float(metrics.kl([1.0, 0.0], [0.0, 1.0])) == math.inf
    assert float(metrics.kl([1.0, 0.0], [0.5, 0.5])) == pytest.approx(math.log(2))
    for p, q in (([0.5, 0.6], [0.5, 0.5]), ([1.5, -0.5], [0.5, 0.5]), ([1.0], [0.5, 0.5])):
        with pytest.raises(UsageError, match="kl: "):
            metrics.kl(p, q)


def chain(seed: int) -> metrics.Law:
    """A law over three words in which the last word decides on the next."""
    table = np.random.default_rng(seed).dirichlet(np.ones(3), size=4)

    def law(beginnings: Ints) -> Floats:
        last = beginnings[:, -1] if beginnings.shape[1] else np.full(len(beginnings), 3)
        return np.asarray(np.log(table[last]))

    return law


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_enumeration_sums_over_all_answers(horizon):
    p, q = chain(1), chain(2)
    total = 0.0
    for answer in itertools.product(range(3), repeat=horizon):
        spoken = answer[: answer.index(0) + 1] if 0 in answer else answer
        if len(spoken) < horizon and any(answer[len(spoken) :]):
            continue  # counted once, with zeros behind its end
        logs = [
            sum(float(law(np.array([spoken[:t]], np.int64).reshape(1, t))[0, word])
                for t, word in enumerate(spoken))
            for law in (p, q)
        ]  # fmt: skip
        total += math.exp(logs[0]) * (logs[0] - logs[1])
    assert metrics.kl_by_enumeration(p, q, horizon, stop=(0,)) == pytest.approx(total, abs=1e-12)
    assert metrics.kl_by_enumeration(p, p, horizon) == 0.0


def test_enumeration_refuses_what_it_cannot_finish(monkeypatch):
    monkeypatch.setattr(metrics, "PREFIXES", 20)
    assert metrics.kl_by_enumeration(chain(1), chain(2), 3) > 0
    with pytest.raises(UsageError, match="27 beginnings of 3 words"):
        metrics.kl_by_enumeration(chain(1), chain(2), 4)


@pytest.mark.full
def test_three_ways_to_the_kl_of_the_tiny_model_agree():
    """Enumerated, exact per word along sampled answers, and by sampled log-ratios; two words."""
    base = loading.load("tiny", dtype="fp32")
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["down_proj"])
    moved = Actor.fresh(base, config, sampling=Sampling(max_new_tokens=2), seed=1)
    rng = np.random.default_rng(4)
    moved.policy.move_to(
        {n: np.float32(v + rng.normal(scale=0.7, size=v.shape)) for n, v in moved.theta().items()}
    )
    prompt = Prompt.user("How was the sea?")
    ids = moved.encode(prompt)

    def logs(model: torch.nn.Module, beginnings: Ints) -> Floats:
        with torch.no_grad():
            rows = torch.tensor([[*ids, *row] for row in beginnings.tolist()])
            return np.asarray(model(rows).logits[:, -1].double().log_softmax(-1).numpy())

    with moved.training() as peft:
        model = peft.get_base_model()
        law = {b.shape[1]: logs(model, b) for b in (np.zeros((1, 0), np.int64), every())}
    still = {b.shape[1]: logs(base.model, b) for b in (np.zeros((1, 0), np.int64), every())}
    stop = loading.stop_tokens(base)

    def of(table: dict[int, Floats]) -> metrics.Law:
        return lambda b: table[b.shape[1]][b[:, 0] if b.shape[1] else slice(None)]

    exact = metrics.kl_by_enumeration(of(law), of(still), 2, stop)
    assert exact > 0.05
    found, error = moved.kl([prompt] * 200, seed=3)
    assert abs(found - exact) < 4 * error < 0.2 * exact
    drawn = moved.sample_tokens([prompt], 2000, seed=5)
    ratios = [
        sum(law[t][row[0] if t else 0, word] - still[t][row[0] if t else 0, word]
            for t, word in enumerate(row))
        for row in drawn
    ]  # fmt: skip
    rough = metrics.kl_sampled(ratios, np.zeros(len(ratios)))
    assert rough.low is not None and rough.high is not None and rough.value is not None
    assert abs(rough.value - exact) < 2 * (rough.high - rough.low)
    assert rough.high - rough.low > 0.05 * exact  # ten times the rows, and still a wide interval


def every() -> Ints:
    """All answers of one word of the tiny model."""
    return np.arange(512, dtype=np.int64)[:, None]


def test_win_rate_counts_prompts_not_answers():
    # Prompt 1: 2 > 1, 2 = 2, 3 > 1, 3 > 2: 3.5 of 4. Prompt 2: all lost.
    outcomes = metrics.versus([[2, 3], [0, 0]], [[1, 2], [1, 1]])
    assert outcomes[0].tolist() == [[1.0, 0.5], [1.0, 1.0]]
    found = metrics.win_rate(outcomes)
    assert (found.value, found.of) == (0.4375, 2)
    assert found.low < 0.1 and found.high > 0.85  # two prompts say little
    many = metrics.win_rate(np.ones(100))
    assert many.value == 1 and 0.95 < many.low < many.high <= 1


def test_win_rate_leaves_out_what_was_not_compared():
    found = metrics.win_rate([[1.0, math.nan], [math.nan, math.nan], [0.5, 0.0]])
    assert (found.hits, found.of) == (1.25, 2)
    assert metrics.win_rate(np.full((3, 1), math.nan)).value is None
    assert metrics.win_rate([]).value is None
    with pytest.raises(UsageError, match="outcomes must be"):
        metrics.win_rate([2.0])
    with pytest.raises(UsageError, match="versus: rewards of shapes"):
        metrics.versus([[1.0]], [[1.0], [2.0]])


@given(st.lists(st.sampled_from(["A", "B", "tie", "skip", None]), max_size=12))
def test_an_evaluator_agrees_with_itself(labels):
    counted = [label for label in labels if label not in ("skip", None)]
    assert metrics.label_agreement(labels, labels).of == len(counted)
    assert metrics.label_agreement(labels, labels).value == (1.0 if counted else None)
    decided = metrics.label_agreement(labels, labels, ties=False)
    assert decided.of == sum(label != "tie" for label in counted)


def test_a_reward_agrees_with_seventy_per_cent_of_the_votes():
    votes = ["plus"] * 70 + ["minus"] * 30
    message = metrics.labels(np.ones(100), np.zeros(100))
    found = metrics.label_agreement(message, votes)
    assert found.value == 0.7 and found.low < 0.62 and found.high > 0.77
    with pytest.raises(UsageError, match="3 labels against 2"):
        metrics.label_agreement(["A"] * 3, ["A"] * 2)


def test_means_of_few_values_have_no_interval():
    assert metrics.mean([]).value is None
    one = metrics.mean([7])
    assert (one.value, one.low, one.n) == (7.0, None, 1)
