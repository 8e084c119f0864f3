"""Everything that computes with a model, asked of workers: the same numbers as computed here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from szpo import seeds
from szpo.config.tables import Adapter, Engine
from szpo.errors import IntegrityError, UsageError
from szpo.judges import pair_scorer
from szpo.judges.judge_factory import Local
from szpo.judges.prompting import Question
from szpo.models import answer_shares, loading, weight_files
from szpo.models.identity import TENSORS
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.policies import ray_engine, subspace_setup, worker
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Prompt, Shift, Update
from tests.support import folder_run, near_workers
from tests.support.policies import SHORT_PROMPTS as PROMPTS
from tests.support.policies import setup_of, small

ROWS = 8
SHORT, BRIEF = Sampling(max_new_tokens=6), Sampling(max_new_tokens=3)


@pytest.fixture(scope="module")
def here(model):
    return LocalBackend(loading.load(str(model), dtype="fp32"), chunk_rows=ROWS)


@pytest.fixture
def there(model):
    return near_workers.host(model, chunk_rows=ROWS)


def policies(here: LocalBackend, *hosts: Any) -> list[LoraPolicy]:
    """A policy at each host, in coordinates that are chosen here."""
    subspace = small(here.facts)
    return [
        LoraPolicy(host.facts, subspace, root_seed=5, sampling=SHORT, host=host) for host in hosts
    ]


def test_a_model_is_described_without_its_weights(model, monkeypatch):
    loaded = loading.load(str(model), dtype="fp32")
    monkeypatch.setattr(weight_files, "load_model", None)
    known = loading.describe(str(model), dtype="fp32")
    assert not any(isinstance(value, torch.nn.Module) for value in vars(known).values())
    assert loading.stop_tokens(known) == loading.stop_tokens(loaded)
    assert loading.reader_of(known).most == loading.reader_of(loaded).most
    answer = Answer("w7 w8", "stop", 2)
    assert loading.answer_tokens(known, answer) == loading.answer_tokens(loaded, answer)
    assert (known.device, known.sha256) == (loaded.device, "")
    with pytest.raises(UsageError, match="transformers cannot load it"):
        (model.parent / "empty").mkdir()
        for file in model.glob("tokenizer*"):
            (model.parent / "empty" / file.name).write_bytes(file.read_bytes())
        loading.describe(str(model.parent / "empty"), dtype="fp32")


def test_workers_say_what_the_model_is_and_where_its_adapter_sits(here, there):
    assert there.facts.sha256 == here.facts.sha256
    adapter = Adapter(rank=2, targets=["down_proj", "q_proj"], layers=[1, 2])
    assert there.places(adapter, None) == here.places(adapter, None)
    own = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["down_proj"]}
    assert there.places(adapter, own) == here.places(adapter, own)
    assert {site.scale for site in there.places(adapter, own)[0]} == {2.0}
    with pytest.raises(UsageError, match=r"layers: \[99\] do not exist"):
        there.places(Adapter(layers=[99]), None)


@pytest.mark.parametrize("kind", ["features", pytest.param("full", marks=pytest.mark.slow)])
def test_a_set_up_by_workers_is_the_one_made_here(here, there, kind):
    sites, _ = here.places(Adapter(), None)
    setup = setup_of(kind, dim=4, samples=24, sampling=BRIEF, root_seed=3)
    one, other = (
        subspace_setup.choose_subspace(host, sites, PROMPTS, setup) for host in (here, there)
    )
    assert one.tensors().keys() == other.tensors().keys()
    assert all(np.array_equal(one.tensors()[n], v) for n, v in other.tensors().items())
    assert (one.scale, one.basis_sha256) == (other.scale, other.basis_sha256)
    reports = [{k: v for k, v in s.report.items() if "seconds" not in k} for s in (one, other)]
    assert reports[0] == reports[1]
    assert {"Inputs", "KL", "AnswerRequest"} <= set(there.workers.tasks)


def test_measuring_and_guards_by_workers_give_the_same_numbers(here, there):
    one, other = policies(here, here, there)
    grids = (None, (256, -512) * (one.dim // 2))  # the seed's direction, and one of the plan's
    shifts = [Shift(2, k, sign, 0.75, grids[k]) for k in (0, 1) for sign in (1, -1)]
    asked = [PROMPTS[:3]] * 4
    found = one.rollout(asked, shifts, seed=4)
    assert found == other.rollout(asked, shifts, seed=4)
    plain = [replace(shift, grid=None) for shift in shifts]
    again = other.rollout(asked, plain, seed=4)
    assert found[:2] == again[:2] and found[2:] != again[2:]
    for policy in (one, other):
        policy.apply(Update(0, 0, coef=0.5))
    said = [row[0] for row in one.sample(PROMPTS, seed=1)]
    assert said == [row[0] for row in other.sample(PROMPTS, seed=1)]
    assert one.kl(PROMPTS, seed=1, samples=2) == other.kl(PROMPTS, seed=1, samples=2)
    assert one.kl(PROMPTS, seed=1)[0] > 0
    texts = [*said[:-1], Answer("", "length", 0)]
    fluency = [policy.logprob_base(PROMPTS, texts) for policy in (one, other)]
    assert np.array_equal(*fluency, equal_nan=True) and np.isnan(fluency[0][-1])
    whole = [policy.total_logprob_base(PROMPTS[0], texts) for policy in (one, other)]
    assert np.array_equal(*whole) and (whole[0][:-1] < 0).all()
    assert other.halved_rows is None
    for wanted in ("local", "engine", "held"):
        with pytest.raises(UsageError, match="is held by workers, not by this process"):
            getattr(other, wanted)


def test_workers_and_their_run_cut_answers_at_the_same_token(here, there, monkeypatch):
    """The model of tests writes no marks: here a sentence ends after the first word."""
    one, other = policies(here, here, there)
    long = one.sample_tokens(PROMPTS, seed=2)
    monkeypatch.setattr(
        answer_shares, "sentence_ends", lambda text, **_: [len(text.split()[0])] if text else []
    )
    for policy in (one, other):
        policy.sampling = replace(SHORT, whole_sentences=True)
    short = other.sample_tokens(PROMPTS, seed=2)
    assert short == one.sample_tokens(PROMPTS, seed=2)
    assert {len(row) for row, was in zip(short, long, strict=True) if len(was) == 6} >= {1}


def test_judges_by_workers_reply_the_same(here, there, model, tmp_path):
    """The run's own model, then another one that the workers load beside it."""
    second = folder_run.model(tmp_path, "gpt2")
    questions = [Question(Prompt.user(f"w{i} w9"), seeds.derive(i, "test")) for i in range(7)]
    labels = ("w5", "w6")
    for name in (str(model), str(second)):
        made = [Local(host.beside(name), max_tokens=6) for host in (here, there)]
        assert made[0].facts.sha256 == made[1].facts.sha256
        assert made[0].write(questions) == made[1].write(questions)
        odds = [each.weigh(questions, labels) for each in made]
        assert odds[0] == odds[1] and all(reply.odds for reply in odds[0])
    answers = [Answer(f"w{i}", "stop", 1) for i in range(7)]
    prompts = [question.prompt for question in questions]
    read = [
        pair_scorer.features(host.beside(str(second)), prompts, answers) for host in (here, there)
    ]
    assert torch.equal(*read)
    with pytest.raises(UsageError, match="not found"):
        there.beside(str(tmp_path / "nowhere"))


def test_each_request_is_answered_in_its_own_coordinates(here, there):
    one, other = policies(here, here, there)
    there.at(other.subspace, parameters.Space(6, other.layout, Law()))
    shifts = [Shift(0, 0, sign, 0.75) for sign in (1, -1)]
    third = LoraPolicy(there.facts, other.subspace, root_seed=6, sampling=SHORT, host=there)
    asked = [PROMPTS[:3]] * 2
    assert third.rollout(asked, shifts, seed=4) != one.rollout(asked, shifts, seed=4)
    assert other.rollout(asked, shifts, seed=4) == one.rollout(asked, shifts, seed=4)


def test_tensors_of_another_model_are_refused_by_the_worker(here, there):
    good = small(here.facts)
    site = good.sites[0]
    wide = {**good.fixed, site.a: np.zeros((1, site.inputs + 1), np.float32)}
    bad = Subspace(good.kind, good.sites, wide, good.start, good.basis)
    policy = LoraPolicy(there.facts, bad, root_seed=5, sampling=SHORT, host=there)
    with pytest.raises(IntegrityError, match=r"in the run, \(1, .*\) in this model"):
        policy.sample(PROMPTS[:1], seed=0)


def test_two_workers_with_different_models_end_the_run(model):
    facts = loading.describe(str(model), dtype="fp32")
    shown = {**worker.expect(facts, None), "hardware": None}
    shown["model"] = shown["model"] | {TENSORS: "a" * 64}
    other = {"model": shown["model"] | {TENSORS: "b" * 64}}

    class Different(near_workers.NearWorkers):
        def show(self, setup: Any, check: Any) -> None:
            assert check(shown) is None
            raise IntegrityError(str(check(shown | other)))

    workers = Different(1)
    with pytest.raises(
        IntegrityError, match="its model is another than the run's: tensors changed"
    ):
        ray_engine.RayBackend(Engine(kind="ray"), facts, workers)
    assert workers.closed


def test_tokens_that_workers_write_are_counted(here, there):
    """What a comparison of methods charges, wherever the model is; end tokens are free."""
    counts = []
    for host, policy in zip((here, there), policies(here, here, there), strict=True):
        before = host.written
        answers = policy.sample(PROMPTS[:3], seed=1)
        counts.append(host.written - before)
    assert counts[0] == counts[1] == sum(answer.tokens for (answer,) in answers) > 0
