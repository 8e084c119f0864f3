"""Make the kept ledgers of this schema version, and the digests by which two runs are compared.

    python tests/ledgers/make.py tests/ledgers/v1.db
    python tests/ledgers/make.py --digests run.db > run.json
    python tests/ledgers/make.py --digests run.json other.db     # exit code 1 if they differ

``regression.db`` holds three steps of the rule `regression` from before its fits had a side and
its recommended point was held by predicted guards (the run of `tests.training.test_two_points`).
Later versions of szpo must still open and verify every file beside this script.
"""

import contextlib
import hashlib
import json
import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from szpo.ledger.theta import theta_digest
from tests.support.quadratic import history
from tests.support.tampering import small_run

WHAT = {
    "answers": "SELECT step, k, n, i, a.prompt, a.plus, a.minus FROM comparisons "
    "JOIN answers a USING (comparison) WHERE kind = 'train' ORDER BY step, k, n, i",
    "votes": "SELECT step, k, n, panelist, plus_side, revision, choice FROM comparisons "
    "JOIN assignments USING (comparison) JOIN votes USING (assignment) WHERE kind = 'train' "
    "ORDER BY step, k, n, panelist, revision",
    "weights": "SELECT step, k, theta_sha256 FROM updates ORDER BY step, k",
}
"""What makes two runs the same, whatever their schema and spec: a query for each."""


def digests(path: Path) -> dict[str, list[int | str]]:
    """For each of `WHAT` the number of rows and their SHA-256; a .json file has them already."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        rows = {name: conn.execute(sql).fetchall() for name, sql in WHAT.items()}
    return {
        name: [len(found), hashlib.sha256(json.dumps(found).encode()).hexdigest()]
        for name, found in rows.items()
    }


def make(path: Path) -> None:
    """Make a run, and the JSON file beside it of what later versions must find in it."""
    with small_run(path, rule="known", N=3) as ledger:
        expected = {"history": history(ledger), "head": theta_digest(ledger)}
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] != "--digests":
        make(Path(sys.argv[1]))
    else:
        one, *others = [digests(Path(name)) for name in sys.argv[2:]]
        print(json.dumps(one, indent=1))
        if differ := [name for name in WHAT for other in others if other[name] != one[name]]:
            sys.exit(f"they differ in {', '.join(differ)}")
