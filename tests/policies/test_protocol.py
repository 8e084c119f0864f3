"""The Policy contract on LoRA policies of several architectures, and on broken policies."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import RunError
from szpo.models.identity import TENSORS, Identity
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.policies import text_guards
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import Policy, check_policy
from szpo.policies.text_guards import TextFigures, guards, topic_gap
from szpo.types import Answer, Batch, Prompt, Shift, Update
from tests.support.cases import case
from tests.support.policies import PROMPTS, full, policy_of, small
from tests.support.tiny_models import ARCHITECTURES, loaded, quantised, tokenizer


@pytest.mark.parametrize(
    ("train", "rank", "names"),
    [
        pytest.param("B", 1, ARCHITECTURES, marks=pytest.mark.spine),
        pytest.param("AB", 8, ARCHITECTURES, marks=pytest.mark.full),
    ],
)
def test_lora_policies_keep_the_contract(train, rank, names):
    for name in names:
        with case(name, rank, train):
            base = loaded(name)
            policy = policy_of(base, full(base, rank, train))
            assert isinstance(policy, Policy)
            check_policy(policy, PROMPTS, radius=0.5, space=policy.space)


@pytest.mark.parametrize(
    "name",
    [*ARCHITECTURES[:2], *(pytest.param(n, marks=pytest.mark.full) for n in ARCHITECTURES[2:])],
)
def test_subspace_policies_keep_the_contract(name):
    policy = policy_of(loaded(name))
    assert policy.dim == 4
    basis = policy.subspace.basis_sha256
    check_policy(policy, PROMPTS, radius=1.0, space=policy.space, basis_sha256=basis)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "nf4"), ("qwen2", "fp4"), ("mistral", "nf4")]
)
def test_four_bit_policies_keep_the_contract(name, kind, tmp_path):
    model = quantised(tmp_path, kind, name)
    base = Loaded(model, tokenizer(), name, tmp_path, Identity({TENSORS: "0" * 64}), "fp32", "nf4")
    policy = policy_of(base, full(base, 2))
    check_policy(policy, PROMPTS, radius=0.5, space=policy.space)


def test_all_directions_go_through_one_generation_call():
    base = loaded("llama")
    policy = policy_of(base)
    calls = []
    inner = policy.engine.generate

    def counting(prompts, members, *rest, **options):
        calls.append(list(members))
        return inner(prompts, members, *rest, **options)

    policy.engine.generate = counting
    shifts = [Shift(2, k, sign, 1.0) for k in range(3) for sign in (1, -1)]
    together = policy.rollout([PROMPTS] * 6, shifts, seed=1)
    assert calls == [[0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3]
    alone = [policy.rollout([PROMPTS] * 2, shifts[i : i + 2], seed=1) for i in (0, 2, 4)]
    assert [batch for pair in alone for batch in pair] == together


@pytest.mark.full
def test_chunks_answer_what_one_call_answers():
    base = loaded("llama")
    whole = policy_of(base, sampling=Sampling(max_new_tokens=10))
    parts = policy_of(base, host=LocalBackend(base, chunk_rows=5))
    other = (300, -2, 7, 0)  # a direction that the seed does not give
    shifts = [Shift(3, k, sign, 0.5, (None, other)[k]) for k in (0, 1) for sign in (1, -1)]
    many = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 32)]
    asked = [many[:6], many[:6], many[6:], many[6:]]
    assert parts.rollout(asked, shifts, seed=4) == whole.rollout(asked, shifts, seed=4)
    assert parts.sample(many, 3, seed=5) == whole.sample(many, 3, seed=5)
    base_says = [each.sample(many[:2], seed=5, base=True) for each in (parts, whole)]
    assert base_says[0] == base_says[1]


def test_members_are_theta_plus_and_minus_the_direction():
    base = loaded("qwen2")
    policy, other = policy_of(base), policy_of(base)
    policy.apply(Update(0, 0, coef=0.5))
    theta = policy.theta()
    for sign in (1, -1):
        shift = Shift(3, 1, sign, 0.75)
        asked = policy.rollout([PROMPTS], [shift], seed=4)
        other.move_to(parameters.shift(policy.space, theta, shift))
        # Shift 0 of the same k shares the numbers, so the answers must be the same.
        assert other.rollout([PROMPTS], [Shift(3, 1, 0, 0.0)], seed=4) == asked


def test_common_random_numbers_make_equal_policies_say_the_same():
    base = loaded("llama")
    # So small that no draw changes, yet large enough for the canary to see it.
    tiny = [Shift(0, 0, 1, 2.0**-20), Shift(0, 0, -1, 2.0**-20)]
    plus, minus = policy_of(base).rollout([PROMPTS * 4] * 2, tiny, seed=3)
    assert plus == minus
    apart = policy_of(base, sampling=Sampling(max_new_tokens=10), crn=False)
    plus, minus = apart.rollout([PROMPTS * 4] * 2, tiny, seed=3)
    assert plus != minus


def test_a_perturbation_that_does_not_reach_the_model_stops_the_run():
    base = loaded("llama")
    subspace = small(base)
    dead = {name: np.zeros_like(value) for name, value in subspace.basis.items()}
    policy = policy_of(base, replace(subspace, basis=dead))
    with pytest.raises(RunError, match="canary"):
        policy.rollout([PROMPTS] * 2, [Shift(0, 0, 1, 1.0), Shift(0, 0, -1, 1.0)], seed=0)
    # An A/A question asks one policy twice and is no canary's business.
    policy.rollout([PROMPTS] * 2, [Shift(0, 0, 0, 0.0)] * 2, seed=0)


class Broken:
    def __init__(self, inner: LoraPolicy, how: str):
        self.inner, self.how, self.calls = inner, how, 0
        self.layout, self.theta = inner.layout, inner.theta
        self.dim = inner.dim + (how == "dim")

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        self.calls += 1
        if self.how == "deaf":
            shifts = [Shift(s.step, s.k, 0, 0.0) for s in shifts]
        if self.how == "moving":
            self.inner.apply(Update(0, 0, coef=0.5))
        seed += self.calls * (self.how == "forgetful")
        batches = self.inner.rollout(prompts, shifts, seed=seed)
        if self.how == "short" and batches:
            batches[0] = batches[0][1:]
        if self.how == "endless" and batches:
            batches[0] = (Answer("w7", "never"), *batches[0][1:])
        return batches

    def apply(self, update: Update) -> None:
        if self.how != "numb":
            # "scalar": a vector is taken for a coefficient of 0
            coef = (update.coef or 0.0) * (2 if self.how == "far" else 1)
            self.inner.apply(Update(update.step, update.k, coef=coef))

    def digest(self) -> str:
        return "0" * 64 if self.how == "digest" else self.inner.digest()


@pytest.mark.parametrize(
    ("how", "clause"),
    [
        ("dim", "dim is not"),
        ("forgetful", "second time"),
        ("deaf", "shift is not used"),
        ("moving", "rollout moves"),
        ("short", "one answer per prompt"),
        ("endless", "an answer is not an Answer"),
        ("numb", "apply does not move"),
        ("far", "other values than"),
        ("digest", "digest does not see it"),
        ("scalar", "vector of an update"),
    ],
)
def test_check_policy_names_the_broken_clause(how, clause):
    inner = policy_of(loaded("llama"))
    basis = inner.subspace.basis_sha256
    with pytest.raises(RunError, match=clause):
        broken = Broken(inner, how)
        check_policy(broken, PROMPTS, radius=1.0, space=inner.space, basis_sha256=basis)


BASE = TextFigures(logprob=-2.0, distinct2=0.8, tokens=20.0, margin=20.0, others=7)


@pytest.mark.parametrize(
    ("after", "failing"),
    [
        ({}, None),
        ({"logprob": -2.51}, text_guards.FLUENCY),
        ({"distinct2": 0.71}, text_guards.VARIETY),
        ({"tokens": 15.9}, text_guards.LENGTH),
        ({"tokens": 24.1}, text_guards.LENGTH),
        ({"margin": 15.0}, None),  # .75 of the base's is enough
        ({"margin": 14.9}, text_guards.TOPIC),
        ({"margin": -3.0}, text_guards.TOPIC),
    ],
)
def test_each_guard_fails_alone(after, failing):
    found = guards(BASE, replace(BASE, **after))
    assert [guard.name for guard in found] == list(text_guards.NAMES)
    assert [guard.name for guard in found if not guard.ok] == ([failing] if failing else [])


def test_a_run_that_drifted_fails_by_its_share_of_the_base():
    """Medians of one run at 0, 3.5 and 9.7 nats: 20.0, 15.6 and 10.4, so .78 and .52."""
    held, lost = (guards(BASE, replace(BASE, margin=m))[-1] for m in (15.6, 10.4))
    assert held.line() == f"guard holds {text_guards.TOPIC}: 0.78 (at least 0.75)"
    assert lost.line() == f"guard fails {text_guards.TOPIC}: 0.52 (at least 0.75)"


def test_fewer_prompts_are_named_and_none_leaves_the_guard_out():
    few = replace(BASE, others=4)
    assert guards(few, few)[-1].limit == "at least 0.75, 4 other prompts instead of 7"
    unmeasured = replace(BASE, margin=None)
    assert len(guards(BASE, unmeasured)) == len(guards(unmeasured, BASE)) == 3
    assert topic_gap(BASE, unmeasured) == "not measured; it takes at least 3 held-out prompts"
    blind = replace(BASE, margin=-0.25)
    assert len(guards(blind, BASE)) == 3
    assert topic_gap(blind, BASE) == (
        "the base's answers suit other prompts as well as their own (margin -0.25 nats)"
    )
    assert topic_gap(BASE, BASE) is None
