import pytest

from szpo.errors import UsageError
from szpo.ledger import canonical, orders
from tests.support.quadratic import start


@pytest.fixture
def ledger(tmp_path):
    _, found, _ = start(tmp_path)
    yield found
    found.close()


def test_an_order_is_open_until_it_is_settled_once(ledger):
    first = orders.place_order(ledger, "samples", "op", {"prompts": 2})
    second = orders.place_order(ledger, "final", "op", {"comparisons": 3})
    assert [(o.id, o.kind, o.by) for o in orders.open_orders(ledger)] == [
        (first, "samples", "op"),
        (second, "final", "op"),
    ]
    order = orders.get(ledger, first)
    assert order.result is None and orders.settle(ledger, order, {"answers": ["a"]})
    assert not orders.settle(ledger, order, {"answers": ["b"]})  # the stale copy settles nothing
    (done,) = orders.results(ledger, "samples")
    assert done.result == {"answers": ["a"]} and done.done_us is not None and done.error is None
    assert [o.id for o in orders.open_orders(ledger)] == [second]
    assert orders.results(ledger, "final") == []


def test_comparisons_of_an_order_are_closed_once_and_by_name(ledger):
    number = orders.place_order(ledger, "final", "op")
    with pytest.raises(UsageError, match=f"order {number} has no comparisons"):
        orders.close(ledger, number, "op")
    orders.settle(ledger, orders.get(ledger, number), {"comparisons": ["c1", "c2"]})
    assert orders.takes_votes(ledger, "c2") and orders.takes_votes(ledger, "c3")
    assert orders.close(ledger, number, "op") and not orders.close(ledger, number, "op")
    assert not orders.takes_votes(ledger, "c1") and orders.takes_votes(ledger, "c3")


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("fnal", {}, "order 'fnal' is unknown"),
        ("final", {"comparisons": 0}, "comparisons is 0; give 1 to 1,000"),
        ("final", {"comparisons": True}, "give a whole number"),
        ("final", {"prompts": 3}, "'prompts' is unknown"),
        ("samples", {"prompts": 65}, "give 1 to 64"),
        ("samples", {"step": -1}, "step is -1"),
    ],
)
def test_an_order_of_another_form_is_refused_before_it_is_placed(ledger, kind, body, says):
    with pytest.raises(UsageError, match=says):
        orders.place_order(ledger, kind, "op", body)
    assert orders.orders(ledger) == []


EVENT = {
    "event": 2, "run": "r", "at_us": 3, "actor": "a", "kind": "k", "body": "{}",
    "prev_sha256": "0" * 64,
}  # fmt: skip


def test_the_hash_of_an_event_covers_each_of_its_values_and_the_event_before():
    for column, value in EVENT.items():
        other = {**EVENT, column: f"{value}1" if isinstance(value, str) else value + 1}
        assert canonical.event_sha256(other) != canonical.event_sha256(EVENT), column
