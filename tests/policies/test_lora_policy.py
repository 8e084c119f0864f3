"""What a LoRA policy asks, says, measures and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from szpo.cache import quiet
from szpo.errors import UsageError
from szpo.generation.sampling import Sampling
from szpo.models import adapter_files
from szpo.models.batched_lora import attach_deltas
from szpo.models.loading import Loaded
from szpo.optim import parameters
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Prompt, Shift, Update
from tests.support.policies import PROMPTS, full, policy_of, small
from tests.support.tiny_models import ARCHITECTURES, STOP, build, loaded, tokenizer, with_adapter


def moved(name: str = "llama", rank: int = 2) -> LoraPolicy:
    base = loaded(name)
    policy = policy_of(base, full(base, rank, "AB"))
    policy.apply(Update(0, 0, coef=0.25))
    return policy


# ---- prompts ----


def test_prompts_go_through_the_chat_template():
    policy = policy_of(loaded("llama"))
    words = policy.loaded.tokenizer.convert_ids_to_tokens(policy.encode(Prompt.user("w7 w8")))
    assert words == ["<user>", "w7", "w8", "<assistant>"]
    talk = Prompt((("user", "w7"), ("assistant", "w9"), ("user", "w8")))
    words = policy.loaded.tokenizer.convert_ids_to_tokens(policy.encode(talk))
    assert words == ["<user>", "w7", "<assistant>", "w9", "<user>", "w8", "<assistant>"]
    reported = policy.encode(Prompt.user("w7", system="w60"))
    words = policy.loaded.tokenizer.convert_ids_to_tokens(reported)
    assert words == ["<system>", "w60", "<user>", "w7", "<assistant>"]


def test_models_without_a_template_read_plain_text():
    base = loaded("llama")
    plain = Loaded(base.model, tokenizer(chat=False), "llama", Path(), "0" * 64, "fp32")
    policy = policy_of(plain)
    assert policy.loaded.tokenizer.convert_ids_to_tokens(policy.encode(PROMPTS[1])) == ["w20"]
    assert len(policy.rollout([PROMPTS], [Shift(0, 0, 1, 1.0)], seed=0)[0]) == 3


# ---- answers ----


def test_answers_end_at_end_tokens_and_stop_texts():
    policy = policy_of(loaded("llama"), answering=AnswerSampling(Sampling(stop=("w9 ", "w30"))))
    assert policy.answer([7, 8, STOP]) == Answer("w7 w8", "stop", 2)
    assert policy.answer([7, 8]) == Answer("w7 w8", "length", 2)
    assert policy.answer([7, 8, 30, 10]) == Answer("w7 w8", "stop", 4)
    assert policy.answer([STOP]) == Answer("", "stop", 0)
    assert policy.answer([]) == Answer("", "length", 0)


def test_greedy_answers_do_not_depend_on_the_seed():
    policy = policy_of(
        loaded("llama"), answering=AnswerSampling(Sampling(temperature=0, max_new_tokens=6))
    )
    assert policy.sample(PROMPTS, 2, seed=1) == policy.sample(PROMPTS, 2, seed=2)
    warm = policy_of(loaded("llama"), answering=AnswerSampling(Sampling(max_new_tokens=6)))
    assert warm.sample(PROMPTS, 2, seed=1) != warm.sample(PROMPTS, 2, seed=2)


def test_samples_are_named_by_prompt_and_number():
    policy = moved()
    found = policy.sample(PROMPTS, 3, seed=4)
    assert [len(row) for row in found] == [3, 3, 3]
    assert len({answer.text for answer in found[0]}) > 1
    assert policy.sample(PROMPTS[:2], 3, seed=4) == found[:2]
    # At the start, tuned and base are the same policy and draw the same numbers.
    fresh = policy_of(policy.loaded, policy.subspace)
    assert fresh.sample(PROMPTS, 3, seed=4) == policy.sample(PROMPTS, 3, seed=4, base=True)


# ---- KL and fluency ----


def test_kl_is_zero_at_the_start_and_quadratic_nearby():
    base = loaded("llama")
    policy = policy_of(base)
    assert policy.kl(PROMPTS, seed=0) == (0.0, 0.0)
    values = []
    for size in (0.001, 0.002):
        policy.move_to({"z": np.full(4, size, np.float32)})
        values.append(policy.kl(PROMPTS, seed=0, samples=8)[0])
    assert values[1] / values[0] == pytest.approx(4, rel=0.1)


@pytest.mark.full
def test_kl_agrees_with_the_log_ratio_of_sampled_answers():
    policy = moved()
    policy.apply(Update(1, 0, coef=-0.125))
    exact, stderr = policy.kl(PROMPTS * 20, seed=0, samples=4)
    rows = policy.sample_tokens(PROMPTS * 20, 4, seed=1)
    ids = [policy.encode(p) for p in PROMPTS * 20 for _ in range(4)]
    at = policy.engine.logprobs(ids, rows, [0] * len(rows), policy.deltas([policy.theta()]))
    start = policy.engine.logprobs(ids, rows, [0] * len(rows), None)
    ratios = np.array([(a - b).sum() for a, b in zip(at, start, strict=True)])
    spread = float(ratios.std() / np.sqrt(len(ratios)))
    assert exact > 0.5
    assert abs(exact - ratios.mean()) < 3 * np.hypot(spread, stderr)
    assert stderr < spread  # summing over the vocabulary is what makes it the better estimate


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_kl_is_that_of_the_sampled_law(temperature):
    """Of answers of one word it needs no sampling: Σ p log p/q, where p is what words come from.

    The words that are drawn have that law too: their shares are as near to p as draws of p are.
    """
    law = Sampling(temperature=temperature, max_new_tokens=1, stop=("w9 ",))
    base = loaded("llama")
    policy = policy_of(base, full(base, 2, "AB"), answering=AnswerSampling(law))
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
    factors = policy.factors()
    sites = policy.subspace.sites
    later = LoraPolicy(
        policy.loaded,
        Subspace(
            "full",
            sites,
            {s.a: factors[s.a] for s in sites},
            {s.b: factors[s.b] for s in sites},
            {},
        ),
        root_seed=1,
        answering=policy.answering,
    )
    assert later.sample(PROMPTS, 2, seed=0) == policy.sample(PROMPTS, 2, seed=0)
    assert later.sample(PROMPTS, 2, seed=0, base=True) == later.sample(PROMPTS, 2, seed=0)
    assert later.kl(PROMPTS, seed=0)[0] == 0.0


# ---- files ----


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_adapter_gives_the_same_logits_in_peft(name, tmp_path):
    policy = moved(name)
    policy.save_adapter(tmp_path)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = with_adapter(build(name), tmp_path)(ids).logits
        with attach_deltas(
            policy.loaded.model, policy.subspace.sites, policy.deltas([policy.theta()])
        ):
            mine = policy.loaded.model(ids).logits
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    policy = moved()
    for folder in ("one", "two"):
        policy.save_adapter(tmp_path / folder)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_adapter_can_be_saved_at_an_earlier_theta(tmp_path):
    policy = moved()
    policy.save_adapter(tmp_path, theta=policy.start())
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        plain = build("llama")(ids).logits
        assert torch.equal(with_adapter(build("llama"), tmp_path)(ids).logits, plain)


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
    four = Loaded(base.model, base.tokenizer, "llama", Path(), "0" * 64, "fp32", "nf4")
    with pytest.raises(UsageError, match="4-bit"):
        adapter_files.save_merged(tmp_path, four, policy.factors(), policy.subspace.sites)


# ---- θ ----


def test_placing_needs_the_layout():
    policy = policy_of(loaded("llama"), small(loaded("llama")))
    with pytest.raises(UsageError, match="names"):
        policy.move_to({"w": np.zeros(4, np.float32)})
    policy.move_to({"z": np.ones(4, np.float32)})
    assert policy.digest() == parameters.digest(
        {"z": np.ones(4, np.float32)}, policy.layout, policy.subspace.basis_sha256
    )


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(UsageError, match="1 lists of prompts, 2 shifts"):
        policy_of(loaded("llama")).rollout([PROMPTS], [Shift(0, 0, 1, 1.0)] * 2, seed=0)
