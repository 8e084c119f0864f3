"""What the hashes of the record cover."""

from szpo.ledger import canonical

EVENT = {
    "event": 2, "run": "r", "at_us": 3, "actor": "a", "kind": "k", "body": "{}",
    "prev_sha256": "0" * 64,
}  # fmt: skip


def test_the_hash_of_an_event_covers_each_of_its_values_and_the_event_before():
    for column, value in EVENT.items():
        other = {**EVENT, column: f"{value}1" if isinstance(value, str) else value + 1}
        assert canonical.event_sha256(other) != canonical.event_sha256(EVENT), column
