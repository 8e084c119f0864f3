"""Rounds that record plans, pools or measured points: by the seed alone, and as often killed."""

import itertools

import pytest

from szpo.failpoints import InjectedError, arm
from szpo.optim.informative import NOISE
from szpo.replay import verification
from szpo.runs import pair_choice
from tests.support import named_run, quadratic
from tests.support.quadratic import ValueJudge, go, history, kl, panel_of
from tests.support.tampering import change_event, failure_of, rewrite

pytestmark = pytest.mark.full
POOL = {"D": 1, "asking_noise": None}
KINDS = {
    "asked directions": {},
    "pairs of a pool": POOL,
    "pairs of two policies": {
        **POOL, "asking_noise": NOISE, "kl_radius": 2.0, "features": named_run.with_names(),
    },
    "measured points": None,
}  # fmt: skip
STEPS = 3


def begin(kind, folder, name, seed=7):
    """A new run and a function that drives it, each time by a policy at its start."""
    if KINDS[kind] is None:
        settings, ledger, policy = quadratic.started(folder, name, kl_budget=2.0, root_seed=seed)
        make, how = type(policy), {"measured_kl": kl}
    else:
        settings, ledger = named_run.start(folder, name, root_seed=seed, **KINDS[kind])
        make, how = named_run.MarkedPolicy, {}

    def drive(until_step=STEPS, lag=0):
        judge = ValueJudge(20.0) if how else named_run.Likes("!", 1.5)
        panel = panel_of(ledger, judge=judge)
        go(settings, ledger, make(settings), panel, until_step=until_step, lag=lag, **how)

    return ledger, drive


def noted(ledger):
    """What the rounds recorded beside their votes and weights."""
    bodies = {kind: [event["body"] for event in ledger.events(kind)]
              for kind in ("asked", "generated", "step")}  # fmt: skip
    pools, reaches = ([body.get(name) for body in bodies[kind]]
                      for kind, name in (("generated", "pool"), ("step", "reach")))  # fmt: skip
    return bodies["asked"], pools, reaches


@pytest.mark.parametrize(
    ("kind", "lag"),
    [*((kind, 0) for kind in KINDS), ("asked directions", 1), ("measured points", 1)],
)
def test_a_run_killed_at_every_place_of_its_rounds_is_the_undisturbed_one(tmp_path, kind, lag):
    found = []
    for name, seed in (("whole.db", 7), ("other.db", 8), ("killed.db", 7)):
        ledger, drive = begin(kind, tmp_path, name, seed)
        with ledger:
            met = set()
            for place in itertools.cycle(("cp2", "cp3", "cp4", "cp9", "cp10", "cp11")):
                if name != "killed.db":
                    break
                try:
                    with arm(f"{place}:raise@1"):
                        drive(lag=lag)
                except InjectedError:
                    met.add(place)
                else:
                    assert len(met) == 6
                    break
            drive(lag=lag)
            found.append((history(ledger), noted(ledger)))
            report = verification.verify(ledger)
            assert report.ok, str(report)
    assert found[0] == found[2] and found[0][0] != found[1][0]
    (_, (asked, pools, reaches)), *_ = found
    assert any({"asked directions": asked, "measured points": reaches}.get(kind, pools))


@pytest.mark.parametrize(("kind", "row"), [("pairs of a pool", 1), ("pairs of two policies", 0)])
def test_an_answer_that_was_no_candidate_does_not_verify(tmp_path, kind, row):
    ledger, drive = begin(kind, tmp_path, "run.db")
    with ledger:
        drive(2)

    def spoil(body):
        body["pool"]["candidates"][row] = ["0" * 16] * pair_choice.ANSWERS

    change_event(ledger.path, "generated", 0, spoil)
    rewrite(ledger.path)
    assert "was no candidate" in str(failure_of(ledger.path))
