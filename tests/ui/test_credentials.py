"""Invitations, sessions, revocation and erasure, on an injected clock."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, strategies

from szpo.analysis import vote_export
from szpo.errors import UsageError
from szpo.ledger.canonical import sha256
from szpo.replay import verification
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService
from szpo_ui import credentials
from szpo_ui.credentials import ALPHABET, AccessError, plain_code
from tests.support.asking import ask
from tests.support.cases import case
from tests.support.quadratic import go, new_ledger, settings_of, start

HOUR = 3_600_000_000


@pytest.fixture
def ledger(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        yield found


def refused(act, *arguments):
    with pytest.raises(AccessError) as caught:
        act(*arguments)
    return caught.value.code


def test_panelists_get_the_next_free_pseudonym_and_are_enrolled(ledger):
    VoteService(ledger).enroll("simulated", "P-02")
    made = [credentials.invite(ledger, "panelist") for _ in range(3)]
    assert [each.name for each in made] == ["P-01", "P-03", "P-04"]
    enrolled = {p["panelist"]: p["pseudonym"] for p in VoteService(ledger).panelists()}
    assert [enrolled[each.panelist] for each in made] == ["P-01", "P-03", "P-04"]
    boss = credentials.invite(ledger, "operator")
    assert (boss.name, boss.panelist) == ("O-01", None)


def test_only_hashes_are_stored_and_shown(ledger):
    made = credentials.invite(ledger, "panelist")
    session, _ = credentials.redeem(ledger, made.token)
    ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = ledger.path.read_bytes()
    for secret in (made.token, made.code, plain_code(made.code), session):
        assert secret.encode() not in content and secret not in repr(made)
    hashes = {row["secret_sha256"] for row in ledger.query("SELECT * FROM credentials")}
    assert hashes == {sha256(made.token), sha256(plain_code(made.code)), sha256(session)}


def test_secrets_are_long_and_codes_are_read_as_they_are_misread(ledger):
    tokens, codes = set(), set()
    for _ in range(20):
        made = credentials.invite(ledger, "panelist")
        assert len(made.token) >= 43  # 256 bits
        assert re.fullmatch(rf"([{ALPHABET}]{{4}}-){{3}}[{ALPHABET}]{{4}}", made.code)  # 80 bits
        tokens.add(made.token)
        codes.add(made.code)
    assert len(tokens) == len(codes) == 20
    assert len(set("".join(codes)) - {"-"}) > 24  # of 32, in 320 letters
    assert len(set(ALPHABET)) == 32 and not set("ILOU") & set(ALPHABET)


@given(strategies.text(ALPHABET, min_size=16, max_size=16), strategies.data())
def test_case_dashes_and_look_alikes_do_not_matter(code, data):
    typed = ""
    for letter in code:
        equal = {"0": "0Oo", "1": "1IiLl"}.get(letter, letter + letter.lower())
        typed += data.draw(strategies.sampled_from(equal))
        typed += data.draw(strategies.sampled_from(["", "-", " "]))
    assert plain_code(typed) == code


ODD = [
    ({"role": "boss"}, "role 'boss' is unknown"),
    ({"role": "panelist", "days": 0}, "days is 0"),
    ({"role": "panelist", "days": float("nan")}, "days is nan"),
    ({"role": "panelist", "days": 1e9}, "at most 3650"),
    ({"role": "panelist", "name": "a:b"}, "'a:b' cannot be a name"),
    ({"role": "panelist", "name": ""}, "cannot be a name"),
    ({"role": "panelist", "name": "é" * 3}, "cannot be a name"),
    ({"role": "operator", "contact": "Ann"}, "a contact belongs to a panelist"),
    ({"role": "operator", "name": "P-01"}, "'P-01' is the name of a panelist"),
    ({"role": "panelist", "name": "O-01"}, "'O-01' is the name of an operator"),
]


def test_odd_invitations_are_refused_in_words(ledger):
    for arguments, words in ODD:
        with case(arguments, words):
            credentials.invite(ledger, "panelist")
            credentials.invite(ledger, "operator")
            before = ledger.query("SELECT count(*) AS n FROM credentials")
            with pytest.raises(UsageError, match=re.escape(words)):
                credentials.invite(ledger, **arguments)
            assert ledger.query("SELECT count(*) AS n FROM credentials") == before


def test_a_new_invitation_ends_the_former_link_and_code_but_no_session(ledger):
    first = credentials.invite(ledger, "panelist")
    session, who = credentials.login(ledger, first.name, first.code)
    second = credentials.invite(ledger, "panelist", first.name)
    assert second.panelist == first.panelist
    assert refused(credentials.redeem, ledger, first.token) == "revoked"
    assert refused(credentials.login, ledger, first.name, first.code) == "revoked"
    assert credentials.identify(ledger, session) == who
    assert credentials.redeem(ledger, second.token)[1].panelist == who.panelist


def test_a_session_lasts_no_longer_than_the_invitation_that_stands(ledger):
    credentials.invite(ledger, "panelist", "P", days=30)
    short = credentials.invite(ledger, "panelist", "P", days=0.25)
    credentials.login(ledger, "P", short.code)
    (session,) = credentials.of_name(ledger, "P", "session")
    (code,) = {
        row["expires_us"]
        for row in credentials.of_name(ledger, "P")
        if row["kind"] != "session" and row["revoked_us"] is None
    }
    assert session["expires_us"] == code < session["created_us"] + credentials.SESSION_US


def test_a_link_works_once_and_a_code_until_it_ends(ledger):
    made = credentials.invite(ledger, "panelist", days=2)
    session, who = credentials.redeem(ledger, made.token)
    assert credentials.identify(ledger, session) == who
    assert (who.role, who.name, who.panelist) == ("panelist", "P-01", made.panelist)
    assert refused(credentials.redeem, ledger, made.token) == "used"
    for name in ("P-01", " p-01"):
        again, same = credentials.login(ledger, name, made.code.lower())
        assert again != session and same.panelist == made.panelist
    ledger.clock.now += 48 * HOUR
    assert refused(credentials.login, ledger, "P-01", made.code) == "expired"
    assert refused(credentials.redeem, ledger, made.token) == "expired"


def test_whoever_tries_learns_nothing(ledger):
    ann, ben = (credentials.invite(ledger, "panelist") for _ in range(2))
    session, _ = credentials.redeem(ledger, ann.token)
    tries = [("P-01", ben.code), ("P-09", ann.code), ("P-01", "AAAA"), ("", ""), ("\ud800", "x")]
    reported = set()
    for name, code in tries:
        with pytest.raises(AccessError) as caught:
            credentials.login(ledger, name, code)
        reported.add((caught.value.code, str(caught.value)))
    assert len(reported) == 1 and reported.pop()[0] == "unknown"
    # A secret of one kind opens nothing of another kind.
    for secret in (session, plain_code(ben.code), "", "x" * 1000):
        assert refused(credentials.redeem, ledger, secret) == "unknown"
    assert refused(credentials.login, ledger, "P-02", ben.token) == "unknown"
    for secret in (ben.token, plain_code(ben.code), "", "nonsense"):
        assert credentials.identify(ledger, secret) is None


def test_a_wrong_name_and_a_wrong_code_cost_the_same_look_ups(ledger):
    made = credentials.invite(ledger, "panelist")
    asked = []
    ledger._conn.set_trace_callback(asked.append)
    costs = []
    for name, code in (("P-77", "A" * 16), (made.name, "A" * 16), ("P-77", made.code)):
        asked.clear()
        refused(credentials.login, ledger, name, code)
        costs.append(len(asked))
    ledger._conn.set_trace_callback(None)
    assert len(set(costs)) == 1


def test_a_session_ends_twelve_hours_from_its_last_use(ledger):
    session, _ = credentials.redeem(ledger, credentials.invite(ledger, "panelist").token)
    for _ in range(10):
        ledger.clock.now += 11 * HOUR
        assert credentials.identify(ledger, session) is not None
    ledger.clock.now += 12 * HOUR
    assert credentials.identify(ledger, session) is None


def test_the_use_of_a_session_is_written_at_most_once_a_minute(ledger):
    made = credentials.invite(ledger, "panelist")
    session, _ = credentials.redeem(ledger, made.token)
    before = ledger.changes()
    for _ in range(50):
        assert credentials.identify(ledger, session) is not None
    assert ledger.changes() == before
    ledger.clock.now += 61_000_000
    assert credentials.identify(ledger, session) is not None
    after = ledger.changes()
    assert after[1] == before[1] + 1
    (found,) = credentials.list_people(ledger)
    assert ledger.clock.now - found.seen_us < 10_000


def test_logging_out_ends_one_session(ledger):
    made = credentials.invite(ledger, "panelist")
    one, _ = credentials.redeem(ledger, made.token)
    two, _ = credentials.login(ledger, made.name, made.code)
    credentials.logout(ledger, one)
    credentials.logout(ledger, "nonsense")
    assert credentials.identify(ledger, one) is None
    assert credentials.identify(ledger, two) is not None


def test_sessions_that_ended_do_not_pile_up(ledger):
    made = credentials.invite(ledger, "panelist")
    for _ in range(20):
        credentials.login(ledger, made.name, made.code)
        ledger.clock.now += 13 * HOUR
    count = ledger.query("SELECT count(*) AS n FROM credentials")[0]["n"]
    assert count == 3  # link, code, the last session


def test_the_list_tells_what_became_of_everybody(ledger):
    made = {name: credentials.invite(ledger, "panelist", name, days=1) for name in "abcde"}
    credentials.login(ledger, "b", made["b"].code)
    credentials.revoke(ledger, "c", "op")
    credentials.redeem(ledger, made["d"].token)
    credentials.revoke(ledger, "d", "op")
    states = {each.name: each.state for each in credentials.list_people(ledger)}
    assert [states[name] for name in "abcde"] == [
        "invited", "active", "revoked", "revoked", "invited",
    ]  # fmt: skip
    ledger.clock.now += 25 * HOUR
    states = {each.name: each.state for each in credentials.list_people(ledger)}
    assert states["a"] == states["b"] == "expired" and states["c"] == "revoked"
    seen = {each.name: each.seen_us for each in credentials.list_people(ledger)}
    assert seen["a"] is None and seen["b"] is not None


def test_revoking_ends_everything_of_a_name_and_of_no_other(ledger):
    ann, other = (
        credentials.invite(ledger, "panelist", "P"),
        credentials.invite(ledger, "panelist"),
    )
    near = credentials.invite(ledger, "panelist", "P 2")  # ids that begin alike
    session, _ = credentials.login(ledger, "P", ann.code)
    assert credentials.revoke(ledger, "P", "op") == 3
    assert credentials.revoke(ledger, "P", "op") == 0
    assert credentials.revoke(ledger, "nobody", "op") == 0
    assert credentials.identify(ledger, session) is None
    assert refused(credentials.redeem, ledger, ann.token) == "revoked"
    assert refused(credentials.login, ledger, "P", ann.code) == "revoked"
    for each in (other, near):
        assert credentials.redeem(ledger, each.token)[1].name == each.name
    events = [event["body"] for event in ledger.events("revoke")]
    assert [event["ended"] for event in events] == [3, 0]


@pytest.mark.parametrize("end", [credentials.revoke, credentials.erase])
def test_who_is_sent_away_leaves_no_seat_behind(tmp_path, end):
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        ask(ledger, n=2, m=1)
        service = VoteService(ledger)
        ann, ben = (credentials.invite(ledger, "panelist") for _ in range(2))
        answered = service.assign(ann.panelist)
        service.cast(answered.id, "A", idem=answered.id)
        open_seat = service.assign(ann.panelist)
        assert service.assign(ben.panelist) is None
        end(ledger, ann.name, "op")
        assert service.assign(ben.panelist).comparison == open_seat.comparison
        assert [vote.panelist for vote in service.counted(0)] == [ann.panelist]


def test_erasing_a_person_leaves_the_record_and_no_byte_of_them(tmp_path):
    """Who has judged a whole sheet and two of the three rows of the next."""
    settings, ledger, policy = start(tmp_path, N=6, M=1, D=1)
    contact = "Ann Smithfield, ann@example.org"
    made = credentials.invite(ledger, "panelist", contact=contact)
    credentials.redeem(ledger, made.token)
    service = VoteService(ledger)

    def vote():
        first = service.sheet(made.panelist, 3)
        for seat in first:
            service.cast(seat.id, "A", idem=seat.id)
        for seat in service.sheet(made.panelist, 3)[:2]:
            service.cast(seat.id, "A", idem=seat.id)
        assert credentials.list_people(ledger)[0].contact == contact
        credentials.revoke(ledger, "P-01", "op")
        (left,) = service.sheet(service.enroll("person", "ben"), 8)  # given back at once
        service.cast(left.id, "A", idem=left.id)

    go(settings, ledger, policy, LedgerEvaluator(service), wait=vote, until_step=1)
    reported = str([*ledger.events(), *vote_export.export_votes(ledger)])
    assert "P-01" in reported
    assert "Smithfield" not in reported and "example.org" not in reported
    ledger.query("PRAGMA secure_delete = OFF")  # some builds of SQLite begin with it on
    credentials.erase(ledger, "P-01", "op")
    assert credentials.list_people(ledger) == []
    assert ledger.query("SELECT * FROM contacts") == []
    assert refused(credentials.login, ledger, "P-01", made.code) == "unknown"
    report = verification.verify(ledger)
    assert report.ok, str(report)
    assert [v.panelist for v in service.counted(0)].count(made.panelist) == 5
    (event,) = ledger.events("erase")
    assert event["body"] == {"role": "panelist", "panelist": made.panelist}
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert len(files) == 4  # the ledger is open: its log is there as well, and its witness
    for words in (b"Smithfield", b"example.org"):
        assert not any(words in content for content in files)
    assert any(b"P-01" in content for content in files)
    ledger.close()


def test_a_link_is_redeemed_once_however_many_try(ledger):
    made = credentials.invite(ledger, "panelist")
    barrier = threading.Barrier(8)

    def attempt(_):
        barrier.wait()
        try:
            return credentials.redeem(ledger, made.token)[1].name
        except AccessError as error:
            return error.code

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(attempt, range(8))) == ["P-01", *["used"] * 7]
