"""What a LoRA policy asks, says, measures and writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from szpo.cache import quiet
from szpo.config.tables import Prompts
from szpo.data import prompts as promptfiles
from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.batched_lora import attach_deltas
from szpo.models.engine_contract import padded_logprobs
from szpo.models.identity import TENSORS, Identity
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.policies import lora_policy, text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.policies.text_guards import draw_others, measure_margin
from szpo.types import Answer, Floats, Prompt, Shift, Update
from tests.support.policies import PROMPTS, full, policy_of, small
from tests.support.tiny_models import ARCHITECTURES, STOP, build, loaded, with_adapter


def moved(name: str = "llama", rank: int = 2) -> LoraPolicy:
    base = loaded(name)
    policy = policy_of(base, full(base, rank, "AB"))
    policy.apply(Update(0, 0, coef=0.25))
    return policy


def test_answers_end_at_end_tokens_and_stop_texts():
    policy = policy_of(loaded("llama"), sampling=Sampling(stop=("w9 ", "w30")))
    for tokens, answer in (
        ([7, 8, STOP], ("w7 w8", "stop", 2)), ([7, 8], ("w7 w8", "length", 2)),
        ([7, 8, 30, 10], ("w7 w8", "stop", 4)), ([STOP], ("", "stop", 0)), ([], ("", "length", 0)),
        ([7, 9, 30, 10], ("w7", "stop", 4)),  # both stop: the first counts
    ):  # fmt: skip
        assert policy.answer(tokens) == Answer(*answer)


def test_greedy_answers_do_not_depend_on_the_seed():
    policy = policy_of(loaded("llama"), sampling=Sampling(temperature=0, max_new_tokens=6))
    assert policy.sample(PROMPTS, 2, seed=1) == policy.sample(PROMPTS, 2, seed=2)
    warm = policy_of(loaded("llama"), sampling=Sampling(max_new_tokens=6))
    assert warm.sample(PROMPTS, 2, seed=1) != warm.sample(PROMPTS, 2, seed=2)


def test_samples_are_named_by_prompt_and_number():
    policy = moved()
    found = policy.sample(PROMPTS, 3, seed=4)
    assert [len(row) for row in found] == [3, 3, 3]
    assert len({answer.text for answer in found[0]}) > 1
    assert policy.sample(PROMPTS[:2], 3, seed=4) == found[:2]
    assert policy.sample(PROMPTS[1:], 3, seed=4, places=range(1, len(PROMPTS))) == found[1:]
    # At the start, tuned and base are the same policy and draw the same numbers.
    fresh = policy_of(policy.loaded, policy.subspace)
    assert fresh.sample(PROMPTS, 3, seed=4) == policy.sample(PROMPTS, 3, seed=4, base=True)


def test_kl_is_zero_at_the_start_and_quadratic_nearby():
    base = loaded("llama")
    policy = policy_of(base)
    assert policy.kl(PROMPTS, seed=0) == (0.0, 0.0)
    values = []
    for size in (0.001, 0.002):
        policy.move_to({"z": np.full(4, size, np.float32)})
        values.append(policy.kl(PROMPTS, seed=0, samples=8)[0])
    assert values[1] / values[0] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_kl_is_that_of_the_sampled_law(temperature):
    """Of answers of one word it needs no sampling: Σ p log p/q, where p is what words come from.

    The words that are drawn have that law too: their shares are as near to p as draws of p are.
    """
    law = Sampling(temperature=temperature, max_new_tokens=1, stop=("w9 ",))
    base = loaded("llama")
    policy = policy_of(base, full(base, 2, "AB"), sampling=law)
    policy.apply(Update(0, 0, coef=0.25))
    ids = torch.tensor([policy.encode(PROMPTS[0])])
    with torch.no_grad():
        q = (base.model(ids).logits[0, -1].double() / temperature).log_softmax(-1)
        with attach_deltas(base.model, policy.subspace.sites, policy.deltas([policy.theta()])):
            p = (base.model(ids).logits[0, -1].double() / temperature).log_softmax(-1)
    found, _ = policy.kl(PROMPTS[:1], seed=0)
    assert found == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3) and found > 0.01
    drawn = [row[0] if row else STOP for row in policy.sample_tokens(PROMPTS[:1], 2000, seed=1)]
    shares = np.bincount(drawn, minlength=len(p)) / len(drawn)
    # Total variation of 2,000 draws from their own law, at most ½ Σ √(p/n) in expectation.
    own = float(p.exp().sqrt().sum()) / 2 / np.sqrt(len(drawn))
    assert np.abs(shares - p.exp().numpy()).sum() / 2 < 1.2 * own


def test_the_kl_beside_answers_is_of_the_first_of_each_and_draws_no_more():
    policy = moved()
    before = policy.backend.written
    drawn, kl = policy.sample_with_kl(PROMPTS, 1, seed=4)
    assert policy.backend.written - before == sum(row[0].tokens for row in drawn)
    assert (drawn, kl) == (policy.sample(PROMPTS, 1, seed=4), policy.kl(PROMPTS, seed=4))
    several, beside = policy.sample_with_kl(PROMPTS, 3, seed=4)
    assert several == policy.sample(PROMPTS, 3, seed=4)
    rows = policy.sample_tokens(PROMPTS, 3, seed=4)
    assert beside == policy.kl_of(PROMPTS, rows[::3]) and beside != kl


def test_fluency_is_measured_under_the_start():
    policy = moved()
    prompt = PROMPTS[0]
    answers = [Answer("w7 w8", "length", 2), Answer("w7 w8", "stop", 2), Answer("", "length")]
    found = policy.logprob_base([prompt] * 3, answers)
    ids = [*policy.encode(prompt), 7, 8, STOP]
    with torch.inference_mode():
        logp = policy.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    steps = [float(logp[i - 1, ids[i]]) for i in (-3, -2, -1)]
    assert found[0] == pytest.approx(np.mean(steps[:2]), rel=1e-5)
    assert found[1] == pytest.approx(np.mean(steps), rel=1e-5)
    assert np.isnan(found[2])


def test_a_starting_adapter_is_the_start():
    policy = moved()
    factors, sites = policy.factors(), policy.subspace.sites
    A, B = ({getattr(s, side): factors[getattr(s, side)] for s in sites} for side in "ab")
    space = Subspace("full", sites, A, B, {})
    later = LoraPolicy(policy.loaded, space, root_seed=1, sampling=policy.sampling)
    assert later.sample(PROMPTS, 2, seed=0) == policy.sample(PROMPTS, 2, seed=0)
    assert later.sample(PROMPTS, 2, seed=0, base=True) == later.sample(PROMPTS, 2, seed=0)
    assert later.kl(PROMPTS, seed=0)[0] == 0.0


def test_saving_twice_writes_the_same_bytes_also_at_an_earlier_theta(tmp_path):
    policy = moved()
    for folder in ("one", "two"):
        policy.save_adapter(tmp_path / folder)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    policy.save_adapter(tmp_path / "start", theta=policy.start())
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        plain = build("llama")(ids).logits
        assert torch.equal(with_adapter(build("llama"), tmp_path / "start")(ids).logits, plain)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_merged_model_is_base_plus_adapter(name, tmp_path):
    policy = moved(name)
    policy.merge(tmp_path / "merged")
    policy.save_adapter(tmp_path / "adapter")
    ids = torch.arange(12)[None]
    with quiet():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.inference_mode():
        expected = with_adapter(build(name), tmp_path / "adapter")(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_quantised_base_is_not_merged_into(tmp_path):
    policy = moved()
    base = policy.loaded
    four = Loaded(
        base.model, base.tokenizer, "llama", Path(), Identity({TENSORS: "0" * 64}), "fp32", "nf4"
    )
    with pytest.raises(UsageError, match="4-bit"):
        lora_policy.save_merged(tmp_path, four, policy.factors(), policy.subspace.sites)


def test_placing_needs_the_layout_and_each_shift_its_prompts():
    policy = policy_of(loaded("llama"), small(loaded("llama")))
    with pytest.raises(UsageError, match="names"):
        policy.move_to({"w": np.zeros(4, np.float32)})
    theta = {"z": np.ones(4, np.float32)}
    policy.move_to(theta)
    basis = policy.subspace.basis_sha256
    assert policy.digest() == parameters.digest(theta, policy.layout, basis)
    with pytest.raises(UsageError, match="1 lists of prompts, 2 shifts"):
        policy.rollout([PROMPTS], [Shift(0, 0, 1, 1.0)] * 2, seed=0)


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
    assert found == 15.0
    assert table.calls == 3  # each prompt is read once, for all answers


def test_margin_is_that_of_the_drawn_prompts_and_of_no_other():
    """Twelve prompts, an answer loses 10 nats a step away: 7 of 11 others are drawn."""
    away = [[-10.0 * abs(i - j) - i for j in range(12)] for i in range(12)]
    found = measure_margin(Table(away), *numbered(12), seed=4)
    drawn = draw_others(12, 4)
    nearest = [10.0 * min(abs(i - j) for j in drawn[i]) for i in range(12)]
    assert found == float(np.median(nearest))
    assert measure_margin(Table(away), *numbered(12), seed=4) == found


@given(st.integers(3, 40), st.integers(0, 2**62))
def test_other_prompts_are_different_and_never_the_own(prompts, seed):
    drawn = draw_others(prompts, seed)
    assert drawn.shape == (prompts, min(text_guards.OTHERS, prompts - 1))
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
    found = measure_margin(Table([[0, -9, -9], [], [-4, -4, 0]]), prompts, some, seed=0)
    assert found == 6.5  # 9 and 4; empty answers do not count


@pytest.mark.parametrize("name", (*ARCHITECTURES, "gemma2"))
def test_reading_a_prompt_once_gives_what_whole_rows_give(name):
    policy = policy_of(loaded(name))
    prompt = Prompt.user(" ".join(f"w{i}" for i in range(10, 24)))
    answers = [Answer("w30 w31 w32", "length"), Answer("w7", "stop"), Answer("", "length"),
               Answer(" ".join(["w50"] * 12), "length")] * 8  # fmt: skip
    rows = [loading.answer_tokens(policy.loaded, answer) for answer in answers]
    ids = [policy.encode(prompt)] * len(rows)
    whole = padded_logprobs(policy.engine, ids, rows, [0] * len(rows), None)
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


@pytest.mark.slow
def test_smollm2_tells_its_own_answers_from_swapped_ones():
    """With every answer handed to the next prompt the margin turns round."""
    sampling = Sampling(max_new_tokens=16)
    policy = policy_of(loading.load("smollm2"), sampling=sampling)
    asked = promptfiles.load_configured(Prompts()).heldout[:4]
    answers = policy.sample(asked, 1, seed=1)
    found = measure_margin(policy, asked, answers, seed=3)
    swapped = measure_margin(policy, asked, [*answers[1:], answers[0]], seed=3)
    assert found is not None and swapped is not None
    assert swapped < 0 < found


def test_a_prompt_and_its_answer_fit_into_what_a_model_reads():
    reader = loading.Reader("tiny", None, 12)
    loading.require_room(reader, [[1] * 4, []], 8)
    with pytest.raises(UsageError, match="4 tokens and 9 for the answer"):
        loading.require_room(reader, [[1] * 4], 9)
