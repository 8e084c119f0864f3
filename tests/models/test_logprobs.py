"""Layer inputs and KL against what they are defined as, on tiny models."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from szpo.errors import ResourceError, RunError
from szpo.models import flat_attention, logprobs, out_of_memory, scores
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, find_sites
from szpo.models.local_engines import FlatEngine, GenerateEngine
from szpo.models.logprobs import Sample
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.models.scores import ScoredLaw
from tests.support import tiny_models
from tests.support.scoring import SAMPLES, by_rows, deltas, parts, score_vectors
from tests.support.tiny_models import STOP, adapted, questions


def kl_by_definition(
    model: Any, sites: tuple[Site, ...], members: Deltas, samples: list[Sample], owner: list[int]
) -> np.ndarray:
    """Σ_t Σ_y p (log p − log q) by two forward passes of each sample alone, in fp64."""
    found = []
    for sample, member in zip(samples, owner, strict=True):
        ids = torch.tensor([sample.prompt + sample.answer])
        one = Deltas(members.A, {name: b[member][None] for name, b in members.B.items()})
        with torch.no_grad():
            q = model(ids).logits[0].double()
            with attach_deltas(model, sites, one):
                p = model(ids).logits[0].double()
        p, q = ((x[len(sample.prompt) - 1 : -1] / 0.8).log_softmax(-1) for x in (p, q))
        found.append(float((p.exp() * (p - q)).sum()))
    return np.array(found)


def moved(sites: tuple[Site, ...], start: Any, count: int, seed: int) -> Deltas:
    """Members with A of the start and B drawn."""
    rng = np.random.default_rng(seed)
    drawn = {s.name: 3 * rng.normal(size=(count, s.outputs, s.rank)) for s in sites}
    return Deltas(
        {s.name: torch.from_numpy(start[s.a]) for s in sites},
        {name: torch.from_numpy(b).float() for name, b in drawn.items()},
    )


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_kl_sums_that_of_all_positions_however_few_the_head_reads_at_a_time(name, monkeypatch):
    """A plain head reads slices of all rows; one with a soft cap reads whole answers."""
    model, sites, start = parts(name)
    two, owner = moved(sites, start, 2, seed=4), [0, 1, 1, 0]
    wanted = kl_by_definition(model, sites, two, SAMPLES, owner)
    assert wanted.min() > 0.005
    read = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, out: read.append(out.numel() // tiny_models.WORDS)
    )
    adapted = AdaptedModel(model, sites)
    monkeypatch.setattr(logprobs, "READ_AT_ONCE", 1)
    for limit in (logprobs.KL_LOGITS, 2 * tiny_models.WORDS):
        read.clear()
        monkeypatch.setattr(logprobs, "KL_LOGITS", limit)
        found = logprobs.kl_of_members(adapted, two, SAMPLES, owner, temperature=0.8)
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
    handle.remove()
    # `head_is_plain` tries three; a row at a time has at most four.
    assert max(read[1:]) == (2 if name == "llama" else 4)


@pytest.mark.parametrize("shared", [True, False], ids=["common start", "whole"])
def test_kl_without_padding_is_the_same_and_reads_a_common_start_once(shared, monkeypatch):
    monkeypatch.setattr(flat_attention, "SHORTEST_SAVING", 1 if shared else 1_000)
    monkeypatch.setattr(logprobs, "FLAT_TOKENS", 20)
    model, sites, start = parts("llama")
    three = moved(sites, start, 3, seed=6)
    reference = Deltas(three.A, {name: b[2:] for name, b in three.B.items()})
    samples = [
        Sample((7, 8, 9, *range(20, 20 + n)), tuple(range(40, 40 + answer)))
        for n, answer in ((1, 4), (5, 2), (2, 0), (3, 6), (1, 1))
    ]
    owner, seen, strides = [0, 1, 1, 0, 1], [], []
    handle = model.model.layers[0].register_forward_hook(
        lambda _module, _inputs, out: seen.append(out.shape[1])
    )
    # A product with an array that is a slice of a longer one copies the head's weights.
    apart = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, given: strides.append((given[0].stride()[0], given[0][0].numel()))
    )
    for other in (None, reference):
        wanted, found = (
            logprobs.kl_of_members(
                AdaptedModel(model, sites), three, samples, owner,
                reference=other, temperature=0.8, flat=flat,
            )
            for flat in (False, True)
        )  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
        assert found[2] == 0 and (found[[0, 1, 3, 4]] > 0.001).all()
    handle.remove()
    apart.remove()
    assert strides and all(step == size for step, size in strides)
    assert (3 * 3 in seen) == shared  # three members, three tokens


def test_an_adapted_head_counts_in_the_kl():
    """Its deltas belong to rows, so it may not read slices of all of them."""
    model = tiny_models.build("llama")
    sites = find_sites(model, LoraConfig(r=1, target_modules=["lm_head"]))
    (head,) = sites
    start = np.random.default_rng(5).normal(size=(1, head.inputs)) / 3
    member = moved(sites, {head.a: np.float32(start)}, 1, seed=5)
    wanted = kl_by_definition(model, sites, member, SAMPLES, [0] * 4)
    adapted = AdaptedModel(model, sites)
    found = logprobs.kl_of_members(adapted, member, SAMPLES, [0] * 4, temperature=0.8)
    assert wanted.min() > 0.005
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(("value", "says"), [(0.0, None), (float("nan"), "not finite")])
def test_inputs_that_are_zero_give_an_a_and_those_that_are_not_finite_an_error(value, says):
    model, sites, _ = parts("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(value)
    adapted = AdaptedModel(model, sites)
    if says is None:
        found = logprobs.input_directions(adapted, SAMPLES)
        assert all(np.isfinite(a).all() for a in found.values())
    else:
        with pytest.raises(RunError, match=says):
            logprobs.input_directions(adapted, SAMPLES)


def test_input_directions_are_the_leading_singular_vectors_scaled_to_unit_rms():
    model, sites, _ = parts("mistral", rank=2)
    found = logprobs.input_directions(AdaptedModel(model, sites), SAMPLES)
    for site in sites:
        seen = []
        module = model.get_submodule(site.name)
        handle = module.register_forward_pre_hook(lambda _m, x, seen=seen: seen.append(x[0][0]))
        with torch.no_grad():
            for sample in SAMPLES:
                model(torch.tensor([[*sample.prompt, *sample.answer]]))
        handle.remove()
        X = torch.cat(seen).double().numpy()
        right = np.linalg.svd(X, full_matrices=False)[2][:2]
        A = found[site.a].astype(np.float64)
        cosines = np.abs((A / np.linalg.norm(A, axis=1, keepdims=True)) @ right.T)
        np.testing.assert_allclose(cosines, np.eye(2), atol=1e-3)
        np.testing.assert_allclose(np.sqrt(((X @ A.T) ** 2).mean(0)), 1, rtol=1e-4)
        assert (A[np.arange(2), np.abs(A).argmax(1)] > 0).all()


LINE = "out of memory with {} rows in a batch; going on with {}"


def limit_rows(monkeypatch, kind, most: int) -> None:
    name = "_decode" if kind is FlatEngine else "_generate_block"
    inner = getattr(kind, name)

    def limited(self, *args):
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("a stand-in")
        return inner(self, *args)

    monkeypatch.setattr(kind, name, limited)


@pytest.mark.parametrize("kind", [FlatEngine, GenerateEngine])
def test_generation_goes_on_with_half_the_rows_and_says_so_once(kind, caplog, monkeypatch):
    model, sites, deltas = adapted("llama")
    prompts, members = questions(count=4, repeats=2, members=3)
    draws, law = np.random.default_rng(0).random((24, 6)), Sampling(max_new_tokens=6)
    engine = kind(AdaptedModel(model, sites, (STOP,)))
    wanted = engine.generate(prompts, members, deltas, law, draws)
    assert engine.halved_rows is None
    limit_rows(monkeypatch, kind, 12)
    with caplog.at_level(logging.WARNING, "szpo"):
        for _ in range(2):
            assert engine.generate(prompts, members, deltas, law, draws) == wanted
    assert engine.halved_rows == 12
    assert caplog.messages == [LINE.format(24, 12)]  # the next call begins with the small batch


def test_one_row_that_does_not_fit_is_refused_in_a_line(monkeypatch):
    model, sites, deltas = adapted("llama")
    limit_rows(monkeypatch, FlatEngine, 0)
    engine = FlatEngine(AdaptedModel(model, sites, (STOP,)))
    with pytest.raises(ResourceError, match="out of memory with one row in the batch; lower"):
        engine.generate([[5, 6]] * 3, [0, 1, 2], deltas, Sampling(), np.zeros((3, 24)))


def test_scoring_reads_the_halves_one_by_one(caplog):
    model, sites, deltas = adapted("llama")
    target = AdaptedModel(model, sites, (STOP,))
    engine = FlatEngine(target)
    prompts, members = questions(count=3, repeats=1, members=3)
    spoken = [[7 + i, 8, 9] for i in range(9)]
    samples = [Sample(tuple(p), tuple(s), 0) for p, s in zip(prompts, spoken, strict=True)]
    start = {s.a: deltas.A[s.name].numpy() for s in sites}
    start |= {s.b: deltas.B[s.name][0].numpy() for s in sites}
    one = Deltas(deltas.A, {name: b[:1] for name, b in deltas.B.items()})

    def read():
        return (
            np.stack(engine.logprobs(prompts, spoken, members, deltas)),
            logprobs.kl_of_members(target, deltas, samples, members, reference=one),
            score_vectors(target, start, samples),
        )

    def refuse(_module, args, kwargs):
        if kwargs["input_ids"].numel() > 5 * 41:  # Five of the nine, with padding or without.
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: a stand-in")

    wanted = read()
    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = read()
    handle.remove()
    for one_way, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(one_way, other, rtol=1e-3, atol=1e-4)
    assert caplog.messages == [LINE.format(9, 4)] * 3


def test_other_errors_are_not_caught():
    def broken(rows):
        raise RuntimeError("a shape does not fit")

    with pytest.raises(RuntimeError, match="shape"):
        out_of_memory.retry_halved(broken, 8)
    for error, is_it in (
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True), (ValueError("out of memory"), False),
    ):  # fmt: skip
        assert out_of_memory.is_out_of_memory(error) == is_it


def alone(model: torch.nn.Module, sample: Sample, temperature: float) -> torch.Tensor:
    """log π(answer | prompt) by the definition: one row, no padding, no cleverness."""
    ids = torch.tensor([[*sample.prompt, *sample.answer]])
    logits = model(input_ids=ids).logits[0].double() / temperature
    logp = logits.log_softmax(-1)
    first = len(sample.prompt) - 1
    return sum((logp[first + t, token] for t, token in enumerate(sample.answer)), torch.zeros(()))


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_score_is_the_gradient_of_the_answers_log_probability(name, rank):
    model, sites, start = parts(name, rank)
    found = score_vectors(AdaptedModel(model, sites), start, SAMPLES, temperature=0.8)
    assert found.shape == (4, sum(s.outputs * rank for s in sites))
    rng = np.random.default_rng(1)
    step = 1e-3
    for i, sample in enumerate(SAMPLES):
        move = {s.b: rng.normal(size=start[s.b].shape).astype(np.float32) for s in sites}
        sides = []
        for sign in (1, -1):
            b = {n: np.float32(sign * step) * v for n, v in move.items()}
            with torch.no_grad(), attach_deltas(model, sites, deltas(sites, start, b)):
                sides.append(float(alone(model, sample, 0.8)))
        slope = (sides[0] - sides[1]) / (2 * step)
        flat = np.concatenate([move[s.b].ravel() for s in sites])
        assert float(found[i] @ flat) == pytest.approx(slope, rel=2e-3, abs=2e-3)


def test_scores_that_are_not_finite_are_an_error():
    model, sites, start = parts("llama")
    start = {**start, sites[0].a: np.full_like(start[sites[0].a], math.inf)}
    with pytest.raises(RunError, match="4 of 4 score vectors are not finite"):
        score_vectors(AdaptedModel(model, sites), start, SAMPLES)


@pytest.mark.parametrize(
    ("name", "targets", "rank", "moved"),
    [
        ("llama", ["down_proj"], 1, False),
        ("llama", ["q_proj", "v_proj", "o_proj", "down_proj"], 2, True),
        ("mistral", ["up_proj", "o_proj"], 1, True),
        ("qwen2", ["k_proj", "down_proj"], 3, False),
        ("gpt2", ["c_attn", "mlp.c_proj"], 1, True),
        ("gemma2", ["down_proj"], 1, False),  # a soft cap after the head
    ],
)
def test_captured_outputs_give_the_scores_of_the_tape(name, targets, rank, moved):
    model = tiny_models.build(name)
    lora = LoraConfig(r=rank, lora_alpha=3, target_modules=targets, layers_to_transform=[1, 2, 3])
    sites = find_sites(model, lora)
    rng = np.random.default_rng(7)
    start = {s.a: rng.normal(size=(rank, s.inputs)).astype(np.float32) / s.inputs for s in sites}
    for s in sites:
        start[s.b] = (moved * 0.2 * rng.normal(size=(s.outputs, rank))).astype(np.float32)
    assert logprobs.head_is_plain(model) == (name != "gemma2")
    many = [
        Sample(tuple(rng.integers(1, 300, rng.integers(1, 12))),
               tuple(rng.integers(1, 300, rng.integers(1, 7))), i)
        for i in range(13)
    ]  # fmt: skip
    wanted = by_rows(model, sites, start, many, 0.7)
    found = score_vectors(AdaptedModel(model, sites), start, many, temperature=0.7, tokens=40)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_bf16_scores_are_those_of_the_tape_within_its_rounding():
    """Both round activations to 8 bits; they differ by no more than either does from fp32."""
    model, sites, start = parts("llama")
    exact = by_rows(model, sites, start, SAMPLES, 1.0)
    model.to(torch.bfloat16)
    tape = by_rows(model, sites, start, SAMPLES, 1.0)
    found = score_vectors(AdaptedModel(model, sites), start, SAMPLES)
    off = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (tape, found)]
    assert off[1] < 1.2 * off[0] < 0.2


def read_parts(law: ScoredLaw, samples: list[Sample], tokens: int = 4096) -> np.ndarray:
    model, sites, start = parts("llama")
    found = np.empty((len(samples), law.rows, scores.width_of(sites)), np.float32)
    adapted = AdaptedModel(model, sites)
    for index, some in scores.iterate_scores(adapted, start, samples, law, tokens=tokens):
        found[index] = some
    return found


def test_parts_of_a_score_add_up_to_it_and_end_where_the_answer_ends():
    whole = read_parts(ScoredLaw(), SAMPLES)
    parts = read_parts(ScoredLaw(cuts=(1, 2, 1000)), SAMPLES)
    assert parts.shape == (len(SAMPLES), 4, whole.shape[2])
    np.testing.assert_allclose(parts.sum(1), whole[:, 0], atol=1e-5)
    assert not parts[:, 3].any() and parts[:, :3].any((0, 2)).all()


def test_what_a_token_adds_to_the_score_has_mean_0_given_the_words_up_to_it():
    """Over all words that may follow word 7, by their law; the whole score has another mean."""
    prompt = (5, 9, 11)
    every = [Sample(prompt, (7, word)) for word in range(tiny_models.WORDS)]
    with torch.no_grad():
        p = parts("llama")[0](torch.tensor([[*prompt, 7]])).logits[0, -1].softmax(-1).numpy()
    found = read_parts(ScoredLaw(cuts=(1,)), every)
    first, later = (np.abs(p @ found[:, part]).max() for part in (0, 1))
    assert later < 1e-5 < 0.1 * first


def test_features_of_an_answer_are_the_mean_and_the_last_of_its_hidden_states():
    model, *_ = parts("llama")
    prompts, answers = zip(*((s.prompt, s.answer) for s in SAMPLES), strict=True)
    found = logprobs.hidden_features(model, prompts, answers)
    for row, sample in zip(found, SAMPLES, strict=True):
        ids = torch.tensor([sample.prompt + sample.answer])
        with torch.no_grad():
            spoken = logprobs.body(model)(ids).last_hidden_state[0, len(sample.prompt) :].double()
        wanted = torch.cat([spoken.mean(0), spoken[-1]])
        np.testing.assert_allclose(row, wanted, atol=1e-5)
