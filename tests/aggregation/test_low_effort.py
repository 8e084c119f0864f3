"""Signs of low effort: whom they meet, and whom they must not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from szpo.aggregation.low_effort import (
    Conduct,
    Flag,
    Usual,
    at_random,
    flags,
    longest_run,
    soonest_ms,
)
from szpo_simulators.bench.voters.hostile import KINDS, USUAL, simulate_conduct
from tests.support.cases import case


def codes(found):
    return [flag.code for flag in found]


def test_nothing_is_odd_about_somebody_of_whom_nothing_is_known():
    assert flags(Conduct()) == ()


def test_each_sign_has_an_edge():
    cases = [
        (Conduct(fast=(5, 40)), Conduct(fast=(2, 10)), "fast"),
        (Conduct(left=(11, 11)), Conduct(left=(10, 10)), "side"),
        (Conduct(left=(0, 11)), Conduct(left=(13, 20)), "side"),
        (Conduct(run=14, left=(20, 40)), Conduct(run=13, left=(20, 40)), "run"),
        (Conduct(gold=(3, 6)), Conduct(gold=(4, 6)), "gold"),
        (Conduct(gold=(3, 6)), Conduct(gold=(2, 5)), "gold"),
        (Conduct(rest=(8, 30)), Conduct(rest=(9, 30)), "rest"),
        (Conduct(rest=(8, 30)), Conduct(rest=(3, 29)), "rest"),
        (Conduct(skim=(4, 6)), Conduct(skim=(3, 6)), "skim"),
        (Conduct(skim=(4, 6)), Conduct(skim=(5, 5)), "skim"),
        (Conduct(repeat=(1, 6)), Conduct(repeat=(2, 6)), "repeat"),
        (Conduct(repeat=(0, 5)), Conduct(repeat=(0, 4)), "repeat"),
        (Conduct(skips=(4, 12)), Conduct(skips=(3, 12)), "skips"),
        (Conduct(skips=(4, 12)), Conduct(skips=(11, 11)), "skips"),
        (Conduct(gold=(1, 3)), Conduct(gold=(2, 3)), "random"),
    ]
    for odd, fine, code in cases:
        with case(odd, fine, code):
            usual = Usual(gold=0.97)
            assert code in codes(
                flags(odd, usual) if code != "random" else flags(Conduct(gold=(1, 4)))
            )
            assert code not in codes(flags(fine, usual))


def test_a_run_is_longer_by_chance_in_a_longer_record():
    assert "run" in codes(flags(Conduct(run=15, left=(50, 100))))
    assert "run" not in codes(flags(Conduct(run=15, left=(500, 1000))))


def test_a_flag_says_what_was_counted():
    assert flags(Conduct(left=(30, 32))) == (
        Flag("side", "chose the left side in 30 of 32 answers"),
    )


def test_time_is_judged_by_the_words_shown():
    assert soonest_ms(0) == 700
    assert soonest_ms(200) == 3000
    assert longest_run("AABBBBA") == 4


@given(st.integers(0, 12), st.integers(0, 20), st.integers(0, 60))
def test_a_right_answer_never_speaks_for_chance(gold, repeat, rest):
    usual = Usual(gold=0.95, repeat=0.8, rest=0.6)
    before = Conduct(gold=(gold, 12), repeat=(repeat, 20), rest=(rest, 60))
    for more in (
        Conduct(gold=(gold + 1, 13), repeat=(repeat, 20), rest=(rest, 60)),
        Conduct(gold=(gold, 12), repeat=(repeat + 1, 21), rest=(rest, 60)),
        Conduct(gold=(gold, 12), repeat=(repeat, 20), rest=(rest + 1, 61)),
    ):
        assert at_random(more, usual) < at_random(before, usual)


def test_where_the_panel_is_unknown_the_others_votes_say_nothing():
    assert at_random(Conduct(rest=(3, 40), repeat=(0, 5))) == 0


@pytest.mark.parametrize(
    ("name", "honest"),
    # A vote under a quarter of the reading time: who reads as in the bench, 120 ms a word and
    # log-normal with σ ½, gives it in Φ((ln 63 − ln 120)/½). The others are taken for granted.
    [("gold", 0.95), ("repeat", 0.8), ("skips", 0.05), ("skim", 0.099)],
)
def test_a_flag_meets_fewer_than_one_honest_panelist_in_a_hundred(name, honest):
    """Exactly, by the binomial distribution, after any number of answers up to eighty."""
    for n in range(1, 81):
        met = [k for k in range(n + 1) if name in codes(flags(Conduct(**{name: (k, n)})))]
        assert binom.pmf(met, n, honest).sum() < 0.01, n


def share(kind, votes, known, people=1500):
    draw = np.random.default_rng(KINDS.index(kind))
    return np.mean(
        [bool(flags(simulate_conduct(kind, votes, known, draw), USUAL)) for _ in range(people)]
    )


@pytest.mark.parametrize(("votes", "known"), [(40, 2), (40, 10), (400, 40)])
def test_honest_panelists_are_hardly_ever_flagged(votes, known):
    assert share("honest", votes, known) <= 0.01


def test_haste_and_one_side_are_always_seen_by_forty_votes():
    assert share("hasty clicker", 40, 4) >= 0.95
    assert share("one side", 40, 4) >= 0.95


@pytest.mark.full
def test_a_patient_clicker_needs_known_questions_or_time():
    """Only known answers separate chance from taste: not at 40 votes with few of them."""
    few, many, long = (
        share("patient clicker", votes, known) for votes, known in ((40, 2), (40, 10), (400, 40))
    )
    assert few < 0.5 < many < 0.95 < long
