"""Which answer of a seat stands is decided in one place, for comparisons of every kind."""

import pytest

from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import counting
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from tests.support.quadratic import start


@pytest.mark.parametrize("kind", ["practice", "final"])
def test_the_last_answer_in_time_that_is_not_excluded_stands(tmp_path, kind):
    _, ledger, _ = start(tmp_path)
    service = VoteService(ledger)
    rows = (Row(Prompt.user("which?"), Answer("left"), Answer("right")),)
    with ledger.transaction("test"):
        ledger.append_comparison(Comparison("c", -1, 0, 0, rows, kind=kind))
        for name in ("ann", "ben", "cay"):
            who = service.enroll("person", name)
            ledger.append(
                "assignments",
                {
                    "assignment": f"seat-{name}", "comparison": "c", "panelist": who,
                    "plus_side": "B", "prompt_order": "[0]", "served_us": 1, "expires_us": 2,
                },
            )  # fmt: skip
    cast = []
    for name, choice in [
        ("ann", "A"),
        ("ben", "skip"),
        ("cay", "tie"),
        ("ben", "B"),
        ("ann", "tie"),
    ]:
        idem = f"{len(cast)}-of-the-seats-{name}"
        cast.append(service.cast(VoteRequest(f"seat-{name}", choice, idem=idem)).vote)

    def standing_verdicts(**until):
        return {each.number: each.vote.verdict for each in counting.answers(ledger, kind, **until)}

    assert standing_verdicts() == {cast[2]: "tie", cast[3]: "plus", cast[4]: "tie"}
    assert standing_verdicts(last_vote=cast[2]) == {
        cast[0]: "minus",
        cast[1]: "skip",
        cast[2]: "tie",
    }
    first = service.amend(cast[4], "exclude", "a test", "op")
    assert standing_verdicts() == {
        cast[2]: "tie",
        cast[3]: "plus",
    }  # the answer before it stays replaced
    service.amend(cast[4], "reinstate", "a test", "op")
    assert cast[4] in standing_verdicts() and cast[4] not in standing_verdicts(
        last_amendment=first
    )
    assert counting.answers(ledger, "gold", "repeat") == ()
    ledger.close()
