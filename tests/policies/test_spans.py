"""How long the two parts of a guided direction are, on a model whose KL is a bowl."""

from types import SimpleNamespace

import numpy as np
import pytest

from szpo.errors import RunError
from szpo.models.sampling import Sampling
from szpo.optim import parameters, sample_directions
from szpo.policies import span_measurement
from szpo.types import Theta

MU, SHARE = 0.1, 0.4


class Bowl:
    """KL is half the squared distance, so the Fisher matrix is that of products of proposals."""

    def __init__(self, present: Theta, steeper: float = 1.0):
        self.present, self.steeper, self.names, self.first = present, steeper, [], None

    def start_samples(self, count):
        self.names.append(count)
        return count

    def read_moves(self, samples, members):
        apart = np.stack([self.away(each) for each in members])
        return np.stack([np.zeros(len(members)), *(apart @ apart.T)])[None]

    def kl(self, members, samples, name):
        self.names.append((name, len(members), samples))
        self.first = self.first or members
        for one, other in zip(members[::2], members[1::2], strict=True):  # either way
            np.testing.assert_allclose(self.away(one), -self.away(other), atol=1e-5)
        found = np.array([0.5 * (self.away(each) ** 2).sum() for each in members])
        return found * (self.steeper if name.startswith("span") else 1.0)

    def away(self, member):
        return (member["b"] - self.present["b"]).ravel().astype(np.float64)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_part_costs_its_share_whatever_the_number_of_proposals(number, monkeypatch):
    rng = np.random.default_rng(number)
    present, *proposals = (
        {"b": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(1 + number)
    )
    monkeypatch.setattr(span_measurement.subspace_setup, "probe_of", lambda *given: Bowl(present))
    subspace = SimpleNamespace(sites=(), fixed={})
    found = span_measurement.measure(
        None, subspace, present, proposals, (), Sampling(), mu=MU, share=SHARE, seed=0
    )
    flat = np.stack([each["b"].ravel() for each in proposals])
    # v = noise · n + Σ ε_i · (row i of the mixing in the proposals), n and ε standard normal
    inside = MU**2 / 2 * ((np.array(found.mixing) @ flat) ** 2).sum()
    assert inside == pytest.approx(SHARE * found.nats[0], rel=1e-3)
    assert found.noise**2 == pytest.approx(1 - SHARE)


def measure(bowl, proposals, monkeypatch, share=SHARE):
    """The span of a bowl's proposals; the metric knows nothing of how steep it is."""
    given = []
    monkeypatch.setattr(
        span_measurement.subspace_setup, "probe_of", lambda *of: given.append(of) or bowl
    )
    subspace = SimpleNamespace(sites=("site",), fixed={"a": 1})
    found = span_measurement.measure(
        "host", subspace, bowl.present, proposals, ("asked",), Sampling(), mu=MU, share=share,
        seed=3,
    )  # fmt: skip
    ((host, here, prompts, sampling, seed, _),) = given
    assert (host, prompts, sampling, seed) == ("host", ("asked",), Sampling(), 3)
    assert (here.sites, here.fixed, here.start is bowl.present) == (("site",), {"a": 1}, True)
    return found


def test_a_span_is_shortened_until_it_costs_what_the_gaussian_part_costs(monkeypatch):
    """KL four times what the metric says: a length halves where it goes by half the logarithm."""
    rng = np.random.default_rng(5)
    present, one = ({"b": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(2))
    bowl = Bowl(present, steeper=4.0)
    found = measure(bowl, [one], monkeypatch)
    assert found.nats[1] == pytest.approx(found.nats[0], rel=1e-5)
    # Two policies either way along twelve ways, once for noise and twice for the span.
    assert bowl.names == [32, *((name, 24, 1) for name in ("noise", "span 0", "span 1"))]
    assert found.answers == 32 + 3 * 24
    space = parameters.Space(3, (("b", (6, 8)),), sample_directions.Law())
    for k in (0, 11):
        noise = present["b"] + MU * parameters.direction(space, 0, k)["b"]
        np.testing.assert_allclose(bowl.first[2 * k]["b"], noise, rtol=1e-5)
    even = measure(Bowl(present), [one], monkeypatch)
    np.testing.assert_allclose(np.array(even.mixing) / 2, found.mixing, rtol=1e-5)
    twice = measure(Bowl(present), [one, one], monkeypatch)  # one dimension, of both alike
    np.testing.assert_allclose(twice.mixing, [[even.mixing[0][0] / 2] * 2], rtol=1e-5)
    back = {"b": -one["b"]}
    np.testing.assert_allclose(
        measure(Bowl(present), [back], monkeypatch).mixing, -np.array(even.mixing), rtol=1e-6
    )


def test_proposals_that_move_no_text_or_too_far_make_no_span(monkeypatch):
    present = {"b": np.zeros((6, 8), np.float32)}
    assert measure(Bowl(present), [present], monkeypatch) is None
    one = {"b": np.ones((6, 8), np.float32)}
    # Lengthened by e in each of three passes, √.9 e³ = 19 is too long, and √.4 e³ is not.
    for share, found in ((0.9, False), (0.4, True)):
        made = measure(Bowl(present, steeper=1e-9), [one], monkeypatch, share)
        assert (made is not None) == found
    with pytest.raises(RunError, match="KL of a guided direction's span 0 is nan"):
        measure(Bowl(present, steeper=np.nan), [one], monkeypatch)
