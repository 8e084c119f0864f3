"""Choosing coordinates: what each kind promises, what is named by the seed, what is refused."""

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import RunError, UsageError
from szpo.models import loading, lora
from szpo.models.batched_lora import attach_deltas, find_sites
from szpo.models.loading import Loaded
from szpo.models.sampling import Sampling
from szpo.optim import parameters, sample_directions
from szpo.policies import probe, subspaces
from szpo.policies.backend import LocalBackend
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.probe import Probe, unit_directions
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Comparison, Prompt, Row, Update
from tests.support import tiny_models
from tests.support.policies import set_up_subspace, setup_of, small

OF_THE_MODEL = [kind for kind in get_args(subspaces.Kind) if kind not in ("adapters", "none")]
SHORT = Sampling(max_new_tokens=6)
ASKED = [Prompt.user(f"w{7 + 3 * i} w{9 + i}") for i in range(24)]


@pytest.fixture(scope="module")
def model():
    return tiny_models.loaded("llama")


MADE: dict[str, Subspace] = {}
"""Set-ups of the module's model, by what they were asked for: each is made once."""


def setup(loaded: Loaded, kind: Any = "features", **options: Any) -> Subspace:
    if loaded.name != "llama" or options.keys() & {"lora", "start"}:
        return make_anew(loaded, kind, **options)
    name = f"{kind} {sorted(options.items())}"
    if name not in MADE:
        MADE[name] = make_anew(loaded, kind, **options)
    return MADE[name]


def make_anew(loaded: Loaded, kind: Any = "features", **options: Any) -> Subspace:
    apart = {name: options.pop(name) for name in ("lora", "start") if name in options}
    chosen = {"dim": 4, "samples": 192, "sampling": SHORT, **options}
    return set_up_subspace(loaded, ASKED, setup_of(kind, **chosen), **apart)


def probe_of(loaded: Loaded, space: Subspace, ids: Any, sampling: Sampling, key: int) -> Probe:
    whole = replace(space, kind="full", basis={})
    backend = LocalBackend(loaded).at(
        whole, parameters.Space(key, whole.layout, sample_directions.Law())
    )
    return Probe(backend, whole, ids, sampling, key)


def mean_kl(loaded: Loaded, space: Subspace, radius: float, rows: int = 12) -> tuple[float, float]:
    """KL at ``radius`` along 24 directions, measured with answers that no set-up saw."""
    ids = tuple(loading.encode(loaded.tokenizer, p) for p in ASKED)
    probe = probe_of(loaded, space, ids, SHORT, 999)
    if space.basis:
        units = unit_directions(999, 24, space.dim, "test")
        members = [space.weights({"z": (radius * u).astype(np.float32)}) for u in units]
    else:
        law = sample_directions.Law()
        draws = parameters.Space(999, space.layout, law)
        scale = np.float32(space.scale * radius / math.sqrt(space.dim))
        members = [
            {n: space.start[n] + scale * v for n, v in parameters.direction(draws, 0, k).items()}
            for k in range(24)
        ]
    kl = probe.kl(members, rows, "test").mean(1)
    return float(kl.mean()), float(kl.std(ddof=1) / math.sqrt(24))


@pytest.mark.full
def test_feature_coordinates_are_half_their_square_away(model):
    space = setup(model, samples=512)
    assert space.dim > 4 and (space.scale, space.layout) == (1.0, (("z", (space.dim,)),))
    for radius in (0.5, 1.0):
        kl, error = mean_kl(model, space, radius)
        assert abs(kl / (radius**2 / 2) - 1) < 0.2 + 3 * error / (radius**2 / 2)
    assert space.mu(0.72) == pytest.approx(math.sqrt(2 * 0.72 / space.dim))


@pytest.mark.full
def test_full_is_scaled_to_the_kl_radius(model):
    space = setup(model, "full", kl_radius=0.5)
    kl, error = mean_kl(model, space, math.sqrt(2 * 0.5))
    assert abs(kl / 0.5 - 1) < 0.25 + 3 * error / 0.5


@pytest.mark.full
def test_a_stage_counts_the_answers_that_it_has_read(model):
    """A set-up that reads for minutes says how far it is, and reads what it would at once."""
    ids = tuple(loading.encode(model.tokenizer, p) for p in ASKED)
    space, told = setup(model, "full"), list[tuple[str, int, int]]()
    probe = replace(
        probe_of(model, space, ids, SHORT, 1), progress=lambda *at: told.append(at)
    )  # fmt: skip
    members = [{name: value + 0.1 for name, value in space.start.items()}] * 5
    found = probe.kl(members, 16, "test", "KL of each")
    reads = [(done, of) for name, done, of in told if name == "KL of each, read"]
    assert reads == [(0, 80), (32, 80), (64, 80)] and (found > 0).any()
    np.testing.assert_allclose(found, probe.kl(members, 16, "test"), rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("kind", OF_THE_MODEL)
def test_the_same_seed_gives_the_same_tensors(model, kind):
    a, b, c = (make_anew(model, kind, root_seed=s) for s in (5, 5, 6))
    assert a.tensors().keys() == b.tensors().keys()
    assert all(np.array_equal(v, b.tensors()[n]) for n, v in a.tensors().items())
    assert (a.scale, a.basis_sha256) == (b.scale, b.basis_sha256)
    assert (a.scale, a.basis_sha256) != (c.scale, c.basis_sha256)


@pytest.mark.full
def test_a_set_up_has_what_its_kind_promises(model):
    report = setup(model).report
    assert report["samples"] == 192 and report["seconds"] >= 0
    assert report["layers"] == [0, 1, 2, 3] and report["weights"] == 4 * 32
    assert 0.3 < report["correction"] < 3
    assert set(report["raw_kl_ratio"]) == {"0.5", "1.0"}
    both = setup(model, "full")
    sites = both.sites
    assert not both.basis and both.basis_sha256 is None
    assert both.dim == sum(s.outputs + s.inputs for s in sites) and not both.fixed
    assert both.layout[0] == (sites[0].a, (1, sites[0].inputs))
    for kind in OF_THE_MODEL:
        space = setup(model, kind)
        z = {"z": np.zeros(space.dim, np.float32)} if space.basis else dict(space.start)
        assert all(not space.weights(z)[s.b].any() for s in space.sites)


def test_the_ruler_is_asked_at_so_many_nats_by_the_quadratic_estimate(model):
    class Noted:
        def answer(self, request):
            self.thetas = request.thetas
            return [()] * len(request.thetas)

    space, backend = small(model), Noted()
    probe.draw_ruler(Probe(backend, space, ((1,),), SHORT, 0), space)
    first = np.eye(space.dim)[0]
    for theta, length in zip(backend.thetas, (0, 1, 2, 5, 10), strict=True):  # |z|², twice nats
        wanted = space.in_whole(math.sqrt(length) * first)
        assert all(np.allclose(theta[name], value) for name, value in wanted.items())


@pytest.mark.full
def test_the_ruler_is_what_policies_so_many_nats_away_answer(model):
    """The first prompt at 0, ½, 1, 2½ and 5 nats, with one row's random numbers for all."""
    space = setup(model)
    ids = tuple(loading.encode(model.tokenizer, p) for p in ASKED)
    first = probe_of(model, space, ids[:1], SHORT, 0)
    (base,) = first.samples((), [0], [0], "ruler")
    assert space.report["ruler"]["prompt"] == ASKED[0].text
    rows = space.report["ruler"]["answers"]
    assert [nats for nats, _ in rows] == [0, 0.5, 1, 2.5, 5]
    assert rows[0][1] == loading.answer_of(model, base.answer).text
    assert len({text for _, text in rows}) > 1
    z = math.sqrt(10) * np.eye(space.dim)[0]
    theta = {"z": z.astype(np.float32)}  # |z|²/2 = 5
    (far,) = first.samples([space.weights(theta)], [0], [0], "ruler")
    assert rows[4][1] == loading.answer_of(model, far.answer).text
    assert "ruler" not in setup(model, "full").report


@pytest.mark.full
def test_tensors_hold_all_that_replay_needs(model):
    space = setup(model)
    remaining = space.tensors()
    assert len(remaining) == 3 * len(space.sites) + 1  # and the map of features
    assert all(value.dtype == np.float32 for value in remaining.values())
    z = np.linspace(-2, 1, space.dim).astype(np.float32)
    start = {n.removeprefix("start/"): v for n, v in remaining.items() if n.startswith("start/")}
    basis = {n.removeprefix("basis/"): v for n, v in remaining.items() if n.startswith("basis/")}
    again = parameters.materialise(start, basis, z)
    assert all(np.array_equal(again[n], v) for n, v in space.weights({"z": z}).items())


@pytest.mark.full
def test_a_starting_adapter_is_the_centre(model):
    config = lora.lora_config(model.model, layers=(1, 2))
    rng = np.random.default_rng(0)
    start = {}
    for s in find_sites(model.model, config):
        start[s.a] = (rng.normal(size=(1, s.inputs)) / s.inputs).astype(np.float32)
        start[s.b] = (0.3 * rng.normal(size=(s.outputs, 1))).astype(np.float32)
    space = setup(model, lora=config, start=start)
    at_zero = space.weights({"z": np.zeros(space.dim, np.float32)})
    assert all(np.array_equal(at_zero[n], start[n]) for n in at_zero)
    kl, _ = mean_kl(model, space, 1e-4, rows=2)
    assert abs(kl) < 1e-5, "KL is counted from the starting adapter"


@pytest.mark.full
def test_four_bits_and_other_architectures_can_be_set_up():
    for name in ("gpt2", "mistral"):
        space = setup(tiny_models.loaded(name), samples=64)
        assert space.dim >= 4


@given(st.integers(1, 200), st.integers(1, 9))
def test_middle_layers_exist_and_touch_two_thirds(depth, count):
    found = lora.middle_layers(depth, count)
    assert len(found) == min(count, depth)
    assert found[0] >= 0 and found[-1] < depth
    assert list(found) == list(range(found[0], found[0] + len(found)))
    if depth > 3 * count:
        assert abs((found[0] + found[-1]) / 2 - 2 * depth / 3) <= 1


@pytest.mark.parametrize(
    ("name", "target"),
    [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj"), ("qwen2", "mlp.down_proj")],
)
def test_the_default_adapts_the_output_of_the_mlp(name, target):
    model = tiny_models.build(name)
    sites = find_sites(model, lora.lora_config(model))
    assert [s.depth for s in sites] == [0, 1, 2, 3]
    assert all(s.name.endswith(target) and s.rank == 1 and s.scale == 1 for s in sites)


def test_factors_of_a_lower_rank_are_those_of_the_product_with_its_scale():
    """Rank 2 of two singular values 6 and 1, at scale 3: the largest is 18."""
    model = tiny_models.build("llama")
    (found,) = find_sites(model, lora.lora_config(model, layers=(1,), rank=2))
    site = replace(found, scale=3.0)
    a, b = np.zeros((2, site.inputs)), np.zeros((site.outputs, 2))
    a[0, 0], a[1, 1], b[0, 0], b[1, 1] = 2, 1, 3, 1
    factors, (low,) = lora.truncate({site.a: a, site.b: b}, [site], 1)
    product = low.scale * factors[site.b] @ factors[site.a]
    wanted = np.zeros((site.outputs, site.inputs))
    wanted[0, 0] = 18
    np.testing.assert_allclose(product, wanted, atol=1e-5)


def test_what_cannot_be_set_up_is_refused(model):
    for make, words in (
        (lambda: lora.lora_config(model.model, targets=["query"]),
         r"adapter.targets: no layer matches 'query'; .*down_proj.*q_proj"),
        (lambda: lora.lora_config(model.model, layers=[1, 9]),
         r"layers: \[9\] do not exist; this model has 0 to 3"),
        (lambda: setup(model, dim=200, samples=800), "dim 200 is more than the 128 weights"),
        (lambda: set_up_subspace(model, [], setup_of(dim=4)), "needs prompts"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            make()


@pytest.mark.full
def test_an_adapter_that_moves_nothing_is_an_error(model):
    config = lora.lora_config(model.model)
    dead = {}
    for s in find_sites(model.model, config):
        dead |= {s.a: np.zeros((1, s.inputs), np.float32)}
        dead |= {s.b: np.zeros((s.outputs, 1), np.float32)}
    with pytest.raises(RunError, match="scores span fewer than 4 directions"):
        setup(model, "features", lora=config, start=dead)


def make(kind: Any = "features", sampling: Sampling = SHORT) -> LoraPolicy:
    loaded = tiny_models.loaded("llama")
    space = setup(loaded, kind, dim=3, samples=96)
    return LoraPolicy(loaded, space, root_seed=1, sampling=sampling)


@pytest.fixture(scope="module")
def policy():
    return make()


def answer(*words: int, end: Any = "length") -> Answer:
    return Answer(" ".join(f"w{w}" for w in words), end, len(words))


ROWS = [
    (Row(ASKED[0], answer(40, 41), answer(60, end="stop")),
     Row(ASKED[1], answer(90, 91, 92), answer(17, 18))),
    (Row(ASKED[2], answer(33), answer(33)), Row(ASKED[0], answer(60, end="stop"), answer(70))),
    (Row(ASKED[3], answer(12, 13), Answer("", "length", 0)), Row(ASKED[4], answer(8), answer(9))),
    (Row(ASKED[5], answer(200), answer(201)), Row(ASKED[1], answer(17, 18), answer(99))),
]  # fmt: skip
STEP = [Comparison(f"c{i}", 0, i // 2, i % 2, rows) for i, rows in enumerate(ROWS)]


def logp(policy: LoraPolicy, prompt: Prompt, shown: Answer, z: np.ndarray) -> float:
    words = loading.answer_tokens(policy.loaded, shown)
    ids = torch.tensor([[*policy.encode(prompt), *words]])
    model = policy.loaded.model
    deltas = policy.deltas([{"z": z.astype(np.float32)}])
    with torch.no_grad(), attach_deltas(model, policy.subspace.sites, deltas):
        rows = model(ids).logits[0].double().log_softmax(-1)
    first = ids.shape[1] - len(words) - 1
    return sum(float(rows[first + t, word]) for t, word in enumerate(words))


@pytest.mark.full
def test_features_are_the_slopes_of_log_probabilities_in_z(policy):
    """Central differences of Σ log π(plus) − Σ log π(minus), over the rows of a comparison."""
    found = policy.score_features(STEP)
    assert found.shape == (2, 2, policy.dim)
    step = 0.02
    for comparison in STEP:
        slopes = []
        for unit in np.eye(policy.dim):
            sides = [
                sum(
                    logp(policy, row.prompt, row.plus, z) - logp(policy, row.prompt, row.minus, z)
                    for row in comparison.rows
                )
                for z in (step * unit, -step * unit)
            ]
            slopes.append((sides[0] - sides[1]) / (2 * step) / len(comparison.rows))
        np.testing.assert_allclose(found[comparison.k, comparison.n], slopes, rtol=0.02, atol=5e-3)


def test_features_depend_neither_on_order_nor_position_and_change_sign_with_the_sides(policy):
    found = policy.score_features(STEP)
    swapped = [
        Comparison(c.id, 0, c.k, c.n, tuple(Row(r.prompt, r.minus, r.plus) for r in c.rows))
        for c in reversed(STEP)
    ]
    np.testing.assert_allclose(policy.score_features(swapped), -found, atol=1e-5)
    policy.apply(Update(0, 0, vector=(0.5,) * policy.dim))
    np.testing.assert_array_equal(policy.score_features(STEP), found)
    policy.move_to(policy.start())


@pytest.mark.full
def test_what_has_no_scores_is_refused():
    full = make("full")
    with pytest.raises(UsageError, match=r"subspace\.kind full every weight is a coordinate"):
        full.score_features(STEP)
    with pytest.raises(UsageError, match="temperature 0 has no score"):
        make(sampling=Sampling(0.0, max_new_tokens=5)).score_features(STEP)
