"""A proposed point is measured, shrunk, and only then recorded: live, killed, replayed, forged."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import theta_digests
from szpo.optim import regression
from szpo.optim.kl_limits import (
    AIMED_SHARE,
    CLOSE_ENOUGH_SHARE,
    SHARE_PARTS,
    UNMOVED_SHARE,
    UNPROVEN,
)
from szpo.optim.rule import Perturbations
from szpo.replay import replay, verification
from szpo.voting import applied_step
from szpo.voting.recorded_step import read_step
from tests.support.quadratic import Clock, drive, kl, started
from tests.support.tampering import change_event, failure_of, rewrite

STEPS = 5
BUDGET = 2.0


def estimate(theta):
    return kl(theta) / 3


def begin(tmp_path, name="run.db", **changes):
    return started(tmp_path, name, **{"kl_budget": BUDGET, **changes})


def points(ledger):
    """Every recommended point, by step."""
    return [replay.fold(ledger, step + 1) for step in range(ledger.last_applied() + 1)]


def recorded(ledger, settings):
    steps = range(ledger.last_applied() + 1)
    return [read_step(ledger, step).inputs(ledger, settings).reach for step in steps]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    settings, ledger, policy = begin(tmp_path_factory.mktemp("original"))
    calls = []

    def measure(theta):
        calls.append(theta)
        return kl(theta)

    with ledger:
        drive(settings, ledger, policy, until_step=STEPS, measured_kl=measure)
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return ledger.path.read_bytes(), calls


@pytest.fixture
def run(tmp_path, original):
    path = tmp_path / "run.db"
    path.write_bytes(original[0])
    with Ledger.open(path, clock=Clock(1_800_000_000_000_000)) as ledger:
        yield recorded_settings(ledger), ledger


def test_the_jump_at_the_gate_is_measured_and_shrunk_before_it_is_recorded(run, tmp_path):
    settings, ledger = run
    noted = recorded(ledger, settings)
    nats = [kl(theta) for theta in points(ledger)]
    assert max(nats) <= BUDGET  # no point of the run was ever beyond it
    shut = [step for step, one in enumerate(noted) if one and one.limit < BUDGET]
    assert (
        len(shut) == 1 and max(nats[step] for step in shut) <= UNPROVEN / AIMED_SHARE
    )  # may be chance still: measured once
    shrunk = [(step, one) for step, one in enumerate(noted) if one and one.share < SHARE_PARTS]
    shrunk = [(step, one) for step, one in shrunk if step not in shut]
    assert shrunk
    step, first = shrunk[0]
    assert first.readings[0].kl > BUDGET  # the jump, as it would have been recorded
    assert first.readings[0].kl == pytest.approx(3 * first.readings[0].estimate, rel=1e-5)
    assert nats[step] == pytest.approx(first.nearest.kl, rel=1e-4)
    assert nats[step] == pytest.approx(0.9 * BUDGET, rel=0.02)  # KL is a square: aimed at exactly
    assert [row.kl for row in applied_step.read_reports(ledger)][step] == first.measured
    report = verification.verify(ledger)
    assert report.ok, str(report)


def test_what_hardly_moved_is_not_measured_again(run, original):
    settings, ledger = run
    noted, found = recorded(ledger, settings), points(ledger)
    assert len(original[1]) == sum(len(one.readings) for one in noted if one)
    last = None
    for theta, one in zip(found, noted, strict=True):
        place = theta["z"].astype(float)
        if one is not None:
            last = place * one.nearest.share / one.share
        elif last is not None:
            assert np.linalg.norm(place - last) <= UNMOVED_SHARE * np.linalg.norm(last) + 1e-6
    record = replay.replay_state(ledger, settings).carried
    read = record.reach.nearest
    there = read.share / SHARE_PARTS * record.proposed
    assert read.kl <= record.reach.limit
    assert not regression._needs_measuring(settings, record, there)
    assert regression._needs_measuring(settings, record, 1.5 * there)
    scale = record.kl_scale
    assert 2.5 < scale < 3  # the next ball follows the last reading


def test_a_point_near_one_that_was_read_beyond_its_budget_is_read_again(run):
    settings, ledger = run
    record = replay.replay_state(ledger, settings).carried
    read = record.reach.nearest
    there = read.share / SHARE_PARTS * record.proposed
    beyond = replace(record.reach, limit=0.9 * read.kl)

    def readings(reach):
        calls = []

        def measure(point):
            calls.append(point)
            return 0.5 * BUDGET

        at = Perturbations(STEPS, 1.0, None, np.zeros(0), lambda: None, measure_kl=measure)
        regression.limit_by_kl(settings, replace(record, reach=reach), at, there)
        return len(calls)

    assert (readings(record.reach), readings(beyond)) == (0, 1)


@pytest.mark.full
def test_an_estimate_is_scaled_as_at_the_last_point_that_was_measured(tmp_path):
    settings, ledger, policy = begin(tmp_path)
    with ledger:
        drive(settings, ledger, policy, until_step=20, kl=estimate, measured_kl=kl)
        noted, table = recorded(ledger, settings), applied_step.read_reports(ledger)
        near = [i for i, one in enumerate(noted) if one is None and any(noted[:i])]
        assert near
        for step in near:  # three times the estimate, but for `LEAST_KL`
            assert table[step].kl == pytest.approx(kl(points(ledger)[step]), rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda body: body["reach"].update(share=body["reach"]["share"] + 1),
            "share of the way is not the one",
        ),
        (lambda body: body["reach"].update(share=256), "share of the way is not the one"),
        (
            lambda body: body["reach"]["readings"][0].update(kl=9.0),
            "share of the way is not the one",
        ),
        (lambda body: body["reach"]["readings"].pop(), "share of the way is not the one"),
        (lambda body: body["reach"].update(limit=2.0001), "KL is of another point, or budget"),
        (lambda body: body["reach"]["readings"][0].update(estimate=0.5), "KL is of another point"),
        (lambda body: body["reach"].update(readings=[]), "measured of its point cannot be read"),
        (lambda body: body["reach"].update(share=121.5), "measured of its point cannot be read"),
        (lambda body: body["reach"].update(limit=0.0), "measured of its point cannot be read"),
        (lambda body: body["reach"]["readings"][0].update(kl=-1.0), "point cannot be read"),
        (lambda body: body["reach"]["readings"][-1].update(kl=1.5), "extra.kl_scale is not what"),
        (lambda body: body["reach"].clear(), "measured of its point cannot be read"),
        (lambda body: body.update(reach=None), "vector is not what the votes give"),
        (lambda body: body.update(kl=1.9), "kl is not what the votes"),
        (lambda body: body["delta"].reverse(), "delta.0 is not what the votes"),
        (lambda body: body["extra"]["findings"].update(chance=0.9), "findings.chance is not"),
        (lambda body: body["extra"].pop("findings"), "extra.findings is not"),
    ],
)
def test_a_forged_share_or_reading_is_found_even_with_fitting_hashes(run, change, words):
    settings, ledger = run
    noted = recorded(ledger, settings)
    step = next(
        i for i, one in enumerate(noted) if one and one.share < SHARE_PARTS and one.limit == BUDGET
    )
    ledger.close()
    change_event(ledger.path, "step", step, change)
    rewrite(ledger.path)
    assert words in str(failure_of(ledger.path))


def test_a_kl_that_is_no_number_ends_the_run_and_applies_nothing(tmp_path):
    settings, ledger, policy = begin(tmp_path)
    with ledger:
        with pytest.raises(RunError, match=r"measured KL 0 is nan; nothing was applied"):
            drive(settings, ledger, policy, until_step=STEPS, measured_kl=lambda theta: np.nan)
        done = ledger.last_applied()
        drive(settings, ledger, policy, until_step=STEPS, measured_kl=kl)
        assert (-1 if done is None else done) < ledger.last_applied()


def test_without_a_budget_nothing_is_measured(tmp_path):
    settings, ledger, policy = begin(tmp_path, kl_budget="off")
    with ledger:
        drive(settings, ledger, policy, until_step=2, measured_kl=lambda theta: 1 / 0)
        assert recorded(ledger, settings) == [None, None]


ONE_POINT = {"kl_budget": 0.5, "alpha": 2.0, "centre_step": 1.0}


def walk(tmp_path, rule, name="run.db", *, until=12):
    """A run of a rule with one point, whose long steps leave its budget soon."""
    settings, ledger, policy = begin(tmp_path, name, rule=rule, **ONE_POINT)
    drive(settings, ledger, policy, until_step=until, measured_kl=kl)
    return settings, ledger, policy


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_a_rule_with_one_point_is_drawn_back_to_its_budget_and_goes_on(tmp_path, rule):
    """Every second step is measured; the others are as long as they are without a budget."""
    settings, ledger, policy = walk(tmp_path, rule)
    with ledger:
        reaches = replay.read_reaches(ledger, settings)
        assert {*reaches} == {1, 3, 5, 7, 9, 11}
        found = [kl(theta) for theta in points(ledger)]
        assert max(found[step] for step in reaches) <= 0.5 < max(found)
        drawn = [step for step, reach in reaches.items() if reach.share < SHARE_PARTS]
        assert drawn and all(CLOSE_ENOUGH_SHARE * 0.5 < found[step] <= 0.5 for step in drawn)
        assert len({theta["z"].tobytes() for theta in points(ledger)}) == 12
        np.testing.assert_array_equal(policy.theta()["z"], points(ledger)[-1]["z"])
        report = verification.verify(ledger)
        assert report.ok, str(report)


def test_a_run_that_was_left_after_a_point_was_drawn_back_ends_the_same(tmp_path):
    whole = walk(tmp_path, "known")[1]
    settings, ledger, _ = walk(tmp_path, "known", "again.db", until=6)
    fresh = type(walk(tmp_path, "known", "other.db", until=1)[2])(settings)
    drive(settings, ledger, fresh, until_step=12, measured_kl=kl)
    assert theta_digests(ledger) == theta_digests(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda reach: reach.update(share=reach["share"] + 1), "share of the way is not the one"),
        (lambda reach: reach.update(limit=0.6), "share of the way is not the one"),
        (lambda reach: reach.update(limit=0.5001), "share of the way is not the one"),
        (lambda reach: reach["readings"][0].update(kl=0.1), "share of the way is not the one"),
    ],
)
def test_a_forged_share_of_a_rule_with_one_point_is_found(tmp_path, change, words):
    settings, ledger, _ = walk(tmp_path, "known")
    reaches = replay.read_reaches(ledger, settings)
    step = next(step for step, reach in reaches.items() if reach.share < SHARE_PARTS)
    ledger.close()
    change_event(ledger.path, "step", step, lambda body: change(body["reach"]))
    rewrite(ledger.path)
    assert words in str(failure_of(ledger.path))
