"""Drawing a policy back until fresh answers keep its budget and guards."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.improvement.draw_back import MOST_DRAWN, draw_back


@dataclass(frozen=True)
class Told:
    nats: float
    stderr: float
    share: float
    guarded: bool = False


def drawn_back(
    costs: list[float], most: float, kept: float = 1.0, stderr: float = 0.0
) -> tuple[Told, list[float]]:
    """Where it ends, and the shares at which it was read; the whole way costs ``costs[number]``.

    ``kept``: the share from which a guard breaks.
    """
    shares: list[float] = []

    def read(share: float, number: int) -> Told:
        shares.append(share)
        return Told(costs[number] * share**2, stderr, share)

    def guard(found: Told) -> tuple[Told, bool]:
        return Told(found.nats, found.stderr, found.share, guarded=True), found.share <= kept

    return draw_back(read, guard, most), shares


def test_a_policy_within_its_budget_stays_where_it_is():
    assert drawn_back([3.0], 3.0) == (Told(3.0, 0.0, 1.0, True), [1.0])


def test_it_goes_back_as_far_as_answers_tell_it_beyond_the_budget_and_an_error_farther():
    found, shares = drawn_back([4.0, 4.0], 2.0, stderr=1.0)
    assert shares == [1.0, math.sqrt(2 / 5)] and found.nats == pytest.approx(8 / 5)
    assert found.guarded


def test_answers_that_tell_it_farther_again_draw_it_back_again():
    _, shares = drawn_back([4.0, 9.0, 6.0], 1.0)
    assert shares == pytest.approx([1.0, math.sqrt(1 / 4), math.sqrt(1 / 4 * 4 / 9)])


def test_a_guard_that_breaks_halves_the_nats_a_few_times():
    found, shares = drawn_back([1.0] * 9, 2.0, kept=0.6)
    assert shares == pytest.approx([1.0, math.sqrt(0.5), 0.5]) and found.guarded
    _, shares = drawn_back([1.0] * 9, 2.0, kept=0.0)
    assert len(shares) == 1 + MOST_DRAWN


@given(st.floats(0.01, 100), st.floats(0.05, 20), st.floats(0, 10))
def test_what_two_readings_tell_alike_ends_within_the_budget(cost, most, stderr):
    found, shares = drawn_back([cost, cost * 0.99, 0.0], most, stderr=stderr)
    assert found.nats <= most and len(shares) <= 2
