"""What the state machine does with a ledger's file; each act is durable when it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from szpo.failpoints import arm
from szpo.ledger import canonical
from szpo.ledger.database import Clock, Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim import optimizer, parameters
from szpo.replay import replay, verification
from szpo.types import Answer, Assignment, Choice, Comparison, Prompt, Row
from szpo.voting import counting, lease, steps
from szpo.voting.casting import VoteRequest
from szpo.voting.lease import Lease
from szpo.voting.service import VoteService
from szpo_ui.web import credentials
from tests.support.quadratic import new_ledger, settings_of

SETTINGS = settings_of(N=2, D=1, M=2, rule="sign")
TTL_US = 60_000_000
SPARE = 1


class File:
    """The ledger's own file."""

    settings = SETTINGS

    def __init__(self, folder: Path, clock: Clock):
        self.clock = clock
        new_ledger(folder / "run.db", SETTINGS, clock).close()
        self._open(folder / "run.db")

    def _open(self, path: Path) -> None:
        self.ledger = Ledger.open(path, clock=self.clock)
        self.ledger.execute("PRAGMA synchronous=OFF")
        self.service = VoteService(self.ledger, spare=SPARE)

    def invite(self, name: str) -> str:
        panelist = credentials.invite(self.ledger, "panelist", name, contact=f"{name}@x").panelist
        assert panelist is not None
        return panelist

    def erase(self, name: str) -> None:
        credentials.erase(self.ledger, name, "ann")

    def assign(self, panelist: str, tab: str) -> Assignment | None:
        return self.service.assign(panelist, tab=tab)

    def release(self, seat: str) -> None:
        self.service.release(seat)

    def cast(self, seat: str, choice: Choice, key: str, tab: str) -> Any:
        return self.service.cast(VoteRequest(seat, choice, idem=key, tab=tab))

    def cast_and_die(self, seat: str, choice: Choice, key: str, tab: str) -> None:
        """The vote is stored, the process dies before it can say so."""
        with arm("cp6:raise"):
            self.cast(seat, choice, key, tab)

    def amend(self, vote: int, action: Any) -> None:
        self.service.amend(vote, action, "because", "ann")

    def take(self, holder: str) -> Lease:
        return lease.acquire(self.ledger, holder, TTL_US)

    def plan(self, held: Lease, step: int) -> None:
        if self.ledger.step(step) is None:
            query = optimizer.ask(replay.replay_state(self.ledger, SETTINGS), step)
            steps.record_plan(self.ledger, held.epoch, SETTINGS, query, theta_digest(self.ledger))
        steps.begin(self.ledger, held.epoch, step)

    def generate(self, held: Lease, step: int) -> None:
        asked = [
            Comparison(
                f"{step}-{n}", step, 0, n, (Row(Prompt.user("?"), Answer("+"), Answer("-")),)
            )
            for n in range(SETTINGS.N)
        ]
        head = theta_digest(self.ledger)
        steps.store(self.ledger, held.epoch, step, asked, head, then_open=True)

    def close(self, held: Lease, step: int, by: Any) -> bool:
        return steps.close(
            self.ledger,
            step,
            steps.Closing(by, epoch=held.epoch, reason="enough" if by == "operator" else None),
        )

    def apply(self, held: Lease, step: int) -> None:
        ledger = self.ledger
        state = replay.replay_state(ledger, SETTINGS)
        row = ledger.step(step)
        assert row is not None
        tally = counting.tally(ledger, step, SETTINGS.K, SETTINGS.N)
        query = optimizer.query(SETTINGS, step, row["mu"])
        _, updates, info = optimizer.tell(state, query, tally)
        theta = replay.fold(ledger)
        for update in updates:
            theta = parameters.apply_update(SETTINGS.space, theta, update)
        steps.apply(
            ledger,
            held.epoch,
            updates,
            rule=SETTINGS.rule,
            info=info,
            tally=tally,
            votes_sha256=canonical.votes_sha256(counting.counted(ledger, step)),
            theta_sha256=parameters.digest(theta, ledger.layout),
            notes={},
        )

    def crash(self) -> None:
        """In the middle of a transaction, which leaves nothing."""
        self.ledger.execute("BEGIN IMMEDIATE")
        self.ledger.execute("INSERT INTO panelists VALUES ('half', 'person', 'half', 1)")
        self.ledger.close()
        self._open(self.ledger.path)

    def rows(self, table: str) -> list[dict[str, Any]]:
        keys = ", ".join(canonical.KEYS.get(table, ())) or "1"
        return self.ledger.query(f"SELECT * FROM {table} ORDER BY {keys}")

    def counted(self, step: int) -> list[tuple[str, str, str]]:
        return [(v.comparison, v.panelist, v.choice) for v in self.service.counted(step)]

    def fold(self) -> str:
        theta = {name: np.asarray(value) for name, value in replay.fold(self.ledger).items()}
        return parameters.digest(theta, self.ledger.layout)

    def faults(self, deep: bool = True) -> str:
        report = verification.verify(self.ledger, deep=deep)
        return "" if report.ok else str(report)

    def end(self) -> None:
        self.ledger.close()
