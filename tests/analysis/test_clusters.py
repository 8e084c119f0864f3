"""One taste or several: what permuting panelists tells, the mixture, and the command."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from szpo import seeds
from szpo.analysis import taste_clusters
from szpo.analysis.named_votes import FeatureVotes
from szpo.analysis.taste_clusters import (
    Clusters,
    Mixture,
    find_clusters,
    fit_mixture,
    heterogeneity_p,
)
from szpo.cli import clusters
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.ledger.theta import append_adopted
from szpo.metrics import share
from szpo.optim.bradley_terry import fit_ridge
from szpo.optim.parameters import NO_COORDINATES
from szpo.types import Floats, Ints
from tests.support.quadratic import new_ledger, settings_of
from tests.support.tasting import Taster, voted

KEY = seeds.derive(3, "test")


def seeds_rng(seed: int) -> np.random.Generator:
    key = int.from_bytes(seeds.derive(seed, "test rng"), "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw_votes(seed: int, w: Floats, n: int) -> tuple[Floats, Floats]:
    """Votes (n,) on random differences by a voter with these weights."""
    rng = seeds_rng(seed)
    x = rng.normal(size=(n, len(w)))
    return x, (rng.random(n) < 1 / (1 + np.exp(-x @ w))).astype(float)


def who_of(n: int, groups: int) -> Ints:
    return np.arange(n) % groups


def test_shuffles_tell_two_tastes_from_one():
    likes = np.array([1.5, 0.0])
    x, y = draw_votes(8, likes, 200)
    who = who_of(200, 10)
    assert heterogeneity_p(x, y, who, KEY) > 0.05
    opposed = np.where(who < 5, y, 1 - y)
    assert heterogeneity_p(x, opposed, who, KEY) == 0.001  # none of 999 shuffles
    first, again = (heterogeneity_p(x, opposed, who, KEY) for _ in range(2))
    assert first == again
    assert np.isnan(heterogeneity_p(x, y, np.zeros(200, dtype=np.int64), KEY))


@pytest.mark.full
def test_shuffles_are_right_as_often_as_they_say():
    """Under one taste p-values are even: 60 worlds, below .25 in 15 ± 3.4 of them."""
    low = 0
    for seed in range(60):
        x, y = draw_votes(100 + seed, np.array([1.0, -1.0, 0.0]), 90)
        low += heterogeneity_p(x, y, who_of(90, 9), seeds.derive(seed, "t")) < 0.25
    assert 5 <= low <= 25


def panel(
    seed: int, likes: Callable[[int], tuple[float, ...]], groups: int, each: int
) -> tuple[Floats, Floats, Ints]:
    """Votes of panelists on questions that three of them meet; panelist g likes ``likes(g)``."""
    key = int.from_bytes(seeds.derive(seed, "test panel"), "little")
    rng = np.random.Generator(np.random.Philox(key=key))
    n = groups * each
    x = rng.normal(size=(-(-n // 3), 6))[np.arange(n) // 3]
    who = np.arange(n) % groups
    w = np.array([[*likes(g), 0.0, 0.0, 0.0, 0.0] for g in range(groups)])
    y = (rng.random(n) < 1 / (1 + np.exp(-(x * w[who]).sum(-1)))).astype(float)
    return x, y, who


def told(x: Floats, y: Floats, who: Ints) -> Clusters:
    names = [f"p{g:02d}" for g in who]
    comparisons = [str(i // 3) for i in range(len(y))]
    return find_clusters(FeatureVotes(x, y, names, comparisons), seed=4)


def opposed(g: int) -> tuple[float, ...]:
    return (0.8, 2.0 if g % 2 else -2.0)


@pytest.mark.full
def test_two_tastes_are_found_and_so_is_who_has_them():
    found = told(*panel(1, opposed, 10, 30))
    assert found.verdict == "several" and found.p < 0.01 and len(found.found.shares) == 2
    parity = [int(name[1:]) % 2 for name in found.names]
    members = found.found.members.tolist()
    assert members in (parity, [1 - one for one in parity])
    assert found.within.low > found.between.high
    assert found.cosines[0, 1] < 0
    assert found.gains[1] > found.gains[0]
    # What the fitted tastes expect is what left-out votes show, within their interval.
    assert found.within.low < found.expected.diagonal().mean() < found.within.high


@pytest.mark.full
def test_one_taste_is_called_one_where_two_would_have_been_seen_and_few_votes_few():
    found = told(*panel(2, lambda g: (1.5, 0.0), 10, 20))
    assert found.verdict == "one" and found.power >= 0.8
    assert len(found.found.shares) == 1 and found.between.of == 0
    found = told(*panel(3, opposed, 5, 3))
    assert found.verdict == "few" and found.power < 0.5


def test_two_votes_agree_within_clusters_that_were_found_without_them():
    # Two panelists in both comparisons, each in a part of its own; only without the first part's
    # votes are they of one cluster.
    y, who = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 1, 0, 1])
    comparison = fold = np.array([0, 0, 1, 1])
    members = [np.array([0, 0]), np.array([0, 1])]
    within, between = taste_clusters._agreement(y, who, comparison, fold, members)
    assert (within.hits, within.of, between.hits, between.of) == (1, 1, 0, 1)


def test_agreement_of_tastes_is_the_mean_over_those_that_differ(tmp_path, capsys, monkeypatch):
    none, one = share(0, 0), np.eye(3)
    found = Clusters(
        "several", 0.01, 0.9, 40, ("a", "b", "c"), (0.0, 0.1, 0.2), (0.0, 0.1, 0.1),
        Mixture(one, np.full(3, 1 / 3), one), none, none, 0.4 + 0.4 * one,
    )  # fmt: skip
    monkeypatch.setattr(clusters, "find_tastes", lambda ledger, chosen: (found, ["x", "y", "z"]))
    path = tmp_path / "run.db"
    new_ledger(path, settings_of()).close()
    assert call(["taste", str(path), "--several"]) == 0
    assert "by the fitted tastes: 80% within, 40% between" in capsys.readouterr().out


def test_one_panelist_has_no_clusters():
    x, y, who = panel(1, opposed, 1, 12)
    with pytest.raises(UsageError, match="one panelist only"):
        told(x, y, who)
    with pytest.raises(UsageError, match="no feature differs"):
        told(0 * x, y, np.arange(12) % 2)


def test_one_taste_is_the_ridge_fit():
    x, y, who = panel(7, opposed, 4, 25)
    found = fit_mixture(x, y, who, 5, 1, seeds.derive(0, "t"))
    assert found.weights[0] == pytest.approx(fit_ridge(x, y, 1.0).coef)
    assert found.posterior.tolist() == [[1.0]] * 5  # the fifth never voted


def test_what_votes_do_not_move_is_fitted_to_no_cluster(tmp_path, capsys):
    with new_ledger(tmp_path / "still.db", settings_of(layout=NO_COORDINATES)) as ledger:
        append_adopted(ledger, {"b": np.ones(1, np.float32)}, {"steps": 0})
    out = tmp_path / "out"
    assert call(["export", str(ledger.path), "--cluster", "1", "--out", str(out)]) == 2
    assert "votes of still move nothing but by szpo improve" in capsys.readouterr().err


@pytest.fixture(scope="module")
def clustered_run(tmp_path_factory):
    """A simulated run of eight voters: half of them like long notes, half short ones."""
    judges = [Taster(1.0, 4.0 if i % 2 else -4.0) for i in range(8)]
    return voted(tmp_path_factory.mktemp("clusters"), judges, 15, N=8, D=2, M=2)


@pytest.mark.full
def test_the_command_on_a_run_with_two_kinds_of_users(clustered_run, capsys):
    asked = ["taste", str(clustered_run), "--several", "--features", "sentiment,length,numbers"]
    assert call([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "several" and found["votes"] == 240
    kinds = [
        {int(m["panelist"].split("-")[1]) % 2 for m in one["members"]} for one in found["clusters"]
    ]
    assert sorted(map(tuple, kinds)) == [(0,), (1,)]
    lengths = {kinds[i].pop(): one["weights"]["length"] for i, one in enumerate(found["clusters"])}
    assert lengths[0] < 0 < lengths[1] and "numbers" not in found["clusters"][0]["weights"]
    assert found["within"]["low"] > found["between"]["high"]
    assert call(asked) == 0
    message = capsys.readouterr().out
    assert message.startswith("2 tastes: panelists differ (p = 0.001)")
    assert "agreement between clusters:" in message and "cluster 2: panel-" in message


@pytest.mark.full
def test_the_command_says_when_votes_are_too_few(tmp_path, capsys):
    path = voted(tmp_path, [Taster(1.0, 0.0)] * 5, 1, N=8, D=1, M=1)
    assert call(["taste", str(path), "--several", "--features", "sentiment,length"]) == 0
    assert capsys.readouterr().out.startswith("too few votes to tell: no sign that panelists")
