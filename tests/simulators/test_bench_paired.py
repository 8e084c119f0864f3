"""The benchmark's parts on a tiny model: figures that are of the right kind, never of a size."""

from __future__ import annotations

import pytest

from szpo_simulators.bench.language import paired
from szpo_simulators.bench.language.paired import Case
from tests.support.tiny_models import loaded

CASE = Case("tiny", 2, ("q_proj",))


def test_a_case_is_measured_with_and_without_deltas() -> None:
    found = paired.measure(loaded("llama"), CASE, rows=4, tokens=3, repeats=3)
    for name in ("ratio", "without", "with", "step"):
        middle, low, high = found[name]
        assert 0 < low <= middle <= high


def test_runs_alternate_forwards_and_backwards() -> None:
    order: list[str] = []
    times = paired.alternate(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3
    )
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]  # one round does not count
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}


def test_a_whole_step_is_split_into_generation_and_the_rest() -> None:
    shares = paired.measure_step_shares(loaded("llama"), CASE, rows=16, tokens=2, steps=2)
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


@pytest.mark.parametrize(("n", "cut"), [(7, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_covers_the_median_in_95_of_100_cases(n: int, cut: int) -> None:
    # P(x₍ₖ₊₁₎ < median < x₍ₙ₋ₖ₎) = 1 − 2 P(Bin(n, ½) ≤ k), at least .95 for the k taken.
    middle, low, high = paired.median_interval(list(range(n)))
    assert (low, high) == (cut, n - 1 - cut)
    assert middle == (n - 1) / 2
