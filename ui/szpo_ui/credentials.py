"""People's access: invitations by link and code, open links, sessions, revocation, erasure.

Only SHA-256 hashes of random secrets are stored: of 256 bits for a link or a session, of 80 for a
typed code. Personal data are in the tables ``credentials`` and ``contacts``, never in the record.

A credential's id is kind:name:random. Kinds are ``link``, ``code``, ``session`` and ``open``, a
link for many people. A redeemed link becomes ``used``; people who came by an open one have a
``used`` one from the start.

An open link: whoever comes by it becomes a panelist, while places are left. An id that comes with
it, such as Prolific's, gives its owner the same place again. It is stored as the contact, which
can be erased and which no export reads.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, get_args

from szpo.errors import SzpoError, UsageError
from szpo.files import drafts
from szpo.ledger.canonical import sha256, utf8
from szpo.ledger.database import Ledger, Record
from szpo.runs.status import StatusReader
from szpo.voting import seats
from szpo.voting.service import VoteService

T = TypeVar("T")
Role = Literal["panelist", "operator"]
State = Literal["invited", "active", "revoked", "expired"]
Reason = Literal["unknown", "expired", "revoked", "used", "full"]
Fault = Literal["login", "expired", "revoked"]
"""Why a session is not valid: unknown or logged out (login), expired, or revoked."""

SESSION_US: Final = 12 * 3600 * 1_000_000
"""How long a session lasts without use, µs."""
MOST_SESSIONS: Final = 10
"""Most sessions of one person; a further one ends the one unused for longest."""
SLIDE_US: Final = 60_000_000
"""A session's use is recorded at most once in this time, µs."""
LONGEST_DAYS: Final = 3650.0
ERASE_WAIT_S: Final = 10.0
"""How long an erasure waits for readers of the file, seconds."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Thirty-two characters without I, L, O and U (Crockford 2002), which are often misread."""

_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
_ROWS: Final = """
SELECT *, substr(credential, 1, instr(credential, ':') - 1) AS kind,
  substr(credential, instr(credential, ':') + 1, length(credential) - instr(credential, ':') - 17)
    AS name
FROM credentials
"""
"""All credentials, with the parts of their ids; the random one has 16 letters."""
OPENED, JOINED = "open link", "joined"
"""Events: an open link's places, votes and code; a first arrival, whose actor is the panelist."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a credential: a panelist by pseudonym and id, or an operator by name."""

    role: Role
    name: str
    panelist: str | None


@dataclass(frozen=True, slots=True)
class Invited:
    """One invited person as the operator sees them; times are µs since 1970."""

    name: str
    role: Role
    state: State
    created_us: int
    expires_us: int
    seen_us: int | None
    """When a session was last used, to the minute; None without a session."""
    contact: str | None = None


class AccessError(SzpoError):
    """Access is refused; ``code`` says why."""

    exit_code = 2

    def __init__(self, code: Reason, message: str):
        super().__init__(message)
        self.code: Final = code


@dataclass(frozen=True, slots=True)
class Invitation:
    """A person's new link and code; the only place where the secrets are in plain text."""

    role: Role
    name: str
    panelist: str | None
    token: str = field(repr=False)
    """The secret in a link's fragment; it works once."""
    code: str = field(repr=False)
    """The secret to type with the name; it works until it expires or is revoked."""
    expires_us: int


def new_code() -> str:
    """Eighty random bits as sixteen characters in groups of four."""
    letters = [secrets.choice(ALPHABET) for _ in range(16)]
    return "-".join("".join(letters[i : i + 4]) for i in range(0, 16, 4))


def plain_code(code: str) -> str:
    """Normalize a typed code: remove dashes and spaces, correct misread letters.

    >>> plain_code("abcd-efgh jkmo-pq1i")
    'ABCDEFGHJKM0PQ11'
    """
    return code.upper().translate(_MISREAD)


def invite(
    ledger: Ledger,
    role: Role,
    name: str | None = None,
    *,
    days: float = 30.0,
    contact: str | None = None,
) -> Invitation:
    """Make a link and a code for a person; a panelist is enrolled under the name.

    Without a name, the next free one of P-01, P-02, … (O-01, … for operators) is used. It becomes
    part of the record, so a panelist's name should say nothing about the person. Earlier links and
    codes of the name end; its sessions go on. A ``contact`` says who the person is; it
    can be erased, and is in no export.
    """
    if role not in get_args(Role):
        raise UsageError(f"invite: role {role!r} is unknown; it is panelist or operator")
    check_days(days)
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"invite: {name!r} cannot be a name; give 1 to 64 of A-Z, a-z, 0-9, space and . _ -, "
            "the first a letter or a digit"
        )
    if contact is not None and role != "panelist":
        raise UsageError("invite: a contact belongs to a panelist; an operator is known by name")
    token, code = secrets.token_urlsafe(32), new_code()
    _forget(ledger)
    with ledger.transaction("access"):
        name = name or _next_name(ledger, role)
        _one_role(ledger, role, name)
        panelist = VoteService(ledger).enroll("person", name) if role == "panelist" else None
        now = ledger.clock()
        expires = now + round(days * 86_400e6)
        who = Identity(role, name, panelist)
        for kind, secret in (("link", token), ("code", plain_code(code))):
            _end(ledger, f"{kind}:{name}:")
            add(ledger, kind, who, secret, now, expires)
        if contact is not None and panelist is not None:
            _set_contact(ledger, panelist, contact)
        ledger.record_event("invite", "access", {"role": role, "panelist": panelist})
    return Invitation(role, name, panelist, token, code, expires)


def check_days(days: float) -> None:
    """Refuse a term of an invitation that is no time, or too long."""
    if not 0 < days <= LONGEST_DAYS:
        raise UsageError(f"invite: days is {days:g}; give more than 0, at most {LONGEST_DAYS:g}")


def redeem(ledger: Ledger, token: str) -> tuple[str, Identity]:
    """Begin a session by a link's token, once; returns the session's secret and owner."""
    with ledger.transaction("access"):
        row = find_link(ledger, token)
        ledger.execute(
            "UPDATE credentials SET credential = 'used' || substr(credential, 5) "
            "WHERE credential = ?",
            (row["credential"],),
        )
        return begin(ledger, row)


def login(ledger: Ledger, name: str, code: str) -> tuple[str, Identity]:
    """Begin a session by a name and its code; returns the session's secret and owner.

    Case, spaces and dashes of the code and the case of the name do not matter. The code is looked
    up by its hash, so an unknown name takes as long as a wrong code.
    """
    with ledger.transaction("access"):
        return begin(ledger, find_code(ledger, name, code))


def begin(ledger: Ledger, row: Record) -> tuple[str, Identity]:
    """Begin a session by a credential that was checked; returns its secret and owner."""
    now, secret, name = ledger.clock(), secrets.token_urlsafe(32), row["name"]
    before = of_name(ledger, name, "session")
    for i, old in enumerate(reversed(before)):  # so that file and sessions do not pile up
        if old["expires_us"] <= now or i >= MOST_SESSIONS - 1:
            ledger.execute("DELETE FROM credentials WHERE credential = ?", (old["credential"],))
    expires = min(now + SESSION_US, _ends_us(ledger, name))
    who = Identity(row["role"], name, row["panelist"])
    add(ledger, "session", who, secret, now, expires)
    return secret, who


def find_link(ledger: Ledger, token: str, kinds: tuple[str, ...] = ("link", "used")) -> Record:
    """The row of a link that `redeem` would accept, or of an open one; nothing is written."""
    return _check(ledger, find(ledger, token, kinds), "this link")


def find_code(ledger: Ledger, name: str, code: str) -> Record:
    """The row of a code that `login` would accept; nothing is written."""
    row = find(ledger, plain_code(code), ("code",))
    known = "" if row is None else row["name"]
    if not hmac.compare_digest(*(utf8(n.strip().casefold()).encode() for n in (known, name))):
        row = None
    return _check(ledger, row, "this pair of name and code")


def identify(ledger: Ledger, session: str) -> Identity | None:
    """The owner of a session; None unless it is valid (see `find_session`)."""
    found = find_session(ledger, session)
    return None if isinstance(found, str) else found


def find_session(ledger: Ledger, session: str) -> Identity | Fault:
    """The owner of a session, or why it is not valid.

    Use extends a session to twelve hours from now (written at most once a minute), but not beyond
    its invitation. With a read-only ledger, nothing is extended.
    """
    row, now = find(ledger, session, ("session",)), ledger.clock()
    if row is None:
        return "login"
    name, fault = row["name"], fault_of(row, now)
    if fault == "revoked":
        everything = of_name(ledger, name)
        state = _summarize(everything, now).state
        return "revoked" if state == "revoked" else "login"
    if fault is not None:
        return fault
    if now - row["created_us"] >= SLIDE_US and not ledger.readonly:
        with ledger.transaction("access"):
            expires = min(now + SESSION_US, _ends_us(ledger, name))
            ledger.execute(
                "UPDATE credentials SET created_us = ?, expires_us = ? "
                "WHERE credential = ? AND revoked_us IS NULL",
                (now, expires, row["credential"]),
            )
    return Identity(row["role"], name, row["panelist"])


def logout(ledger: Ledger, session: str) -> None:
    """End a session, unless it has ended already."""
    with ledger.transaction("access"):
        row = find(ledger, session, ("session",))
        if row is not None:
            _end(ledger, row["credential"])


def revoke(ledger: Ledger, name: str, by: str) -> int:
    """End every link, code and session of a name at once; returns how many were valid.

    The panelist's unanswered seats are released for others.
    """
    with ledger.transaction(by):
        rows = of_name(ledger, name)
        now = ledger.clock()
        alive = [row for row in rows if _opens(row, now)]
        _end(ledger, f":{name}:")
        if rows:
            body = {"role": rows[0]["role"], "panelist": rows[0]["panelist"], "ended": len(alive)}
            ledger.record_event("revoke", by, body)
            if rows[0]["panelist"] is not None:
                seats.give_back(ledger, rows[0]["panelist"])
    return len(alive)


def list_people(ledger: Ledger) -> list[Invited]:
    """All invited people, sorted by name."""
    names = {row["panelist"]: row["name"] for row in ledger.query("SELECT * FROM contacts")}
    people: dict[str, list[Record]] = {}
    for row in ledger.query(f"{_ROWS} ORDER BY rowid"):
        people.setdefault(row["name"], []).append(row)
    now = ledger.clock()
    return [
        _summarize(people[name], now, names.get(people[name][0]["panelist"]))
        for name in sorted(people)
    ]


def erase(
    ledger: Ledger,
    name: str,
    by: str,
    *,
    wait_s: float = ERASE_WAIT_S,
    withdraw: Callable[[], T] | None = None,
) -> T | None:
    """Delete a person's contact and credentials.

    The pseudonym and its votes stay in the record.

    ``withdraw`` takes votes out of later fits in the same transaction; its result is returned.

    Returns once the bytes are gone from the file and its log. Readers of the file delay this; they
    are waited for at most ``wait_s`` seconds, and another call can finish the erasure. Earlier
    copies of the file, such as backups, still have the data.

    Raises:
        UsageError: there is no invitation of that name.
        StorageError: the rows are deleted, but a reader keeps the bytes in the log; call again.
    """
    _forget(ledger)
    with ledger.transaction(by):
        learned = withdraw and withdraw()
        begun = _delete(ledger, name, by) or _erased(ledger, name)
    operators = (each["body"]["role"] == "operator" for each in ledger.events("erase"))
    if begun or any(operators):  # the record does not name an erased operator
        ledger.empty_log(wait_s)
    if not begun and learned is None:
        raise UsageError(f"erase: nobody was invited as {name!r}, or they were erased before")
    return learned


def copies(ledger: Ledger) -> str:
    """A sentence on copies that still hold an erased name: earlier ones and half-written ones."""
    left = ", ".join(str(each) for each in drafts(ledger.path))
    half = f"; remove {left} unless something is being written" if left else ""
    return f"copies made before still hold the name{half}"


# ---- internals ----


def _delete(ledger: Ledger, name: str, by: str) -> bool:
    """Delete what there is of a person; False where there is nothing."""
    rows = of_name(ledger, name)
    found = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
    panelist = found[0]["panelist"] if found else None
    remarks = ledger.execute("DELETE FROM remarks WHERE panelist = ?", (panelist,)).rowcount
    if not remarks and not rows:
        return False
    role = rows[0]["role"] if rows else "panelist"
    ledger.record_event("erase", by, {"role": role, "panelist": panelist})
    for row in rows:
        ledger.execute("DELETE FROM credentials WHERE credential = ?", (row["credential"],))
    ledger.execute("DELETE FROM contacts WHERE panelist = ?", (panelist,))
    if panelist is not None:
        seats.give_back(ledger, panelist)
    return True


def _erased(ledger: Ledger, name: str) -> bool:
    """Whether a panelist of that name was erased before."""
    return bool(
        ledger.query(
            "SELECT 1 FROM events e JOIN panelists p "
            "ON p.panelist = json_extract(e.body, '$.panelist') "
            "WHERE e.kind = 'erase' AND p.pseudonym = ? LIMIT 1",
            (name,),
        )
    )


def _forget(ledger: Ledger) -> None:
    """From now on, SQLite overwrites deleted data."""
    ledger.query("PRAGMA secure_delete = ON")


def _set_contact(ledger: Ledger, panelist: str, contact: str) -> None:
    ledger.execute("DELETE FROM contacts WHERE panelist = ?", (panelist,))
    ledger.execute("INSERT INTO contacts (panelist, name) VALUES (?, ?)", (panelist, contact))


def _check(ledger: Ledger, row: Record | None, what: str) -> Record:
    if row is None:
        raise AccessError("unknown", f"{what} is not known; check it, or ask for a new invitation")
    fault: Reason | None = fault_of(row, ledger.clock())
    if fault is None and row["kind"] == "used":
        fault = "used"
    words = {"used": "was used before", "revoked": "was revoked", "expired": "has expired"}
    if fault is not None:
        raise AccessError(fault, f"{what} {words[fault]}; ask for a new invitation")
    return row


def _next_name(ledger: Ledger, role: Role) -> str:
    taken = {row["pseudonym"] for row in ledger.query("SELECT pseudonym FROM panelists")}
    taken |= {row["name"] for row in ledger.query(_ROWS)}
    letter = {"panelist": "P", "operator": "O"}[role]
    number = 1
    while f"{letter}-{number:02}" in taken:
        number += 1
    return f"{letter}-{number:02}"


def _one_role(ledger: Ledger, role: Role, name: str) -> None:
    others = {row["role"] for row in of_name(ledger, name)} - {role}
    enrolled = ledger.query("SELECT 1 FROM panelists WHERE pseudonym = ?", (name,))
    if others or (role == "operator" and enrolled):
        other = "a panelist" if role == "operator" else "an operator"
        raise UsageError(f"invite: {name!r} is the name of {other}; choose another")


# ---- rows of the ledger ----


def of_name(ledger: Ledger, name: str, kind: str = "") -> list[Record]:
    """The credentials of a name, of one kind or of all, oldest first; no name has a colon."""
    return ledger.query(
        f"{_ROWS} WHERE instr(credential, ?) ORDER BY created_us, rowid",
        (f"{kind}:{name}:",),
    )


def _end(ledger: Ledger, part: str) -> None:
    """Revoke the credentials whose ids have this part: kind:name:, :name: or a whole id."""
    ledger.execute(
        "UPDATE credentials SET revoked_us = ? WHERE revoked_us IS NULL AND instr(credential, ?)",
        (ledger.clock(), part),
    )


def add(
    ledger: Ledger, kind: str, who: Identity, secret: str, now_us: int, expires_us: int
) -> None:
    """Store the hash of a secret."""
    credential = f"{kind}:{who.name}:{secrets.token_hex(8)}"
    ledger.execute(
        "INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (credential, who.panelist, who.role, sha256(secret), now_us, expires_us),
    )


def find(ledger: Ledger, secret: str, kinds: tuple[str, ...]) -> Record | None:
    """The credential of a secret, looked up by its hash, which no client can choose."""
    digest = sha256(secret)
    found = ledger.query(f"{_ROWS} WHERE secret_sha256 = ?", (digest,))
    if not found or found[0]["kind"] not in kinds:
        return None
    return found[0] if hmac.compare_digest(found[0]["secret_sha256"], digest) else None


def fault_of(row: Record, now: int) -> Literal["expired", "revoked"] | None:
    """Why a credential is no longer valid; None while it is."""
    if row["revoked_us"] is not None:
        return "revoked"
    return "expired" if row["expires_us"] <= now else None


def _ends_us(ledger: Ledger, name: str) -> int:
    """When the last unrevoked link or code of a name ends; used links count too."""
    ends = [
        row["expires_us"]
        for row in of_name(ledger, name)
        if row["kind"] != "session" and row["revoked_us"] is None
    ]
    return max(ends, default=0)


def _opens(row: Record, now: int) -> bool:
    """Whether the credential still gives access."""
    return row["kind"] != "used" and fault_of(row, now) is None


def _summarize(rows: Sequence[Record], now: int, contact: str | None = None) -> Invited:
    """Summarize all credentials of one name, of which there must be one."""
    ways = [row for row in rows if row["kind"] != "session"]
    sessions = [row for row in rows if row["kind"] == "session"]
    invited = any(_opens(row, now) for row in ways)
    state: State
    if any(_opens(row, now) for row in sessions) or (invited and sessions):
        state = "active"
    elif invited:
        state = "invited"
    else:
        last = max(rows, key=lambda row: row["created_us"])
        state = "revoked" if fault_of(last, now) == "revoked" else "expired"
    return Invited(
        name=rows[0]["name"],
        role=rows[0]["role"],
        state=state,
        created_us=min(row["created_us"] for row in ways or rows),
        expires_us=max(row["expires_us"] for row in ways or rows),
        seen_us=max((row["created_us"] for row in sessions), default=None),
        contact=contact,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """A panelist's votes, of those asked, and the completion code to show when they finished."""

    votes: int
    needed: int
    finished: bool
    code: str | None


def make_open_link(ledger: Ledger, places: int, votes: int, code: str | None, days: float) -> str:
    """Make an open link and return its token. Earlier ones stay valid, on these terms."""
    check_days(days)
    for option, number in (("open", places), ("votes", votes)):
        if not 1 <= number <= 100_000:
            raise UsageError(f"--{option} {number}: give 1 to 100,000")
    token, who, now = secrets.token_urlsafe(32), Identity("panelist", "open", None), ledger.clock()
    with ledger.transaction("access"):
        add(ledger, "open", who, token, now, now + round(days * 86_400e6))
        ledger.record_event(OPENED, "access", {"places": places, "votes": votes, "code": code})
    return token


def arrive(ledger: Ledger, token: str, participant: str) -> tuple[str, Identity]:
    """Let a person in, for the first time or again; returns the session's secret and owner."""
    contact = f"Prolific {participant}" if participant else None
    with ledger.transaction("access"):
        link, now = find_link(ledger, token, ("open",)), ledger.clock()
        known = ledger.query(
            "SELECT pseudonym FROM contacts c JOIN panelists p USING (panelist) "
            "JOIN events e ON e.kind = ? AND e.actor = p.panelist WHERE c.name = ?",
            (JOINED, contact),
        )
        if known:
            right = of_name(ledger, known[0]["pseudonym"], "used")[0]
            if fault := fault_of(right, now):
                raise AccessError(fault, f"your access is {fault}")
            return begin(ledger, right)
        taken = ledger.query("SELECT count(*) AS n FROM events WHERE kind = ?", (JOINED,))
        if taken[0]["n"] >= _terms(ledger)["places"]:
            raise AccessError("full", "all places are taken")
        days = (link["expires_us"] - now) / 86_400e6
        made = invite(ledger, "panelist", days=days, contact=contact)
        ledger.record_event(JOINED, str(made.panelist), {})
        return redeem(ledger, made.token)


def standing(ledger: Ledger, panelist: str, status: StatusReader) -> Standing | None:
    """The progress of a panelist; None for one who did not come by an open link."""
    if not ledger.query("SELECT 1 FROM events WHERE kind = ? AND actor = ?", (JOINED, panelist)):
        return None
    found = ledger.query(
        "SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison) "
        "JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        "WHERE a.panelist = ? AND c.kind = 'train'",
        (panelist,),
    )
    terms, votes = _terms(ledger), found[0]["n"]
    finished = votes >= terms["votes"] or status.read().state == "finished"
    return Standing(votes, terms["votes"], finished, terms["code"])


def _terms(ledger: Ledger) -> dict[str, Any]:
    return dict([*ledger.events(OPENED)][-1]["body"])
