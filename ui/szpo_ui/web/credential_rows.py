"""Credentials as rows of the ledger: hashed secrets under ids of the form kind:name:random.

Kinds are ``link``, ``code`` and ``session``; a link that was redeemed is ``used``.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final, Literal

from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger, Record

Fault = Literal["expired", "revoked"]

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Thirty-two letters without I, L, O and U (Crockford 2002): what is misread is read right."""
KINDS: Final = ("link", "used", "code", "session")

_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_code() -> str:
    """Eighty random bits as sixteen letters in groups of four."""
    letters = [secrets.choice(ALPHABET) for _ in range(16)]
    return "-".join("".join(letters[i : i + 4]) for i in range(0, 16, 4))


def plain_code(code: str) -> str:
    """A typed code as it was given out: without dashes and spaces, misread letters put right.

    >>> plain_code("abcd-efgh jkmo-pq1i")
    'ABCDEFGHJKM0PQ11'
    """
    return code.upper().translate(_MISREAD)


def kind(row: Record) -> str:
    """What a credential is: link, used, code or session."""
    return str(row["credential"]).split(":")[0]


def name_of(row: Record) -> str:
    """Whose it is: a panelist's pseudonym or an operator's name."""
    return str(row["credential"]).split(":")[1]


def all_of(ledger: Ledger, name: str) -> list[Record]:
    """Every credential of a name, oldest first."""
    found: list[Record] = []
    for each in KINDS:
        found += under(ledger, f"{each}:{name}")
    return sorted(found, key=lambda row: row["created_us"])


def under(ledger: Ledger, prefix: str) -> list[Record]:
    """All credentials that begin with "prefix:"."""
    # ';' follows ':', so the range holds exactly the ids that begin with "prefix:".
    return ledger.query(
        "SELECT * FROM credentials WHERE credential > ? AND credential < ?",
        (f"{prefix}:", f"{prefix};"),
    )


def end(ledger: Ledger, prefix: str) -> None:
    """Revoke a credential, or all that begin with "prefix:"."""
    ledger.execute(
        "UPDATE credentials SET revoked_us = ? WHERE revoked_us IS NULL "
        "AND (credential = ? OR (credential > ? AND credential < ?))",
        (ledger.clock(), prefix, f"{prefix}:", f"{prefix};"),
    )


def add(
    ledger: Ledger,
    kind: str,
    name: str,
    panelist: str | None,
    role: str,
    secret: str,
    now: int,
    expires: int,
) -> str:
    """Store the hash of a secret; returns the credential's id."""
    credential = f"{kind}:{name}:{secrets.token_hex(8)}"
    ledger.execute(
        "INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (credential, panelist, role, sha256(secret), now, expires),
    )
    return credential


def find(ledger: Ledger, secret: str, kinds: tuple[str, ...]) -> Record | None:
    """The credential behind a secret. The index sees its hash only, which nobody can steer."""
    digest = sha256(secret)
    found = ledger.query("SELECT * FROM credentials WHERE secret_sha256 = ?", (digest,))
    if not found or kind(found[0]) not in kinds:
        return None
    return found[0] if hmac.compare_digest(found[0]["secret_sha256"], digest) else None


def fault(row: Record, now: int) -> Fault | None:
    """Why a credential opens nothing any more; None while it does."""
    if row["revoked_us"] is not None:
        return "revoked"
    return "expired" if row["expires_us"] <= now else None


def ends_us(ledger: Ledger, name: str) -> int:
    """When the last invitation of a name ends that was not revoked; used links are part of it."""
    ends = [
        row["expires_us"]
        for each in ("link", "used", "code")
        for row in under(ledger, f"{each}:{name}")
        if row["revoked_us"] is None
    ]
    return max(ends, default=0)
