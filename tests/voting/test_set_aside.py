"""What votes are not to be about: from which step, what is refused, and what cannot be."""

import pytest

from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.optim.named_features import NamedFeatures
from szpo.voting import withdrawals

OWN = NamedFeatures(
    ("comma", "commas", "i", "you"), (0, 0, 1, 2), (1,) * 4, ((1,), (2,), (1,), (1,)), 0, ""
)


def note(ledger: Ledger, group: str, step: int, on: bool = True) -> None:
    ledger.record_event(withdrawals.SET_ASIDE, "Olga", {"group": group, "step": step, "on": on})


def test_an_order_holds_from_its_step_for_the_whole_group_until_it_is_taken_back(ledger):
    note(ledger, "commas", 2)
    note(ledger, "i", 3)
    note(ledger, "commas", 5, on=False)
    found = [withdrawals.read_set_aside(ledger, OWN, step) for step in range(7)]
    assert found == [(), (), (0, 1), (0, 1, 2), (0, 1, 2), (2,), (2,)]
    assert withdrawals.in_force(ledger).keys() == {"i"}


def test_a_group_is_named_by_any_of_its_features_and_once(ledger):
    order = withdrawals.order_not_about(ledger, "Olga", OWN, "comma")
    assert (order.group, order.step, order.on, order.by) == ("commas", 0, True, "Olga")
    assert order.describe(OWN) == "comma, commas: not followed from the update of step 0 on"
    for name, on, why in (
        ("commas", True, "commas is left out already"),
        ("i", False, "i is not left out"),
        ("comas", True, 'did you mean "comma'),
    ):
        with pytest.raises(UsageError, match=why):
            withdrawals.order_not_about(ledger, "Olga", OWN, name, on=on)
    withdrawals.order_not_about(ledger, "Olga", OWN, "you")
    with pytest.raises(UsageError, match="this is the last group"):
        withdrawals.order_not_about(ledger, "Olga", OWN, "i")
    with pytest.raises(UsageError, match="not named features"):
        withdrawals.order_not_about(ledger, "Olga", None, "i")
    assert len(withdrawals.not_about_orders(ledger)) == 2


def test_an_order_for_a_step_that_was_over_is_none(ledger):
    note(ledger, "i", 0)
    ledger.record_event("step", "controller", {"step": 0})
    assert withdrawals.read_set_aside(ledger, OWN, 0) == (2,)
    note(ledger, "you", 0)
    with pytest.raises(IntegrityError, match="names a step that was over"):
        withdrawals.read_set_aside(ledger, OWN, 0)


def test_a_group_that_the_run_does_not_have_is_a_damaged_record(ledger):
    note(ledger, "adjectives", 0)
    with pytest.raises(IntegrityError, match="no feature that this run's coordinates move"):
        withdrawals.read_set_aside(ledger, OWN, 0)
