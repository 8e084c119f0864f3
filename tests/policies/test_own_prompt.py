"""The margin by which an answer is likelier after its own prompt than after others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.model_sections import Prompts
from szpo.data import prompts as promptfiles
from szpo.generation.sampling import Sampling
from szpo.models import loading
from szpo.policies import own_prompt
from szpo.policies.lora_policy import AnswerSampling
from szpo.policies.own_prompt import draw_others, measure_margin
from szpo.types import Answer, Floats, Prompt, Update
from tests.support.policies import full, policy_of
from tests.support.tiny_models import ARCHITECTURES, loaded


class Table:
    """Knows the log-probability of every answer, named by its prompt, after every prompt."""

    def __init__(self, values: Sequence[Sequence[float]]):
        self.values = values
        self.calls = 0

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        self.calls += 1
        return np.array([self.values[int(a.text)][int(prompt.text)] for a in answers])


def numbered(count: int, samples: int = 1) -> tuple[list[Prompt], list[list[Answer]]]:
    prompts = [Prompt.user(str(i)) for i in range(count)]
    return prompts, [[Answer(str(i))] * samples for i in range(count)]


def test_median_margin_of_known_likelihoods():
    """Of three prompts all others are read: −20 − max(−50, −35) = 15, −30 − max(−31, −90) = 1,
    −10 − max(−60, −32) = 22. The median is 15; the share that ranks first would be 1.
    """
    table = Table([[-20, -50, -35], [-31, -30, -90], [-60, -32, -10]])
    found = measure_margin(table, *numbered(3, 2), seed=0)
    assert found == own_prompt.Margin(15.0, 2)
    assert table.calls == 3  # each prompt is read once, for all answers


def test_margin_is_that_of_the_drawn_prompts_and_of_no_other():
    """Twelve prompts, an answer loses 10 nats a step away: 7 of 11 others are drawn."""
    away = [[-10.0 * abs(i - j) - i for j in range(12)] for i in range(12)]
    found = measure_margin(Table(away), *numbered(12), seed=4)
    drawn = draw_others(12, 4)
    nearest = [10.0 * min(abs(i - j) for j in drawn[i]) for i in range(12)]
    assert found == own_prompt.Margin(float(np.median(nearest)), 7)
    assert measure_margin(Table(away), *numbered(12), seed=4) == found


@given(st.integers(3, 40), st.integers(0, 2**62))
def test_other_prompts_are_different_and_never_the_own(prompts, seed):
    drawn = draw_others(prompts, seed)
    assert drawn.shape == (prompts, min(own_prompt.OTHERS, prompts - 1))
    assert drawn.min() >= 0 and drawn.max() < prompts
    for own, others in enumerate(drawn.tolist()):
        assert own not in others and len(set(others)) == len(others)
    assert np.array_equal(drawn, draw_others(prompts, seed))


def test_too_few_prompts_or_no_text_have_no_margin():
    table = Table([[-1.0] * 3] * 3)
    assert measure_margin(table, *numbered(2), seed=0) is None
    prompts, _ = numbered(3)
    assert measure_margin(table, prompts, [[Answer("")]] * 3, seed=0) is None
    some = [[Answer("0"), Answer("")], [Answer("")], [Answer("2")]]
    assert measure_margin(Table([[0, -9, -9], [], [-4, -4, 0]]), prompts, some, seed=0) == (
        own_prompt.Margin(6.5, 2)  # 9 and 4; empty answers do not count
    )


@pytest.mark.parametrize("name", (*ARCHITECTURES, "gemma2"))
def test_reading_a_prompt_once_gives_what_whole_rows_give(name):
    policy = policy_of(loaded(name))
    prompt = Prompt.user(" ".join(f"w{i}" for i in range(10, 24)))
    answers = [Answer("w30 w31 w32", "length"), Answer("w7", "stop"), Answer("", "length"),
               Answer(" ".join(["w50"] * 12), "length")]  # fmt: skip
    rows = [loading.answer_tokens(policy.loaded, answer) for answer in answers]
    ids = [policy.encode(prompt)] * len(rows)
    whole = policy.engine.logprobs(ids, rows, [0] * len(rows), None)
    found = policy.total_logprob_base(prompt, answers)
    assert found == pytest.approx([values.sum() for values in whole], abs=1e-4)
    assert found[2] == 0.0


def test_margins_are_read_at_the_start_wherever_the_policy_stands():
    """The start is an adapter here, so that reading the bare model would give other figures."""
    base = loaded("llama")
    space = full(base, 2, "AB")
    policy = policy_of(base, space)
    prompt, answers = Prompt.user("w20 w21"), [Answer("w30 w31", "length")]
    bare = policy.total_logprob_base(prompt, answers)
    policy.apply(Update(0, 0, coef=0.25))
    assert policy.total_logprob_base(prompt, answers) == pytest.approx(bare, abs=1e-6)
    started = policy_of(base, type(space)(
        space.kind, space.sites, space.fixed,
        {name: value + np.float32(0.05) for name, value in space.start.items()}, {},
    ))  # fmt: skip
    wanted = started.engine.logprobs(
        [started.encode(prompt)], [[30, 31]], [0], started.deltas([started.start()])
    )[0].sum()
    assert started.total_logprob_base(prompt, answers) == pytest.approx([wanted], abs=1e-4)
    assert abs(wanted - bare[0]) > 1e-3


@pytest.mark.full
def test_the_margin_of_a_model_is_that_of_whole_rows_one_by_one():
    sampling = AnswerSampling(Sampling(max_new_tokens=12))
    policy = policy_of(loading.load("tiny", dtype="fp32"), answering=sampling)
    asked = promptfiles.load_configured(Prompts()).heldout[:10]
    answers = policy.sample(asked, 2, seed=1)
    found = measure_margin(policy, asked, answers, seed=3)
    assert found is not None and found.others == 7
    by_hand = []
    for own, others in enumerate(draw_others(10, 3).tolist()):
        for answer in answers[own]:
            row = loading.answer_tokens(policy.loaded, answer)
            ids = [policy.encode(asked[i]) for i in (own, *others)]
            first, *rest = (x.sum() for x in policy.engine.logprobs(ids, [row] * 8, [0] * 8, None))
            by_hand.append(first - max(rest))
    assert found.median == pytest.approx(np.median(by_hand), abs=1e-3)


@pytest.mark.full
def test_smollm2_tells_its_own_answers_from_swapped_ones():
    """With every answer handed to the next prompt the margin turns round."""
    sampling = AnswerSampling(Sampling(max_new_tokens=16))
    policy = policy_of(loading.load("smollm2"), answering=sampling)
    asked = promptfiles.load_configured(Prompts()).heldout[:4]
    answers = policy.sample(asked, 1, seed=1)
    found = measure_margin(policy, asked, answers, seed=3)
    swapped = measure_margin(policy, asked, [*answers[1:], answers[0]], seed=3)
    assert found is not None and swapped is not None
    assert swapped.median < 0 < found.median
