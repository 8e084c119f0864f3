"""Held-out measurement: pairing, intervals, and what the base model reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from szpo.types import Answer, Floats, Prompt
from szpo_simulators.rewards import heldout
from szpo_simulators.rewards.heldout import Measurement


def measured(rewards: Floats) -> Measurement:
    return Measurement(rewards, (), -2.0, 0.8, 20.0, 0.0, 0.0)


class Parrot:
    """Answers with the sample's number; reads every text at one nat per word."""

    def __init__(self) -> None:
        self.read = 0

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        return [[Answer(f"{p.text} {i}", "stop", i) for i in range(samples)] for p in prompts]

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        self.read += len(answers)
        return np.array([-float(len(a.text.split())) for a in answers[:-1]] + [np.nan])

    def kl(self, prompts: Sequence[Prompt], *, seed: int) -> tuple[float, float]:
        return 1.5, 0.25


def test_measure_scores_every_answer_and_skips_empty_ones_in_fluency():
    policy = Parrot()
    prompts = [Prompt.user("a b"), Prompt.user("c")]
    found = heldout.measure(policy, prompts, lambda p, a: float(a.tokens), samples=4, seed=3)
    assert found.rewards.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert found.texts[1] == ("c 0", "c 1", "c 2", "c 3")
    # Two answers of each prompt are read: 3, 3 and 2 words; the last has no tokens at all.
    assert policy.read == 4
    assert found.logprob == pytest.approx(-(3 + 3 + 2) / 3)
    assert (found.kl, found.kl_stderr, found.tokens) == (1.5, 0.25, 1.5)
    assert (found.margin, found.others) == (None, 0)  # a policy that reads no other prompt


def test_gain_pairs_by_prompt():
    """A constant gain has no spread, however different the prompts are."""
    base = np.linspace(-1, 1, 40)[:, None] * np.ones((1, 8))
    mean, low, high = heldout.gain(measured(base), measured(base + 0.25))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))


def test_gain_interval_covers_and_repeats():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        diff = rng.normal(0.1, 1.0, size=(64, 1))
        mean, low, high = heldout.gain(
            measured(np.zeros((64, 1))), measured(diff), seed=i, draws=1000
        )
        hits += low <= 0.1 <= high
        assert low < mean < high
    # Of 200 intervals that cover 93.5 %, fewer than 178 hit with a chance below 1e-2.
    assert hits >= 178
    pair = measured(np.zeros((64, 1))), measured(rng.normal(size=(64, 1)))
    assert heldout.gain(*pair, seed=5) == heldout.gain(*pair, seed=5)


def test_student_interval():
    """t(0.975, 2) = 4.302653; sd of 1, 2, 3 is 1, so the half width is 4.302653/√3 = 2.484138."""
    assert heldout.student([1, 2, 3]) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138))
    assert heldout.student([0.3])[0] == 0.3 and np.isnan(heldout.student([0.3])[1])
