"""Credentials as rows of the ledger: hashed secrets under ids of the form kind:name:random.

Kinds are ``link``, ``code``, ``session`` and ``open``, a link for many people. A redeemed link
becomes ``used``; people who came by an open one have a ``used`` one from the start.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger, Record

Fault = Literal["expired", "revoked"]
Role = Literal["panelist", "operator"]
State = Literal["invited", "active", "revoked", "expired"]

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Thirty-two characters without I, L, O and U (Crockford 2002), which are often misread."""
KINDS: Final = ("link", "open", "used", "code", "session")

_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


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


def kind(row: Record) -> str:
    """A credential's kind, one of `KINDS`."""
    return str(row["credential"]).split(":")[0]


def name_of(row: Record) -> str:
    """The owner of a credential: a panelist's pseudonym or an operator's name."""
    return str(row["credential"]).split(":")[1]


def all_of(ledger: Ledger, name: str) -> list[Record]:
    """Every credential of a name, oldest first."""
    found: list[Record] = []
    for each in KINDS:
        found += under(ledger, f"{each}:{name}")
    return sorted(found, key=lambda row: row["created_us"])


def under(ledger: Ledger, prefix: str) -> list[Record]:
    """All credentials whose ids begin with "prefix:"."""
    # ';' follows ':', so the range holds exactly the ids that begin with "prefix:".
    return ledger.query(
        "SELECT * FROM credentials WHERE credential > ? AND credential < ?",
        (f"{prefix}:", f"{prefix};"),
    )


def end(ledger: Ledger, prefix: str) -> None:
    """Revoke the credential of this id, or all whose ids begin with "prefix:"."""
    ledger.execute(
        "UPDATE credentials SET revoked_us = ? WHERE revoked_us IS NULL "
        "AND (credential = ? OR (credential > ? AND credential < ?))",
        (ledger.clock(), prefix, f"{prefix}:", f"{prefix};"),
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
    found = ledger.query("SELECT * FROM credentials WHERE secret_sha256 = ?", (digest,))
    if not found or kind(found[0]) not in kinds:
        return None
    return found[0] if hmac.compare_digest(found[0]["secret_sha256"], digest) else None


def fault(row: Record, now: int) -> Fault | None:
    """Why a credential is no longer valid; None while it is."""
    if row["revoked_us"] is not None:
        return "revoked"
    return "expired" if row["expires_us"] <= now else None


def ends_us(ledger: Ledger, name: str) -> int:
    """When the last unrevoked link or code of a name ends; used links count too."""
    ends = [
        row["expires_us"]
        for row in all_of(ledger, name)
        if kind(row) != "session" and row["revoked_us"] is None
    ]
    return max(ends, default=0)


def opens(row: Record, now: int) -> bool:
    """Whether the credential still gives access."""
    return kind(row) != "used" and fault(row, now) is None


def summarize(rows: Sequence[Record], now: int, contact: str | None = None) -> Invited:
    """Summarize all credentials of one name, of which there must be one."""
    ways = [row for row in rows if kind(row) != "session"]
    sessions = [row for row in rows if kind(row) == "session"]
    invited = any(opens(row, now) for row in ways)
    state: State
    if any(opens(row, now) for row in sessions) or (invited and sessions):
        state = "active"
    elif invited:
        state = "invited"
    else:
        last = max(rows, key=lambda row: row["created_us"])
        state = "revoked" if fault(last, now) == "revoked" else "expired"
    return Invited(
        name=name_of(rows[0]),
        role=rows[0]["role"],
        state=state,
        created_us=min(row["created_us"] for row in ways or rows),
        expires_us=max(row["expires_us"] for row in ways or rows),
        seen_us=max((row["created_us"] for row in sessions), default=None),
        contact=contact,
    )
