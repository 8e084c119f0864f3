"""What reading a long run costs in memory: each command's seconds and most resident megabytes.

Run: python experiments/votes_memory.py [--votes N ...] [--commands NAME ...] [--folder FOLDER].
Ledgers of 10⁴, 10⁵ and 10⁶ votes: 100 comparisons of two rows a step, each answered by the same
100 people, in 1, 10 and 100 applied steps. A ledger that is in the folder already is used again.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import many_votes

COMPARISONS, PEOPLE = 100, 100
MEGABYTE = 1024
"""Linux counts resident memory in KiB."""
COMMANDS = {
    "verify": ["verify"],
    "report": ["report", "--out", "report.html"],
    "show": ["show"],
    "export csv": ["export", "--votes", "votes.csv"],
    "export jsonl": ["export", "--votes", "votes.jsonl"],
    "zip": ["export", "--zip", "run.zip"],
}


def measure(run: Path, words: list[str]) -> tuple[float, float]:
    """Seconds and most resident MB of one command, in a process of its own."""
    folder = run.parent / "out"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    command = [sys.executable, "-m", "szpo", words[0], str(run), *words[1:]]
    began = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = _wait(child)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss / MEGABYTE


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    """This child's own usage; `getrusage` would give the largest of all children so far."""
    return os.wait4(child.pid, 0)


def main() -> None:
    """Make what is missing, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="Where ledgers are made and stay.")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        print("| votes | file, MB | " + " | ".join(chosen.commands) + " |")
        print("|---|---|" + "---|" * len(chosen.commands))
        for votes in chosen.votes:
            run = folder / f"votes-{votes}.db"
            if not run.exists():
                steps = max(1, votes // (COMPARISONS * PEOPLE))
                many_votes.make(run, steps=steps, comparisons=COMPARISONS, people=PEOPLE)
            cells = []
            for name in chosen.commands:
                seconds, megabytes = measure(run, COMMANDS[name])
                cells.append(f"{seconds:.1f} s, {megabytes:.0f} MB")
            size = run.stat().st_size / 1e6
            print(f"| {votes:,} | {size:.0f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
