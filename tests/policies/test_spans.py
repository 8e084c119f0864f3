"""How long the two parts of a guided direction are, on a model whose KL is a bowl."""

from types import SimpleNamespace

import numpy as np
import pytest

from szpo.models.sampling import Sampling
from szpo.policies import spans
from szpo.types import Theta

MU, SHARE = 0.1, 0.4


class Bowl:
    """KL is half the squared distance, so the Fisher matrix is that of products of proposals."""

    def __init__(self, present: Theta):
        self.present = present

    def start_samples(self, count):
        return count

    def read_moves(self, samples, members):
        apart = np.stack([self.away(each) for each in members])
        return np.stack([np.zeros(len(members)), *(apart @ apart.T)])[None]

    def kl(self, members, samples, name):
        return np.array([0.5 * (self.away(each) ** 2).sum() for each in members])

    def away(self, member):
        return (member["b"] - self.present["b"]).ravel().astype(np.float64)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_part_costs_its_share_whatever_the_number_of_proposals(number, monkeypatch):
    rng = np.random.default_rng(number)
    present, *proposals = (
        {"b": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(1 + number)
    )
    monkeypatch.setattr(spans.subspace_setup, "probe_of", lambda *given: Bowl(present))
    subspace = SimpleNamespace(sites=(), fixed={})
    found = spans.measure(
        None, subspace, present, proposals, (), Sampling(), mu=MU, share=SHARE, seed=0
    )
    flat = np.stack([each["b"].ravel() for each in proposals])
    # v = noise · n + Σ ε_i · (row i of the mixing in the proposals), n and ε standard normal
    inside = MU**2 / 2 * ((np.array(found.mixing) @ flat) ** 2).sum()
    assert inside == pytest.approx(SHARE * found.nats[0], rel=1e-3)
    assert found.noise**2 == pytest.approx(1 - SHARE)
