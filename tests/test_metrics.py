"""Win rates by hand, and the KL of a policy against all answers that there are."""

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig

from szpo import metrics
from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.sampling import Sampling
from szpo.types import Floats, Ints, Prompt
from tests.support.baseline_actors import fresh


@pytest.mark.full
def test_the_kl_of_the_tiny_model_is_that_of_all_its_answers():
    """Answers of two words: the chain rule over every first word against sampled answers."""
    base = loading.load("tiny", dtype="fp32")
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["down_proj"])
    moved = fresh(base, config, sampling=Sampling(max_new_tokens=2), seed=1)
    rng = np.random.default_rng(4)
    moved.move_to(
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
    first, second = (np.exp(law[t]) * (law[t] - still[t]) for t in (0, 1))
    goes_on = np.exp(law[0][0])
    goes_on[list(loading.stop_tokens(base))] = 0
    exact = float(first.sum() + goes_on @ second.sum(1))
    assert exact > 0.05
    found, error = moved.kl([prompt] * 200, seed=3)
    assert abs(found - exact) < 4 * error < 0.2 * exact


def every() -> Ints:
    """All answers of one word of the tiny model."""
    return np.arange(512, dtype=np.int64)[:, None]


def test_win_rates_count_prompts_that_were_compared_and_not_answers():
    # Prompt 1: 2 > 1, 2 = 2, 3 > 1, 3 > 2: 3.5 of 4. Prompt 2: all lost.
    outcomes = metrics.versus([[2, 3], [0, 0]], [[1, 2], [1, 1]])
    assert outcomes[0].tolist() == [[1.0, 0.5], [1.0, 1.0]]
    found = metrics.win_rate(outcomes)
    assert (found.value, found.of) == (0.4375, 2)
    assert found.low < 0.1 and found.high > 0.85  # two prompts say little
    many = metrics.win_rate(np.ones(100))
    assert many.value == 1 and 0.95 < many.low < many.high <= 1
    found = metrics.win_rate([[1.0, math.nan], [math.nan, math.nan], [0.5, 0.0]])
    assert (found.hits, found.of) == (1.25, 2)
    assert metrics.win_rate(np.full((3, 1), math.nan)).value is None
    assert metrics.win_rate([]).value is None
    with pytest.raises(UsageError, match="outcomes must be"):
        metrics.win_rate([2.0])
    with pytest.raises(UsageError, match="versus: rewards of shapes"):
        metrics.versus([[1.0]], [[1.0], [2.0]])


def test_a_win_rates_interval_by_hand():
    """Four prompts of four answers: rates 1/4, 1/2, 1/2, 3/4, widened by 0 and 1."""
    outcomes = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]], float)
    # Squares from 1/2 sum to 2/16 + 2/4, a variance of 1/8: 1/4 / (1/8) · 6 = 12 cases, times
    # (1.96/3.182)² = .379 since four prompts gave the variance: 4.55, of 4 to 16.
    found = metrics.win_rate(outcomes)
    middle, cases = 0.5, 12 * (1.96 / 3.18245) ** 2
    half = 1.96 / (1 + 1.96**2 / cases) * np.sqrt(0.25 / cases + 1.96**2 / (4 * cases**2))
    assert (found.value, found.of) == (0.5, 4)
    assert found.low == pytest.approx(middle - half, rel=1e-4)
    assert found.high == pytest.approx(middle + half, rel=1e-4)


@pytest.mark.parametrize(("spread", "least"), [(0.0, 0.93), (0.5, 0.93), (2.0, 0.92)])
def test_a_win_rates_interval_holds_the_truth(spread, least):
    """Normal rewards, prompts that differ by ``spread``; 95 % is said, of 300 draws."""
    rng = np.random.default_rng(1)

    def draw(prompts):
        noise = spread * rng.standard_normal((prompts, 1))
        tuned = rng.standard_normal((prompts, 4)) + 0.5 + noise
        return metrics.versus(tuned, rng.standard_normal((prompts, 4)))

    truth = draw(20_000).mean()
    found = [metrics.win_rate(draw(30)) for _ in range(300)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= least
    # With 30 cases, one a prompt, every interval would be about .33 wide.
    assert np.mean([one.high - one.low for one in found]) < (0.2 if spread < 1 else 0.28)


def test_prompts_that_agree_by_luck_make_no_narrow_interval():
    assert metrics.win_rate(np.ones((10, 8))).low < 0.75


def test_gains_are_paired_by_prompt():
    """A constant gain has no spread, however different the prompts are."""
    base = np.linspace(-1, 1, 40)[:, None] * np.ones((1, 8))
    mean, low, high = metrics.gain(base, base + 0.25, seed=0)
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))
    # Mean .1 and deviation 1 over 64 prompts: about 1.96/8 to each side.
    diff = np.random.default_rng(1).normal(size=(64, 1))
    diff = 0.1 + (diff - diff.mean()) / diff.std()
    mean, low, high = metrics.gain(np.zeros((64, 1)), diff, seed=0)
    assert (mean, low, high) == pytest.approx((0.1, 0.1 - 1.96 / 8, 0.1 + 1.96 / 8), abs=0.03)
