"""Directions drawn from the posterior in a run: recorded before answers, and recomputed."""

from typing import Any

import pytest

from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.replay import replay, verification
from szpo.runs import services
from szpo.types import Explanation, Shift
from szpo.voting.recorded_step import read_step
from tests.support import named_run
from tests.support.named_run import MarkedPolicy
from tests.support.tampering import change_event, failure_of, forge, rewrite

pytestmark = pytest.mark.full


class Noting(MarkedPolicy):
    """Keeps the shifts that it was asked for."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.asked: list[tuple[Shift, ...]] = []

    def rollout(self, prompts: Any, shifts: Any, *, seed: int) -> Any:
        self.asked.append(tuple(shifts))
        return super().rollout(prompts, shifts, seed=seed)


def bodies(ledger: Ledger, kind: str = "asked") -> list[dict[str, Any]]:
    return [event["body"] for event in ledger.events(kind)]


def test_directions_stand_in_the_record_before_their_answers(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        policy = Noting(settings)
        named_run.drive(settings, ledger, policy)
        kinds = [event["kind"] for event in ledger.events()]
        order = [kind for kind in kinds if kind in ("asked", "generated", "regressors", "step")]
        assert order == ["asked", "generated", "regressors", "step"] * 4
        asked = bodies(ledger)
        assert [body["asked_after"] for body in asked] == [0, 1, 2, 3]
        assert asked[0]["ways"] == asked[0]["directions"] == []
        for step, shifts in enumerate(policy.asked):
            grids = [None if s.grid is None else list(s.grid) for s in shifts[::2]]
            assert grids == (asked[step]["directions"] or [None] * settings.section.K)
            query = read_step(ledger, step).query(settings)
            assert tuple(s for pair in query.shifts for s in pair) == shifts
        assert verification.verify(ledger).ok
        # Nothing of it is where a panelist looks.
        shown = str([ledger.comparisons(step) for step in range(4)])
        assert str(asked[3]["directions"][0])[1:-1] not in shown
        again = replay.replay_state(ledger, settings)
        at = services.resume(ledger, settings, policy)
        assert again.carried.recommended.tobytes() == at.state.carried.recommended.tobytes()


def test_with_lag_a_step_is_asked_after_one_step_less(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        named_run.drive(settings, ledger, lag=1, until_step=4)
        asked = bodies(ledger)
        assert [body["asked_after"] for body in asked] == [0, 0, 1, 2, 3][: len(asked)]
        assert asked[1]["ways"] == [] and asked[2]["ways"]
        named_run.drive(settings, ledger, until_step=6)  # the plan ahead stands without lag, too
        assert [body["asked_after"] for body in bodies(ledger)][-1] == 5
        assert verification.verify(ledger).ok


def _other_weight(body: dict[str, Any]) -> None:
    way = next(way for way in body["ways"] if len(way[2]) > 1)
    way[2][-1] += 4 if way[2][-1] < 0 else -4


def _other_chance(body: dict[str, Any]) -> None:
    body["ways"][0][0] -= 2


def _other_direction(body: dict[str, Any]) -> None:
    body["directions"][1][2] += 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings, ledger = named_run.start(tmp_path_factory.mktemp("finished"))
    with ledger:
        named_run.drive(settings, ledger, until_step=3)
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return ledger.path.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda body: body.update(asked_after=1),
            "asked_after is 1, which is not the head of its",
        ),
        (_other_weight, "asked ways are not what the votes known then give"),
        (_other_chance, "asked ways are not what the votes known then give"),
        (_other_direction, "asked directions are not those drawn by the seed"),
        (lambda body: body.update(ways=[], directions=[]), "asked ways are not what the votes"),
        (lambda body: body["directions"][0].pop(0), 'its event "asked" does not hold directions'),
    ],
)
def test_verify_finds_a_changed_plan_though_every_hash_is_new(tmp_path, finished, change, words):
    path = tmp_path / "run.db"
    path.write_bytes(finished)
    number = change_event(path, "asked", 2, change)
    assert failure_of(path).row == str(number)  # by the chain
    rewrite(path)
    assert words in failure_of(path).problem


def test_a_plan_without_its_event_is_refused(tmp_path, finished):
    path = tmp_path / "run.db"
    path.write_bytes(finished)
    forge(path, "UPDATE events SET kind = 'other' WHERE kind = 'asked'")
    with Ledger.open(path, readonly=True) as ledger:
        settings = named_run.settings_of()
        with pytest.raises(IntegrityError, match='step 0: it has 0 events "asked", not one'):
            read_step(ledger, 0).plan(settings)
        plain, mu = named_run.settings_of(asking_noise=None), ledger.step(1)["mu"]
        assert read_step(ledger, 0).plan(plain) is None
        assert optimizer.query(plain, 1, mu) == read_step(ledger, 1).query(plain)


def test_a_unit_of_rounding_is_not_a_change():
    """Another machine may round a chance or a weight the other way."""
    mine = (
        Explanation(60000, (0,), (32767,)),
        Explanation(5000, (1, 2), (-32767, 400)),
        Explanation(1, (3,), (32767,)),
    )
    for near in (
        mine[:2],  # a chance of 1 or of none
        (Explanation(60001, (0,), (32767,)), *mine[1:]),
        (mine[1], mine[0], mine[2]),
        (mine[0], Explanation(4999, (1, 2), (-32767, 401)), mine[2]),
    ):
        assert verification._are_near(near, mine) and verification._are_near(mine, near)
    for far in (
        mine[1:],
        (Explanation(60002, (0,), (32767,)), *mine[1:]),
        (mine[0], Explanation(5000, (1, 2), (-32767, 402)), mine[2]),
        (mine[0], Explanation(5000, (1, 2), (32767, -400)), mine[2]),
        (mine[0], Explanation(5000, (1, 4), (-32767, 400)), mine[2]),
        (*mine, mine[2]),
    ):
        assert not verification._are_near(far, mine)
