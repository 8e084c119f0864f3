"""The states of a step and the transactions that move it: planned → … → applied.

Every move carries the epoch of the controller that makes it; the ledger's triggers refuse an older
one. After a crash, a step that was not applied is resumed from whatever state it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from szpo.errors import IntegrityError, LeaseError, UsageError
from szpo.failpoints import failpoint
from szpo.ledger import canonical
from szpo.ledger.database import Ledger, Record
from szpo.optim.settings import Settings
from szpo.types import Comparison, Query
from szpo.voting import lease, pauses
from szpo.voting.applied_step import AppliedStep
from szpo.voting.counting import StepVotes
from szpo.voting.recorded_step import note_plan

ClosedBy = Literal["rule", "deadline", "operator", "auto"]


def record_plan(
    ledger: Ledger, epoch: int, settings: Settings, query: Query, centre_sha256: str
) -> None:
    """Record a step's query, and the digest of the weights it starts from."""
    o = settings.section
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        ledger.execute(
            "INSERT INTO steps (run, step, epoch, pairing, mu, n, d, m, k, head_sha256, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned')",
            (
                ledger.run, query.step, epoch, asked_pairing(settings), float(query.mu),
                o.N, o.D, o.M, o.K, centre_sha256,
            ),
        )  # fmt: skip
        if query.asked is not None:
            ledger.record_event("asked", "controller", note_plan(query.step, query.asked))


def asked_pairing(settings: Settings) -> str:
    """What the two answers of a row are of, as `steps.pairing` records it.

    "pool": the policy as it is; "mixed": that, and every other direction as the settings say.
    """
    return {0.0: settings.section.pairing, 1.0: "pool"}.get(settings.own_share, "mixed")


def begin(ledger: Ledger, epoch: int, step: int, n: int | None = None) -> None:
    """Begin generating a step's answers; after a crash, begin again.

    ``n``: the step's N, unless it was begun before; None: as planned.
    """
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        if n is not None:
            ledger.execute(
                "UPDATE steps SET n = ?, epoch = ? WHERE run = ? AND step = ? "
                "AND state = 'planned'",
                (n, epoch, ledger.run, step),
            )
        _move(ledger, epoch, step, "generating")


def store(
    ledger: Ledger, epoch: int, step: int, asked: Sequence[Comparison], centre_sha256: str,
    notes: Mapping[str, Any] = MappingProxyType({}), *, then_open: bool,
) -> None:  # fmt: skip
    """Store all answers of a step at once; with ``then_open`` the same transaction opens it.

    ``centre_sha256`` is the digest of the weights that answered; ``notes`` goes into the event
    "generated".
    """
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        row = _row(ledger, step)
        if row["head_sha256"] != centre_sha256:
            raise IntegrityError(
                f"step {step}: answered by weights {centre_sha256[:12]}, planned from "
                f"{row['head_sha256'][:12]}; rebuild the policy and resume"
            )
        if stored(ledger, step):
            raise LeaseError(
                f"step {step}: another controller has stored its answers; this one stops"
            )
        for comparison in asked:
            ledger.append_comparison(comparison)
            failpoint("cp4")
        ledger.record_event("generated", "controller", {"step": step, **notes})
        if then_open:
            open_step(ledger, epoch, step)
        else:  # also refuses an older epoch for a batch that waits for its turn
            _move(ledger, epoch, step, "generating")


def stored(ledger: Ledger, step: int) -> bool:
    """Whether the answers of a step are in the ledger."""
    sql = "SELECT 1 FROM comparisons WHERE run = ? AND step = ? AND kind = 'train' LIMIT 1"
    return bool(ledger.query(sql, (ledger.run, step)))


def has_opened(ledger: Ledger) -> bool:
    """Whether some round was opened to its panelists."""
    return bool(ledger.query("SELECT 1 FROM steps WHERE opened_us IS NOT NULL LIMIT 1"))


def open_step(ledger: Ledger, epoch: int, step: int) -> None:
    """Open the step for votes."""
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        failpoint("cp5")
        _move(ledger, epoch, step, "open")
        ledger.execute(
            "UPDATE steps SET opened_us = ? WHERE run = ? AND step = ?",
            (ledger.clock(), ledger.run, step),
        )


def deadline_us(ledger: Ledger, row: Record, deadline_s: float) -> int:
    """The deadline of an open step, µs since 1970; ``row`` is the step's row.

    Time for which the run was paused does not count, so the deadline moves during a pause.
    """
    opened: int = row["opened_us"]
    return opened + round(deadline_s * 1e6) + pauses.sum_paused_us(ledger, opened)


def close(
    ledger: Ledger,
    step: int,
    by: ClosedBy,
    *,
    epoch: int | None = None,
    actor: str = "controller",
    reason: str | None = None,
    quorum: float | None = None,
    votes: StepVotes | None = None,
) -> bool:
    """Close a step, which fixes the votes that count; False if it may not close or was closed.

    The rule closes a step once every comparison that is asked has M counted votes. An operator
    and a deadline close it with the votes there are, an operator not below a ``quorum``, a share
    of a complete step's votes. Both are checked without the lock that voters need, then again in
    the closing transaction, which reads only new rows. A controller gives its ``epoch``, an
    operator a ``reason`` instead. ``votes`` is the step's reader, where the caller has one.
    """
    if by == "operator" and not reason:
        raise UsageError(f"closing step {step}: give a reason; it stays in the record")

    def may_close() -> bool:
        if epoch is not None:
            lease.check(ledger, epoch)
        if _row(ledger, step)["state"] != "open":
            return False
        if by == "rule":
            return not reader().missing
        return by == "auto" or quorum is None or quorate(reader(), quorum)

    def reader() -> StepVotes:
        nonlocal votes
        votes = StepVotes(ledger, step) if votes is None else votes.look()
        return votes

    if not may_close():
        return False
    with ledger.transaction(actor):
        if not may_close():
            return False
        failpoint("cp7")
        if epoch is None:
            epoch = int(ledger.query("SELECT epoch FROM controller")[0]["epoch"])
        last = ledger.query(
            "SELECT (SELECT coalesce(max(vote), 0) FROM votes) AS vote, "
            "(SELECT coalesce(max(amendment), 0) FROM amendments) AS amendment"
        )[0]
        ledger.execute(
            "UPDATE steps SET state = 'closed', epoch = ?, closed_us = ?, closed_by = ?, "
            "last_vote = ?, last_amendment = ?, counted = ? WHERE run = ? AND step = ?",
            (
                epoch, ledger.clock(), by, last["vote"], last["amendment"],
                canonical.canonical(reader().ids()[1]), ledger.run, step,
            ),
        )  # fmt: skip
        if by != "rule":
            body = {"step": step, "by": by, "reason": reason}
            ledger.record_event("close", actor, body)
    failpoint("cp8")
    return True


def quorate(votes: StepVotes, quorum: float) -> bool:
    """Whether the step has this share of the votes that its rule needs."""
    have = len(votes.counted)
    return have >= quorum * (have + votes.missing) - 1e-9


def apply(ledger: Ledger, epoch: int, applied: AppliedStep) -> None:
    """Write a step's updates and move it to "applied": the one commit that changes the run.

    Of the event "step", figures for people, a replay reads only ``reach``. The event includes the
    step's row, which the hash chain does not cover otherwise.
    """
    step = applied.report.step
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        last = ledger.query(
            "SELECT row_sha256 FROM updates WHERE run = ? ORDER BY step DESC, k DESC LIMIT 1",
            (ledger.run,),
        )
        prev = last[0]["row_sha256"] if last else ledger.row["spec_sha256"]
        for given in applied.rows:
            row: Record = {
                **given,
                "run": ledger.run,
                "prev_sha256": prev,
                "epoch": epoch,
                "applied_us": ledger.clock(),
            }
            row["row_sha256"] = prev = canonical.update_sha256(row)
            ledger.append("updates", row)
            failpoint("cp10")
        _move(ledger, epoch, step, "applied")
        body = {**applied.report.body, "row": _row(ledger, step)}
        ledger.record_event("step", "controller", body)


def _row(ledger: Ledger, step: int) -> Record:
    row = ledger.step(step)
    if row is None:
        raise UsageError(f"step {step} does not exist in {ledger.path.name}")
    return row


def _move(ledger: Ledger, epoch: int, step: int, state: str) -> None:
    with ledger.transaction("controller"):
        ledger.execute(
            "UPDATE steps SET state = ?, epoch = ? WHERE run = ? AND step = ?",
            (state, epoch, ledger.run, step),
        )
