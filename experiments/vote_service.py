"""What the vote service costs with a large panel: CPU time of one thread, without the disk.

Run: python experiments/vote_service.py. 1,000 panelists, 300 comparisons, M = 8, one spare seat;
everybody comes three times, one in twenty leaves without an answer.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.optim.checked_settings import defaults, settings_to_json
from szpo.optim.directions import DIRECTION_VERSION
from szpo.training.status import StatusReader
from szpo.types import Answer, Comparison, Prompt, Query, Row
from szpo.voting import lease, steps
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService

N, M, P, D = 300, 8, 1000, 4
spent: dict[str, list[float]] = {}


def time_call(name: str, act: Callable[[], Any]) -> Any:
    """Call ``act`` and record its milliseconds under ``name``; its result."""
    began = time.thread_time()
    result = act()
    spent.setdefault(name, []).append(1e3 * (time.thread_time() - began))
    return result


def open_run(path: Path) -> tuple[Ledger, lease.Lease]:
    """A run whose first step is open."""
    layout = (("z", (4,)),)
    settings = defaults(0, layout, N=N, M=M, D=D)
    ledger = Ledger.create(
        path,
        NewRun(
            {"optimizer": settings_to_json(settings)},
            root_seed=0,
            layout=layout,
            direction_version=DIRECTION_VERSION,
        ),
    )
    ledger.execute("PRAGMA synchronous=OFF")
    held = lease.acquire(ledger, "bench", 10**12)
    row = Row(Prompt.user("?"), Answer("warm " * 40), Answer("cold " * 40))
    comparisons = [Comparison(f"c{n}", 0, 0, n, (row,) * D) for n in range(N)]
    steps.record_plan(ledger, held.epoch, settings, Query(0, (), 0.5, None), theta_digest(ledger))
    steps.begin(ledger, held.epoch, 0)
    steps.store(
        ledger, held.epoch, steps.StepAnswers(0, comparisons, theta_digest(ledger)), then_open=True
    )
    return ledger, held


def main() -> None:
    """Measure and print."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        ledger, held = open_run(Path(folder) / "run.db")
        service, other = VoteService(ledger, spare=1), Ledger.open(ledger.path)
        status = StatusReader(ledger)
        with ledger.transaction("votes"):
            ids = [service.enroll("person", f"p{i}") for i in range(P)]
        votes, groups = 0, []
        for panelist in draw.sample(ids, P) + draw.sample(ids, P) + draw.sample(ids, P):
            seat = time_call("assign", lambda who=panelist: service.assign(who, tab="t"))
            if seat is None or draw.random() < 0.05:
                continue
            votes += 1
            request = VoteRequest(seat.id, "A", f"{votes:032}", tab="t")
            if votes % 3:
                time_call("cast", lambda r=request: service.cast(r))
            else:
                groups.append(request)
            if len(groups) == 64:
                time_call("cast_many, 64 votes", lambda g=tuple(groups): service.cast_many(g))
                groups = []
            time_call("round_status after a write", status.read)
            time_call("round_status, nothing new", status.read)
            if votes % 50 == 0:
                lease.renew(other, held)
                time_call("assign after another process wrote", lambda: service.assign(ids[0]))
        for name, found in spent.items():
            found.sort()
            print(
                f"{name:36} n {len(found):5}  mean {statistics.mean(found):6.3f}  median "
                f"{found[len(found) // 2]:6.3f}  p99 {found[int(0.99 * len(found))]:6.3f} ms"
            )
        ledger.close()
        other.close()


if __name__ == "__main__":
    main()
