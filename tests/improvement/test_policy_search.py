"""Two policies that score alike are read by more answers before one is taken."""

from types import SimpleNamespace

import numpy as np
import pytest

from szpo.improvement import policy_search
from szpo.improvement.policy_search import COMPARED, MOST_READ, Search
from szpo.improvement.score_ascent import Checked
from szpo.policies.text_guards import TextFigures

FIGURES = TextFigures(-1.0, 0.9, 20.0)


def read(scores, nats=1.0):
    error = float(np.std(scores) / np.sqrt(len(scores)))
    return Checked(float(np.mean(scores)), nats, 0.1, FIGURES, len(scores), error)


def policy(score):
    return {"z": np.float32([score])}


def searching(seed):
    """A search whose policies answer with scores of spread 1 around what they are worth."""
    rng, told = np.random.default_rng(seed), []

    def measure(theta, what, seed):
        told.append(seed)
        found.read.append(read(theta["z"] + rng.normal(size=COMPARED), nats=9.0))
        return found.read[-1]

    found = SimpleNamespace(fresh=seed, read=[], measure=measure, told=told)
    return found


def tell_apart(search, one, other, *scores):
    return Search.tell_apart(search, policy(one), read(scores[0]), policy(other), read(scores[1]))


def test_what_is_told_apart_by_the_first_answers_is_not_read_again():
    search = searching(0)
    clear = np.tile([0.0, 1.0], 32), np.tile([1.0, 2.0], 32)
    assert tell_apart(search, 0.5, 1.5, *clear) == (read(clear[0]), read(clear[1]))
    assert not search.told


def test_two_that_score_alike_are_read_anew_by_the_same_seeds_at_most_three_times():
    search = searching(1)
    same = np.tile([0.0, 1.0], 32)
    one, other = tell_apart(search, 0.5, 0.5, same, same)
    times = 1 + len(search.told) // 2
    assert 1 < times <= MOST_READ and len({*search.told}) == times - 1
    assert search.told[::2] == search.told[1::2]
    for found, again in ((one, search.read[::2]), (other, search.read[1::2])):
        assert found.answers == times * COMPARED and found.nats == 1.0
        every = [0.5, *(each.score for each in again)]
        assert found.score == pytest.approx(np.mean(every))
        errors = [read(same).score_stderr, *(each.score_stderr for each in again)]
        assert found.score_stderr == pytest.approx(np.hypot.reduce(errors) / times)


def test_more_answers_more_often_find_the_better_one():
    """.35 apart, spread 1: 64 answers find it with probability Φ(.35 · √32) = .976, 192 .9997."""
    rng, right, first = np.random.default_rng(2), 0, 0
    for seed in range(400):
        search = searching(seed)
        drawn = rng.normal(size=COMPARED), 0.35 + rng.normal(size=COMPARED)
        one, other = tell_apart(search, 0.0, 0.35, *drawn)
        right += other.score > one.score
        first += drawn[1].mean() > drawn[0].mean()
    assert right > first and right >= 395


def test_policies_whose_answers_all_score_the_same_need_no_second_look():
    search = searching(3)
    tell_apart(search, 0.0, 0.0, np.zeros(COMPARED), np.zeros(COMPARED))
    assert not search.told and policy_search.MOST_READ == 3
