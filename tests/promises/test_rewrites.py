"""A record rewritten as a whole, every hash made anew: what `verify` alone finds, and what not.

The forger knows the code and has no run to show for it. A head noted elsewhere finds every case;
docs/explanation/promises.md has these cases as a table.
"""

import pytest

from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting import pauses
from szpo.voting.service import VoteService
from tests.support.many_votes import Crowd
from tests.support.quadratic import QuadraticPolicy, go, new_ledger, settings_of
from tests.support.tampering import forge, refit

VOTE = "WHERE vote = (SELECT min(vote) FROM votes)"
SEAT = f"WHERE assignment = (SELECT assignment FROM votes {VOTE})"
FOUND = {
    "an answer is turned round": f"UPDATE votes SET choice = iif(choice = 'A', 'B', 'A') {VOTE}",
    "an answer is taken away": f"DELETE FROM votes {VOTE}",
    "an answer counts as late": f"UPDATE votes SET late = 1 {VOTE}",
    "the sides of a seat are swapped":
        f"UPDATE assignments SET plus_side = iif(plus_side = 'A', 'B', 'A') {SEAT}",
    "an exclusion was not taken back": "DELETE FROM amendments WHERE action = 'reinstate'",
    "a comparison counts as identical": "UPDATE comparisons SET identical = 1 WHERE rowid = 1",
    "a comparison is taken away": "DELETE FROM comparisons WHERE rowid = 1",
    "an update moves otherwise": "UPDATE updates SET coef = coef * 2 WHERE step = 0",
    "an update has another figure": "UPDATE updates SET estimate = estimate + 1 WHERE step = 0",
    "the radius of a step is another": "UPDATE steps SET mu = mu * 2 WHERE step = 0",
    "a setting is another": "UPDATE runs SET spec = replace(spec, '\"D\":2', '\"D\":3')",
    "the run has another seed": "UPDATE runs SET root_seed = root_seed + 1",
}  # fmt: skip
"""Contradicts what is derived again from the votes, the seed and the settings."""
PAUSE = "WHERE kind = 'pause'"
HIDDEN = {
    "a text is another": "UPDATE answers SET plus = plus || '!' WHERE i = 0",
    "a prompt is another": "UPDATE answers SET prompt = replace(prompt, 'Question', 'Query')",
    "an answer took longer": f"UPDATE votes SET dwell_ms = dwell_ms + 1000 {VOTE}",
    "an answer came at another time": f"UPDATE votes SET received_us = received_us + 7 {VOTE}",
    "an answer has another remark": f"UPDATE votes SET details = '{{}}' {VOTE}",
    "an exclusion that was taken back is gone": "DELETE FROM amendments",
    "an exclusion has another reason": "UPDATE amendments SET reason = 'another'",
    "an event has another author": f"UPDATE events SET actor = 'eve' {PAUSE}",
    "an event has another time": f"UPDATE events SET at_us = at_us + 1 {PAUSE}",
    "a reason to pause is another": f"UPDATE events SET body = '{{\"reason\":\"x\"}}' {PAUSE}",
    "a step opened at another time": "UPDATE steps SET opened_us = opened_us + 1 WHERE step = 0",
    "a person is called otherwise":
        "UPDATE panelists SET pseudonym = 'eve' WHERE pseudonym = 'person-0'",
}  # fmt: skip
"""Nothing else in the file says what it was."""
OUTSIDE = {"a person is called otherwise"}
"""No part of the record, so that no head covers it."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two steps of people's votes, one vote excluded, one pause; the file and its noted head."""
    path = tmp_path_factory.mktemp("original") / "run.db"
    settings = settings_of(N=2, M=2)
    with new_ledger(path, settings) as ledger:
        crowd = Crowd(ledger, 2)
        go(settings, ledger, QuadraticPolicy(settings), crowd, until_step=1)
        pauses.pause(ledger, "ann", "lunch")
        pauses.unpause(ledger, "ann")
        plain = crowd.submit

        def submit(comparisons):
            plain(comparisons)
            last = ledger.query("SELECT max(vote) AS vote FROM votes")[0]["vote"]
            service = VoteService(ledger)
            service.amend(last, "exclude", "a test", "ann")
            service.amend(last, "reinstate", "a test", "ann")

        crowd.submit = submit
        go(settings, ledger, QuadraticPolicy(settings), crowd, until_step=2)
        ledger.empty_log(0)
        return path.read_bytes(), ledger.last_event()["row_sha256"]


def verdict(path, head=None):
    with Ledger.open(path, readonly=True) as ledger:
        return verification.verify(ledger, head=head).ok


@pytest.mark.full
@pytest.mark.parametrize("what", [*FOUND, *HIDDEN])
def test_a_rewritten_record_is_found_by_what_follows_or_by_a_noted_head(original, tmp_path, what):
    path, (content, head) = tmp_path / "run.db", original
    path.write_bytes(content)
    assert forge(path, {**FOUND, **HIDDEN}[what])
    refit(path)
    assert verdict(path) == (what in HIDDEN)
    assert verdict(path, head) == (what in OUTSIDE)


@pytest.mark.full
def test_a_record_that_ends_earlier_is_found_by_the_head_alone(original, tmp_path):
    """The last step taken out with all its rows, as if it had never been planned."""
    path, (content, head) = tmp_path / "run.db", original
    path.write_bytes(content)
    with Ledger.open(path, readonly=True) as ledger:
        first = next(e["event"] for e in ledger.events("step") if e["body"]["step"] == 0)
        first += 1  # the hashes of the rows of the same transaction
    for sql in (
        "DELETE FROM updates WHERE step = 1",
        "DELETE FROM amendments",
        "DELETE FROM votes WHERE assignment IN (SELECT assignment FROM assignments JOIN "
        "comparisons USING (comparison) WHERE step = 1)",
        "DELETE FROM assignments WHERE comparison IN (SELECT comparison FROM comparisons "
        "WHERE step = 1)",
        "DELETE FROM answers WHERE comparison IN (SELECT comparison FROM comparisons "
        "WHERE step = 1)",
        "DELETE FROM comparisons WHERE step = 1",
        "DELETE FROM steps WHERE step = 1",
        f"DELETE FROM events WHERE event > {first}",
        f"UPDATE sqlite_sequence SET seq = {first} WHERE name = 'events'",
    ):
        forge(path, sql)
    refit(path)
    assert verdict(path)
    assert not verdict(path, head)
