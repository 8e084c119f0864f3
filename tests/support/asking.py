"""A small open round with people to vote on it, and seats and votes written without checks."""

import json

from szpo.ledger import canonical
from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.quadratic import open_step, settings_of

GOOD, BAD = Answer("warm"), Answer("cold")
KEY = "0123456789abcdef-{}".format


def ask(ledger, n=4, m=2, identical=()):
    """Open step 0 with n comparisons of two rows each."""
    plan = settings_of(N=n, M=m)
    rows = [Row(Prompt.user("?"), GOOD, GOOD if i in identical else BAD) for i in range(n)]
    comparisons = [Comparison(f"c{i}", 0, 0, i, (rows[i],) * 2) for i in range(n)]
    return open_step(ledger, plan, comparisons)


def people(service, count):
    return [service.enroll("person", f"person {i}") for i in range(count)]


def seat_and_vote(ledger, comparison, panelist, choices="", plus_side="A"):
    """Write a seat and its votes directly; returns the seat's id and the last vote's number."""
    seat, number = f"{comparison.id}-{panelist}", None
    with ledger.transaction("votes"):
        ledger.append("assignments", {
            "assignment": seat, "comparison": comparison.id, "panelist": panelist,
            "plus_side": plus_side, "prompt_order": json.dumps([*range(len(comparison.rows))]),
            "served_us": 0, "expires_us": 0,
        })  # fmt: skip
        for revision, choice in enumerate(choices):
            vote = {
                "assignment": seat, "revision": revision, "choice": choice, "late": 0,
                "idem": f"key-{revision}-0123456789",
                "payload_sha256": canonical.payload_sha256(seat, choice, None, None, None),
                "received_us": 1,
            }  # fmt: skip
            number = ledger.append("votes", vote)["vote"]
    return seat, number
