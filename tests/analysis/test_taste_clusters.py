"""Clusters of panelists: found where there are some, not found where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from szpo import seeds
from szpo.analysis.feature_weights import FeatureVotes
from szpo.analysis.taste_clusters import Clusters, find_clusters, fit_mixture
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.types import Floats, Ints
from tests.support.tasting import Taster, voted


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
def test_one_taste_is_called_one_where_two_would_have_been_seen():
    found = told(*panel(2, lambda g: (1.5, 0.0), 10, 20))
    assert found.verdict == "one" and found.power >= 0.8
    assert len(found.found.shares) == 1 and found.between.of == 0


@pytest.mark.full
def test_few_votes_are_called_few():
    found = told(*panel(3, opposed, 5, 3))
    assert found.verdict == "few" and found.power < 0.5


def test_one_panelist_has_no_clusters():
    x, y, who = panel(1, opposed, 1, 12)
    with pytest.raises(UsageError, match="one panelist only"):
        told(x, y, who)
    with pytest.raises(UsageError, match="no feature differs"):
        told(0 * x, y, np.arange(12) % 2)


def test_expectation_maximisation_never_falls(monkeypatch):
    from szpo.analysis import taste_clusters as module

    x, y, who = panel(6, opposed, 8, 20)
    bounds = []
    for rounds in (1, 2, 4, 8, 30):
        monkeypatch.setattr(module, "ROUNDS", rounds)
        monkeypatch.setattr(module, "STARTS", 1)
        bounds.append(fit_mixture(x, y, who, 8, 2, seeds.derive(0, "t")).bound)
    assert np.diff(bounds).min() >= -1e-9, "sums of logarithms round in the last places"


def test_one_taste_is_the_ridge_fit():
    from szpo.aggregation.bradley_terry import newton

    x, y, who = panel(7, opposed, 4, 25)
    found = fit_mixture(x, y, who, 5, 1, seeds.derive(0, "t"))
    assert found.weights[0] == pytest.approx(newton(x, y, ridge=1.0).weights)
    assert found.posterior.tolist() == [[1.0]] * 5  # the fifth never voted


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A simulated run of eight voters: half of them like long notes, half short ones."""
    judges = [Taster(1.0, 4.0 if i % 2 else -4.0) for i in range(8)]
    return voted(tmp_path_factory.mktemp("clusters"), judges, 15, N=8, D=2, M=2)


@pytest.mark.full
def test_the_command_on_a_run_with_two_kinds_of_users(run, capsys):
    asked = ["clusters", str(run), "--features", "sentiment,length,numbers"]
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
    assert call(["clusters", str(path), "--features", "sentiment,length"]) == 0
    assert capsys.readouterr().out.startswith("too few votes to tell: no sign that panelists")
