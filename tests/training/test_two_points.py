"""Runs of the rule `regression`: asked at one point, recommended another, both in the record."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.data.prompts import PromptSet
from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import recommended_digest, recommended_digests, theta_digest, theta_digests
from szpo.optim import parameters
from szpo.replay import replay, verification
from szpo.runs import services
from szpo.runs.samples import policy_at
from szpo.voting import applied_step
from szpo.voting.recorded_step import read_step
from szpo.voting.seats import planned_sides
from tests.support.quadratic import (
    LAYOUT,
    PROMPTS,
    Clock,
    MovingPolicy,
    QuadraticPolicy,
    drive,
    parts_of,
    started,
)
from tests.support.tampering import change_event, failure_of, rewrite


def kl(theta):
    return float((theta["z"].astype(float) ** 2).sum())


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    settings, ledger, policy = started(tmp_path_factory.mktemp("original"))
    with ledger:
        drive(settings, ledger, policy, until_step=5, measured_kl=kl)
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return ledger.path.read_bytes(), policy.theta_now


@pytest.fixture
def run(tmp_path, original):
    path, (content, theta) = tmp_path / "run.db", original
    path.write_bytes(content)
    with Ledger.open(path, clock=Clock(1_800_000_000_000_000)) as ledger:
        policy = MovingPolicy(recorded_settings(ledger))
        policy.move_to(theta)
        yield recorded_settings(ledger), ledger, policy


def test_a_step_records_the_recommended_point_and_the_centre(run):
    settings, ledger, policy = run
    rows = ledger.update_rows()
    assert [(row["step"], row["k"]) for row in rows] == [(s, k) for s in range(5) for k in (0, 1)]
    assert [row["n_votes"] for row in rows] == [8, 0] * 5
    assert {row["rule"] for row in rows} == {"regression"}
    asked, best = parameters.zeros(LAYOUT), parameters.zeros(LAYOUT)
    heads, found = [], []
    for update in ledger.updates():
        if update.k == 0:
            best = parameters.apply_update(settings.space, best, update)
            found.append(parameters.digest(best, LAYOUT))
        else:
            asked = parameters.apply_update(settings.space, asked, update)
            heads.append(parameters.digest(asked, LAYOUT))
    assert theta_digests(ledger)[1:] == heads
    assert recommended_digests(ledger)[1:] == found
    assert theta_digest(ledger) == heads[-1] == policy.digest()
    assert recommended_digest(ledger) == found[-1] and found != heads
    assert [row["head_sha256"] for row in ledger.steps()] == theta_digests(ledger)[:5]
    folded = replay.fold(ledger)
    assert folded["z"].tobytes() == best["z"].tobytes()
    assert [row.theta_sha256 for row in applied_step.read_reports(ledger)] == found
    # The centre follows by at most the step of the centre.
    moves = [np.linalg.norm(u.vector) for u in ledger.updates() if u.k == 1]
    assert 0.3 - 1e-6 < max(moves) < 0.3 + 1e-6
    report = verification.verify(ledger)
    assert report.ok, str(report)
    assert {step.promise for step in report.steps} == {"1e-9"}


def test_resuming_finds_both_points_and_replay_the_same_state(run):
    settings, ledger, policy = run
    at = services.resume(ledger, settings, policy)
    assert parameters.digest(at.centre, LAYOUT) == at.centre_sha256 == theta_digest(ledger)
    assert parameters.digest(at.theta, LAYOUT) == recommended_digest(ledger)
    assert at.votes == 40
    state = replay.replay_state(ledger, settings)
    assert state.carried.recommended.astype(np.float32).tobytes() == at.theta["z"].tobytes()
    assert state.carried.centre.astype(np.float32).tobytes() == at.centre["z"].tobytes()
    # From scratch as well: a policy at the start is brought to the centre.
    fresh = MovingPolicy(settings)
    services.resume(ledger, settings, fresh)
    assert fresh.digest() == theta_digest(ledger)


def test_what_is_shown_is_the_recommended_point(run):
    settings, ledger, policy = run
    parts = parts_of(settings, policy, PromptSet(PROMPTS, ()))
    with policy_at(ledger, parts, None) as shown:
        assert shown.digest() == recommended_digest(ledger)
    assert policy.digest() == theta_digest(ledger)
    with policy_at(ledger, parts, 2) as shown:
        assert shown.digest() == recommended_digests(ledger)[2]
    still = QuadraticPolicy(recorded_settings(ledger))  # cannot be moved: another is built
    for _, updates in replay.read_applied_updates(ledger, settings, point="centre"):
        for update in updates:
            still.apply(update)
    with policy_at(ledger, parts_of(settings, still, PromptSet(PROMPTS, ())), None) as shown:
        assert shown.digest() == recommended_digest(ledger)


def test_with_lag_a_step_is_asked_from_the_centre_before_the_last_one(tmp_path):
    settings, ledger, policy = started(tmp_path)
    with ledger:
        drive(settings, ledger, policy, until_step=4, lag=1, measured_kl=kl)
        heads = theta_digests(ledger)
        rows = [row["head_sha256"] for row in ledger.steps()][:4]
        assert rows == [heads[0], heads[0], heads[1], heads[2]]
        report = verification.verify(ledger)
        assert report.ok, str(report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda inputs: inputs.pop("centre"), "have no centre"),
        (lambda inputs: inputs["centre"].__setitem__(0, 0.25), "centre is not the head"),
        (lambda inputs: inputs.update(centre="here"), "are not"),
    ],
)
def test_forged_inputs_are_found_even_with_fitting_hashes(run, change, words):
    _, ledger, _ = run
    ledger.close()
    change_event(ledger.path, "generated", 4, change)
    rewrite(ledger.path)
    assert words in str(failure_of(ledger.path))


def test_plus_stands_on_a_in_half_of_the_counted_votes(tmp_path):
    settings, ledger, policy = started(tmp_path, M=1)
    with ledger:
        drive(settings, ledger, policy, until_step=6)
        for step in range(6):
            sides = ledger.query(
                "SELECT a.plus_side AS side, count(*) AS n FROM assignments a "
                "JOIN comparisons c USING (comparison) WHERE c.step = ? GROUP BY a.plus_side",
                (step,),
            )
            assert {row["side"]: row["n"] for row in sides} == {"A": 4, "B": 4}
    asked = [{"step": 1, "k": k, "n": 0, "comparison": f"c{k}"} for k in range(8)]
    by_step = planned_sides(3, asked, 3, "step")
    assert sum(side == "A" for sides in by_step.values() for side in sides) == 12
    old = planned_sides(3, asked, 1)  # a coin for each direction, as ever
    for each in asked:
        assert planned_sides(3, [each], 1) == {each["comparison"]: old[each["comparison"]]}


def test_sides_of_the_votes_reach_the_fit(tmp_path):
    settings, ledger, policy = started(tmp_path)
    with ledger:
        drive(settings, ledger, policy, until_step=2)
        sides = ledger.query(
            "SELECT c.k, a.plus_side AS side FROM assignments a JOIN comparisons c "
            "USING (comparison) WHERE c.step = 1 ORDER BY c.k"
        )
        found = replay.replay_state(ledger, settings).carried.votes.plus_on_a[8:]
        assert found.tolist() == [1.0 if row["side"] == "A" else -1.0 for row in sides]


def test_inputs_of_the_wrong_shape_are_refused(run):
    settings, ledger, _ = run
    recorded = read_step(ledger, 3)
    other = replace(recorded, texts={**recorded.texts, "generated": '{"centre": [0.0]}'})
    with pytest.raises(IntegrityError, match=r"step 3: the recorded centre are not \(4,\) finite"):
        other.inputs(ledger, settings)
    with pytest.raises(IntegrityError, match="step 9 is missing"):
        read_step(ledger, 9)
