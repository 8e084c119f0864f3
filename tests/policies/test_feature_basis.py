"""Natural gradients of features: what they move, what they cost, and on whom they are judged."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.features import dictionary
from szpo.models import loading
from szpo.models.sampling import Sampling
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies import basis, subspace_setup
from szpo.policies.backend import LocalBackend
from szpo.policies.basis import Fisher, find_coordinates
from szpo.policies.probe import Probe
from szpo.types import Prompt
from tests.support import tiny_models
from tests.support.policies import set_up_subspace, setup_of

PROMPTS, EACH, WEIGHTS = 40, 60, 30


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of covariance diag(1, 2, …, 30), two features linear in them, one of noise alone."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(PROMPTS), EACH)
    scores = rng.standard_normal((len(groups), WEIGHTS)) * np.sqrt(1 + np.arange(WEIGHTS))
    other = rng.standard_normal((2, len(groups)))
    first = scores[:, 3] + other[0]  # variance 4 of 5
    second = scores[:, 3] + scores[:, 20] / 2
    offset = rng.standard_normal(PROMPTS)[groups] * 10  # of the prompt: not to be learned
    features = np.stack([first + offset, second, other[1], np.ones(len(groups))], axis=1)
    return scores.astype(np.float32), features, groups


def halves_of(scores: np.ndarray, features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Σ s φ of each half of the prompts, φ in spreads: credit of answers in one part."""
    nothing = np.zeros((0, *features.shape))
    credit = basis.assign_credit(features, nothing, groups, 1.0)[:, 0]
    half = basis.halve(groups)
    return np.stack([scores[half == i].T @ credit[half == i] for i in (0, 1)])


def find(scores, features, groups, ridge: float = 1e-6):
    halves = halves_of(scores, features, groups)
    return find_coordinates(scores, features, groups, halves, components=2, ridge=ridge)


@pytest.fixture(scope="module")
def found():
    return find(*draw())


def test_coordinates_are_whitened_and_their_map_says_what_features_do(found):
    scores, features, groups = draw()
    S = basis.centre(scores, groups) @ found.basis
    np.testing.assert_allclose(S.T @ S / len(S), np.eye(S.shape[1]), atol=1e-8)
    phi = basis.centre(features, groups)
    change = S.T @ phi / len(S) / np.where(found.spread > 0, found.spread, 1)
    np.testing.assert_allclose(found.map[:, :2], change[:, :2], atol=0.02)
    # Of noise, what the answers show of it by chance is not believed.
    believed, seen = (np.linalg.norm(each[:, 2]) for each in (found.map, change))
    assert believed == pytest.approx(0.05) and seen > 0.07


def test_a_natural_gradient_points_along_its_features_own_scores(found):
    # F = diag(1 … 30): F⁻¹ E[sφ] of the first feature is e₃, of the second e₃ + e₂₀/2.
    weights = found.basis @ found.map
    for column, wanted in ((0, {3: 1.0}), (1, {3: 1.0, 20: 0.5})):
        truth = np.zeros(WEIGHTS)
        truth[list(wanted)] = list(wanted.values())
        here = weights[:, column]
        metric = 1 + np.arange(WEIGHTS)
        cosine = (here * metric) @ truth / np.sqrt((here**2 @ metric) * (truth**2 @ metric))
        assert cosine > 0.98


def test_reach_is_the_share_that_scores_explain_of_prompts_not_used(found):
    assert found.reach[0] == pytest.approx(0.8, abs=0.05)  # 4 of 5, centred
    assert found.reach[1] == pytest.approx(1.0, abs=0.02)
    assert found.reach[2] < 0.02
    assert found.spread[3] == found.reach[3] == 0.0  # a constant has nothing to move
    assert not found.map[:, 3].any()


def test_leading_components_come_first():
    # With no feature that differs, the coordinates are the two widest scores over their widths.
    scores, features, groups = draw()
    scores[:, [28, 29]] *= (4, 8)
    found = find(scores, 0 * features, groups)
    assert found.basis.shape == (WEIGHTS, 2)
    assert np.abs(found.basis).argmax(0).tolist() == [29, 28]
    np.testing.assert_allclose(np.abs(found.basis).max(0), [30**-0.5 / 8, 29**-0.5 / 4], rtol=0.1)


def test_both_forms_of_the_fisher_matrix_agree():
    scores, features, groups = draw()
    S = basis.centre(scores[:25], groups[:25])  # fewer answers than weights
    few = Fisher(S, 1e-3)
    assert few.dual
    moment, lam = S.T @ S / len(S), 1e-3 * (S * S).sum(1).mean()
    slope = S.T @ basis.centre(features[:25], groups[:25]) / len(S)
    direct = np.linalg.solve(moment + lam * np.eye(WEIGHTS), slope)
    np.testing.assert_allclose(few.natural(slope), direct, atol=1e-9)
    leading = few.leading(3)
    np.testing.assert_allclose(leading.T @ moment @ leading, np.eye(3), atol=1e-9)


def test_the_order_of_the_answers_does_not_matter(found):
    scores, features, groups = draw()
    order = np.random.default_rng(1).permutation(len(groups))
    again = find(scores[order], features[order], groups[order])
    np.testing.assert_allclose(again.map, found.map, atol=1e-6)
    np.testing.assert_allclose(again.basis @ again.map, found.basis @ found.map, atol=1e-6)


def walk(seed: int, count: int = 3000, parts: int = 6) -> tuple[np.ndarray, ...]:
    """Part scores, a feature that grows by the first weight's score of each part, its course."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((count, parts, 3))
    course = np.cumsum(scores[:, :, 0] + rng.standard_normal((count, parts)), axis=1)
    return scores, course[:, -1:], course[:, :-1].T[..., None], np.zeros(count, dtype=int)


def test_credit_of_what_came_after_has_the_same_mean_and_less_noise():
    # E[s φ]/σ: each of 6 parts adds 1 along the first weight; σ² = 6 · 2.
    truth = np.array([6 / 12**0.5, 0.0, 0.0])
    errors = {"all": [], "after": [], "next": []}
    for seed in range(20):
        scores, final, begun, groups = walk(seed)
        for name, found in errors.items():
            seen = np.full_like(begun, np.nan) if name == "all" else begun
            credit = basis.assign_credit(final, seen, groups, float(name != "next"))
            found.append(np.einsum("npd,npk->dk", scores, credit)[:, 0] / len(scores) - truth)
    noise = {name: np.std(each) for name, each in errors.items()}
    assert all(np.abs(np.mean(each, axis=0)).max() < 0.03 for each in errors.values())
    # Of the variance of φ a half comes after a part on average, and a sixth in it.
    assert noise["next"] < 0.7 * noise["after"] < 0.7 * noise["all"]


def test_credit_of_an_answer_adds_up_to_its_difference_from_the_prompts_mean():
    _, final, begun, groups = walk(3, count=40)
    credit = basis.assign_credit(final, begun, groups, 0.0)[:, :, 0]
    wanted = (final - final.mean(0))[:, 0] / final.std()
    np.testing.assert_allclose(credit.sum(1), wanted, atol=1e-9)


SHORT = Sampling(max_new_tokens=6)
ASKED = [Prompt.user(f"w{7 + 3 * i} w{9 + i}") for i in range(24)]


@pytest.fixture(scope="module")
def space():
    setup = setup_of("features", dim=4, samples=384, sampling=SHORT)
    return set_up_subspace(tiny_models.loaded("llama"), ASKED, setup)


def test_a_models_features_have_names_scales_and_directions(space):
    features = space.features
    assert features.names == tuple(e.name for e in dictionary.holding(p.text for p in ASKED))
    assert features.map.shape == (space.dim, len(features.names))
    assert 4 < space.dim <= 4 + sum(scale > 0 for scale in features.scales)
    still = np.array(features.scales) == 0
    assert still.any() and not features.map[:, still].any()  # its words are no English ones
    assert features.map[:, ~still].any(0).all()


def test_answers_of_one_token_have_one_part():
    one = Sampling(max_new_tokens=1)
    setup = setup_of("features", dim=2, samples=96, sampling=one)
    found = set_up_subspace(tiny_models.loaded("llama"), ASKED, setup).features
    assert found is not None and found.map.any()


def test_a_step_along_a_feature_changes_it_and_costs_what_it_should(space):
    loaded, features = tiny_models.loaded("llama"), space.features
    place = features.names.index("variety")
    way = features.map[:, place] / np.linalg.norm(features.map[:, place])
    ids = tuple(loading.encode(loaded.tokenizer, p) for p in ASKED)
    whole = replace(space, kind="full", basis={})
    backend = LocalBackend(loaded).at(whole, Space(5, whole.layout, Law()))
    probe = Probe(backend, whole, ids, SHORT, 5)
    kl = probe.kl([space.weights({"z": way.astype(np.float32)})], 384, "test")
    assert kl.mean() == pytest.approx(0.5, abs=0.15)  # |z|²/2


def test_stored_coordinates_are_read_again_with_their_features(space, tmp_path):
    subspace_setup.write_subspace(space, tmp_path / "setup.npz")
    again = subspace_setup.read_subspace(tmp_path / "setup.npz")
    assert space.features is not None and again.features is not None
    assert again.features.facts() == space.features.facts()
    assert again.features.map.tobytes() == space.features.map.tobytes()
    assert again.basis_sha256 == space.basis_sha256
