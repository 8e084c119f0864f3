"""Open rounds with people to vote on them, and seats and votes written without checks."""

import json
from pathlib import Path

from szpo.ledger import canonical
from szpo.optim import optimizer
from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.quadratic import new_ledger, open_step, settings_of

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


TOPICS = ("rain", "bread", "trains", "cats", "letters", "soup")


def rows(n, d=6, equal=False):
    """d rows of answers that fit their prompts; the sides differ unless ``equal``."""
    return tuple(
        Row(
            Prompt.user(f"Tell me about {topic}, number {n}."),
            Answer(f"I like {topic} number {n} very much indeed."),
            Answer(
                f"I like {topic} number {n} very much indeed."
                if equal
                else f"Number {n}: there is little to say about {topic}."
            ),
        )
        for topic in TOPICS[:d]
    )


def ask_six(ledger, n=8, m=2, equal=()):
    """Open step 0 with n comparisons of six rows."""
    plan = settings_of(N=n, M=m, D=6)
    asked = [Comparison(f"s0-{i}", 0, 0, i, rows(i, equal=i in equal)) for i in range(n)]
    open_step(ledger, plan, asked, mu=optimizer.ask(optimizer.init(plan)).mu)


def vote_all(service, panelist, choice="A"):
    while (seat := service.assign(panelist)) is not None:
        service.cast(seat.id, choice, idem=seat.id)


ROW = Row(Prompt.user("?"), Answer("warm 1"), Answer("cold 0"))
EQUAL = Row(Prompt.user("?"), Answer("warm"), Answer("warm"))


def open_run(folder, *, k=1, n, m, identical=(), seed=11, rows=2):
    """A ledger with step 0 open: k directions of n comparisons of D ``rows``, M votes each."""
    plan = settings_of(root_seed=seed, K=k, N=n, M=m, D=rows)
    ledger = new_ledger(Path(folder) / "run.db", plan)
    places = [(i, j) for i in range(k) for j in range(n)]
    asked = [
        Comparison(f"c{i}-{j}", 0, i, j, ((EQUAL if (i, j) in identical else ROW),) * rows)
        for i, j in places
    ]
    open_step(ledger, plan, asked)
    return ledger
