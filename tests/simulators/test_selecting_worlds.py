"""Many selecting and stopping runs at once: the same alone and in company, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.optim.settings import Selection
from szpo_simulators.worlds import choosing, repetitions
from szpo_simulators.worlds.gridworld import GridWorld

SMALL = GridWorld(size=3, horizon=4)


def settings_of(rule: str = "known", **changes: Any) -> Any:
    return repetitions.settings_for(SMALL, rule=rule, alpha=1.0, **{"N": 8, **changes})


@pytest.mark.parametrize("rule", ["sign", "known"])
def test_a_repetition_alone_is_the_same_in_company(rule: str) -> None:
    chosen = settings_of(rule, selection=Selection(16, "words"))
    whole = choosing.train(SMALL, chosen, [5, 6, 7], 4)
    alone = choosing.train(SMALL, chosen, [6], 4)
    assert whole.curve[1] == pytest.approx(alone.curve[0], rel=1e-6)
    assert (whole.spent[1] == alone.spent[0]).all()


@pytest.mark.parametrize("rule", ["sign", "known"])
def test_all_of_n_candidates_is_no_selection(rule: str) -> None:
    plain = choosing.train(SMALL, settings_of(rule), [1, 2], 3)
    every = choosing.train(
        SMALL, settings_of(rule, selection=Selection(8, "uniform", 1.0)), [1, 2], 3
    )
    assert every.curve == pytest.approx(plain.curve, rel=1e-6)
    assert (every.spent == plain.spent).all()


def test_without_identical_walks_it_is_the_ordinary_loop() -> None:
    """A long way apart walks differ, and votes are those of `many.train` bit for bit."""
    chosen = settings_of("known", mu=6.0, N=4)
    found = choosing.train(SMALL, chosen, [3, 4], 1)
    ordinary = repetitions.train(SMALL, chosen, [3, 4], 1)
    same = found.spent[:, 0] == 4
    assert same.any()
    assert (found.curve[same, 0] == ordinary.curve[same, 0]).all()


def test_identical_walks_cost_no_vote() -> None:
    near = choosing.train(SMALL, settings_of("known", mu=0.01), [1, 2, 3], 2)
    assert near.spent[:, -1].max() < 16


def test_a_price_spends_fewer_votes() -> None:
    cheap, dear = (
        choosing.train(SMALL, settings_of(vote_price=price), [1, 2], 3).spent
        for price in (1e-9, 10.0)
    )
    free = choosing.train(SMALL, settings_of(), [1, 2], 3).spent
    assert (cheap == free).all()
    assert (dear <= choosing.PORTION * np.arange(1, 4)).all() and (dear <= free).all()
    assert dear.sum() < free.sum()


def test_content_of_walks_by_hand() -> None:
    plus = np.array([[[0, 1, 2], [0, 1, 0], [0, 1, 1]]])
    minus = np.array([[[0, 1, 2], [0, 0, 1], [0, 3, 4]]])
    assert choosing.content(plus, minus, "rows").tolist() == [[0, 1, 1]]
    assert choosing.content(plus, minus, "words").tolist() == [[0, 0.5, 3 / 4]]


def test_a_prior_is_used() -> None:
    mean = tuple(np.linspace(-5, 5, SMALL.dim).tolist())
    firm = tuple(map(tuple, (1e6 * np.eye(SMALL.dim)).tolist()))
    plain, drawn, held = (
        choosing.train(SMALL, settings_of(**prior), [1, 2], 2).curve
        for prior in ({}, {"prior_mean": mean}, {"prior_mean": mean, "prior_precision": firm})
    )
    assert not np.isclose(plain, drawn).any() and not np.isclose(drawn, held).any()
    assert held[0] == pytest.approx(
        held[1], rel=1e-3
    )  # sure of the prior, it goes its way whatever the votes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": "known", "ties": "davidson"}, "ties davidson"),
        ({"steering": (1.0, 2.0)}, "no steering"),
        ({"rule": "sign", "alpha": None, "warmup": 0}, "needs alpha"),
    ],
)
def test_what_a_world_cannot_run_is_refused(changes: dict[str, Any], words: str) -> None:
    chosen = repetitions.settings_for(SMALL, **{"rule": "known", "N": 8, "alpha": 0.5, **changes})
    with pytest.raises(UsageError, match=words):
        choosing.train(SMALL, chosen, [1], 1)


def test_several_directions_are_refused() -> None:
    with pytest.raises(UsageError, match="one direction"):
        choosing.train(SMALL, settings_of("known", K=2), [1], 1)
