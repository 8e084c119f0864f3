"""Per-row deltas against separately loaded adapters, and per-row gradients against single rows."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from szpo.errors import UsageError
from szpo.models import adapters
from szpo.models.batched_lora import Deltas, attach_deltas, find_sites
from tests.support.tiny_models import ARCHITECTURES, TARGETS, WORDS, build, quantised, with_adapter

MEMBERS = 3


def config(name: str, rank: int, **options: Any) -> LoraConfig:
    targets = list(TARGETS.get(name, ("q_proj", "v_proj", "down_proj")))
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, **options)


def factors(sites: Any, rank: int, trains_a: bool) -> tuple[list[dict[str, np.ndarray]], Deltas]:
    rng = np.random.default_rng(rank)

    def some(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)

    common = {s.a: some(s.rank, s.inputs) for s in sites}
    members = [
        {s.a: some(s.rank, s.inputs) if trains_a else common[s.a] for s in sites}
        | {s.b: some(s.outputs, s.rank) for s in sites}
        for _ in range(MEMBERS)
    ]
    A = {
        s.name: torch.from_numpy(np.stack([m[s.a] for m in members]) if trains_a else common[s.a])
        for s in sites
    }
    B = {s.name: torch.from_numpy(np.stack([m[s.b] for m in members])) for s in sites}
    return members, Deltas(A, B)


def together_and_alone(make, name, rank, trains_a, owner, folder):
    """Logits of rows with members of their own, and for each member all rows with it alone."""
    model = make()
    sites = find_sites(model, config(name, rank))
    members, deltas = factors(sites, rank, trains_a)
    ids = torch.arange(len(owner) * 7).reshape(-1, 7) % WORDS
    with torch.inference_mode(), attach_deltas(model, sites, deltas, owner[:, None]):
        mixed = model(ids).logits
    alone = []
    for member, values in enumerate(members):
        place = folder / str(member)
        adapters.save_adapter(place, values, sites, base=name, conv1d=name == "gpt2")
        with torch.inference_mode():
            alone.append(with_adapter(make(), place)(ids).logits)
    return mixed, alone


@pytest.mark.spine
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("rank", "trains_a"), [(1, False), (8, True)])
def test_rows_equal_separately_loaded_adapters(name, rank, trains_a, tmp_path):
    owner = torch.tensor([2, 0, 1, 1, 0, 2])
    mixed, alone = together_and_alone(lambda: build(name), name, rank, trains_a, owner, tmp_path)
    for member, each in enumerate(alone):
        mine = owner == member
        torch.testing.assert_close(mixed[mine], each[mine], rtol=1e-5, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "rank", "trains_a"), [("nf4", 8, False), ("fp4", 1, True)])
def test_rows_equal_separately_loaded_adapters_on_four_bits(kind, rank, trains_a, tmp_path):
    def make():
        return quantised(tmp_path / "base", kind)

    mixed, alone = together_and_alone(make, "llama", rank, trains_a, torch.arange(3), tmp_path)
    for member, each in enumerate(alone):
        expected = each[member]
        # The 4-bit product may itself round to bf16 (and then by batch, so all rows go along).
        scale = float(expected.abs().max())
        torch.testing.assert_close(mixed[member], expected, rtol=0, atol=1e-3 * scale)
        other = mixed[(member + 1) % MEMBERS]
        assert float((other - mixed[member]).abs().max()) > 0.05 * scale


def test_neighbours_share_a_product_only_where_they_share_inputs():
    # q, k and v read the same tensor; o has the same width and parent, but reads another.
    model = build("llama")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    sites = find_sites(model, LoraConfig(r=3, target_modules=targets))
    _, deltas = factors(sites, 3, True)
    ids = torch.arange(4 * 6).reshape(4, 6)
    owner = torch.tensor([1, 0, 2, 1])
    with torch.inference_mode():
        with attach_deltas(model, sites, deltas, owner[:, None]):
            first = model(ids).logits
            again = model(ids).logits
        assert torch.equal(first, again)  # the grouping is found during the first pass
        for row in range(4):
            mine = Deltas(
                {k: a[owner[row]] for k, a in deltas.A.items()},
                {k: b[owner[row]][None] for k, b in deltas.B.items()},
            )
            with attach_deltas(model, sites, mine):
                alone = model(ids[row : row + 1]).logits[0]
            torch.testing.assert_close(first[row], alone, rtol=1e-5, atol=1e-5)


def test_one_backward_gives_every_row_its_own_gradient():
    model = build("llama")
    sites = find_sites(model, config("llama", 2))
    _, deltas = factors(sites, 2, False)
    ids = torch.arange(4 * 5).reshape(4, 5)

    def gradients(rows):
        n = len(rows)
        B = {s.name: torch.zeros(n, s.outputs, s.rank, requires_grad=True) for s in sites}
        with attach_deltas(model, sites, Deltas(deltas.A, B), torch.arange(n)[:, None]):
            logp = model(rows).logits.log_softmax(-1)[:, :-1]
        total = logp.gather(-1, rows[:, 1:, None]).sum()
        return list(torch.autograd.grad(total, list(B.values())))

    together = gradients(ids)
    for i in range(len(ids)):
        for whole, one in zip(together, gradients(ids[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i], one[0], rtol=1e-4, atol=1e-6)


def test_the_model_is_the_base_model_again_afterwards():
    model = build("llama")
    names = [name for name, _ in model.named_modules()]
    ids = torch.arange(7)[None]
    before = model(ids).logits
    sites = find_sites(model, config("llama", 8))
    _, deltas = factors(sites, 8, False)
    with torch.inference_mode(), attach_deltas(model, sites, deltas):
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize(("target", "words"), [("nowhere", "not fit"), ("embed_tokens", "linear")])
def test_targets_that_do_not_exist_or_are_not_linear_are_refused(target, words):
    with pytest.raises(UsageError, match=words):
        find_sites(build("llama"), LoraConfig(r=2, target_modules=[target]))


def test_gradients_see_the_adapter_that_answers_saw():
    model = build("llama")
    sites = find_sites(model, config("llama", 2))
    _, deltas = factors(sites, 2, True)
    ids, owner = torch.arange(3 * 7).reshape(3, 7) % WORDS, torch.tensor([[2], [0], [1]])
    with attach_deltas(model, sites, deltas, owner):
        with torch.no_grad():
            seen = model(ids).logits
        taught = model(ids).logits
    assert float((seen - model(ids).logits).abs().max()) > 0.01
    torch.testing.assert_close(taught, seen, rtol=1e-5, atol=1e-5)
