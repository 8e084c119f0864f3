"""What the witness beside a run's file costs per vote: votes a second with and without it.

Run: python experiments/witness_cost.py [FOLDER]. One client, 320 answers a turn, 16 turns each in
alternation: each answer a synced commit of its own, then 32 in one.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from szpo.ledger import witness
from szpo.ledger.database import Ledger
from szpo.voting.service import VoteService
from tests.support import voting

TURNS, VOTES = 16, 320


def rate(service: VoteService, seats: list[str], begin: int, at_once: int) -> float:
    """Answers a second; each commit is waited for."""
    began = time.perf_counter()
    for number in range(begin, begin + VOTES, at_once):
        requests = [voting.request_of(seats, 0, n) for n in range(number, number + at_once)]
        service.cast_many(requests)
    return VOTES / (time.perf_counter() - began)


def measure(path: Path, at_once: int) -> None:
    """Print the medians over the turns, with their ranges."""
    seats = voting.ballot(path, 2 * TURNS * VOTES * voting.DOORS, sync=False)
    plain: Callable[..., None] = witness.attest
    found: dict[str, list[float]] = {"with": [], "without": []}
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        for turn in range(2 * TURNS):
            kind = ("with", "without")[(turn + turn // 2) % 2]
            witness.attest = plain if kind == "with" else lambda *_: None
            found[kind].append(rate(service, seats, turn * VOTES, at_once))
    witness.attest = plain
    rates = ", ".join(
        f"{kind} {statistics.median(each):.0f} [{min(each):.0f}, {max(each):.0f}]"
        for kind, each in found.items()
    )
    lost = [1e6 * (1 / a - 1 / b) for a, b in zip(found["with"], found["without"], strict=True)]
    print(f"{at_once} a commit: votes/s {rates}; {statistics.median(lost):.0f} µs a vote")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for at_once in (1, 32):
            measure(Path(folder) / f"{at_once}.db", at_once)


if __name__ == "__main__":
    main()
