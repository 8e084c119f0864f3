"""Runs in coordinates with names: half of the rows are of perturbed policies from the first on."""

import itertools

import numpy as np
import pytest

from szpo.config.optimizer import make_settings
from szpo.optim import parameters
from szpo.optim.informative import NOISE
from szpo.replay import replay, verification
from szpo.runs import pair_choice
from tests.support import named_run
from tests.support.named_run import MARKS, MarkedPolicy
from tests.support.quadratic import go, new_ledger, panel_of

pytestmark = pytest.mark.full
ROWS = {"D": 1, "kl_radius": 2.0, "asking_noise": NOISE}


class AdaptedPolicy(MarkedPolicy):
    """Answers and nothing else: it has no gradients, and so no scores of texts."""

    score_features = None


def start(folder, name="run.db", **changes):
    return named_run.start(folder, name, features=named_run.with_names(), **{**ROWS, **changes})


def drive(settings, ledger, **how):
    panel = panel_of(ledger, judge=named_run.Likes("!", 1.5))
    return go(settings, ledger, AdaptedPolicy(settings), panel, **how)


def test_half_of_the_rows_are_of_perturbed_policies_and_both_kinds_teach(tmp_path):
    settings, ledger = start(tmp_path)
    with ledger:
        drive(settings, ledger, until_step=12, repeats=0.2)
        assert [row["pairing"] for row in ledger.steps()] == ["mixed"] * 12
        state = replay.replay_state(ledger, settings)
        moved = state.carried.votes.x[:, len(MARKS) :].reshape(12, settings.section.K, -1)
        for step, k in itertools.product(range(12), range(settings.section.K)):
            assert moved[step, k].any() == settings.perturbs(step, k) == ((step + k) % 2 == 0)
        rows = [row for step in range(12) for row in ledger.comparisons(step)]
        again = [row for row in rows if row.repeats is not None]
        assert again and not any(settings.perturbs(row.step, row.k) for row in again)
        pools = [event["body"]["pool"] for event in ledger.events("generated")]
        drawn = [len(each) for pool in pools for each in pool["candidates"] if each]
        assert {*drawn} == {pair_choice.ANSWERS}
        report = list(ledger.events("step"))[-1]["body"]["extra"]["findings"]
        assert report["taught"][0]["group"] == "more exclamations"
        nats = dict(report["mix"])
        assert nats["more exclamations"] == max(nats.values()) > 0.5
        assert verification.verify(ledger).ok


@pytest.mark.parametrize("lag", [0, 1])
def test_batches_are_all_of_perturbed_policies(tmp_path, lag):
    settings, ledger = start(tmp_path, D=3)
    with ledger:
        drive(settings, ledger, until_step=6, lag=lag)
        assert {row["pairing"] for row in ledger.steps()} == {"antithetic"}
        state = replay.replay_state(ledger, settings)
        assert state.carried.votes.x[:, len(MARKS) :].any(1).all()
        assert verification.verify(ledger).ok


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
@pytest.mark.parametrize("rule", ["known", "sign"])
def test_published_rules_move_by_a_seed_and_one_coefficient(tmp_path, rule, pairing):
    """K, N, M and D as in the lecture notes; the names change nothing for these rules."""
    settings = make_settings(
        7, (("z", (len(MARKS),)),), rule=rule, pairing=pairing, kl_radius=2.0, K=2, N=4, M=3, D=2
    )
    ledger = new_ledger(tmp_path / "run.db", settings)
    with ledger:
        drive(settings, ledger, until_step=5)
        updates = list(ledger.updates())
        assert len(updates) == 10 and all(each.vector is None for each in updates)
        theta = parameters.zeros(settings.layout)
        for each in updates:
            v = parameters.direction_vector(settings.space, each.step, each.k)
            theta = {"z": (theta["z"] + np.float32(each.coef) * v.astype(np.float32))}
        np.testing.assert_array_equal(theta["z"], replay.fold(ledger)["z"])
        assert verification.verify(ledger).ok
