"""What would be otherwise without one panelist's votes."""

import pytest

from szpo.errors import UsageError
from szpo.ledger import run_spec
from szpo.replay import replay
from tests.support.browser import MovableClock, make


@pytest.fixture
def stage(tmp_path):
    """Three steps of two comparisons and two votes each.

    Ada and Bob agree in steps 0 and 2; in step 1 they disagree on one comparison of the two.
    """
    made = make(tmp_path / "run.db", clock=MovableClock())
    service = made.site.service
    made.advance()
    ada, bob = (service.enroll("person", name) for name in ("Ada", "Bob"))
    for number in range(3):
        for person in (ada, bob):
            answered = 0
            while (seat := service.assign(person)) is not None:
                against = number == 1 and person == bob
                side = {"A": "B", "B": "A"}[seat.plus_side] if against else seat.plus_side
                service.cast(seat.id, side, idem=seat.id)
                answered += 1
            assert answered == 2
        made.advance()
    assert made.ledger.last_applied() == 2
    return made


def test_leaving_somebody_out_flips_a_step_where_the_majority_does_and_writes_nothing(stage):
    found = replay.preview_without(stage.ledger, "Bob")
    assert (found.votes, found.of) == (6, 12)
    assert [(e.step, e.votes, e.theirs) for e in found.effects] == [(s, 4, 2) for s in range(3)]
    # In step 1 all cancelled; without Bob there is a majority for plus.
    assert found.flipped == (1,)
    assert run_spec.recorded_settings(stage.ledger).section.rule == "known"
    first, second, third = (e.cosine for e in found.effects)
    # One direction: with two votes for plus fewer the first step goes the same way, shorter.
    assert first == pytest.approx(1, abs=1e-6)
    assert second is None  # all votes cancelled: that step went nowhere
    assert third is not None
    assert found.turned == ()
    before = stage.ledger.changes()
    replay.preview_without(stage.ledger, "Ada")
    assert stage.ledger.changes() == before


def test_somebody_who_never_voted_changes_nothing(stage):
    stage.site.service.enroll("person", "Cy")
    found = replay.preview_without(stage.ledger, "Cy")
    assert (found.votes, found.effects, found.flipped) == (0, (), ())
    with pytest.raises(UsageError, match="not enrolled"):
        replay.preview_without(stage.ledger, "Dora")
