"""Make the kept ledgers of this schema version, and the digests by which two runs are compared.

    python tests/ledgers/make.py
    python tests/ledgers/make.py --digests run.db > run.json
    python tests/ledgers/make.py --digests run.json other.db     # exit code 1 if they differ

Without arguments it makes ``known.db`` and ``regression.db`` again, each with a JSON file of what
must be found in it. Later versions of szpo of the same schema must still open and verify them.
"""

import contextlib
import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.types import Theta
from tests.support import quadratic
from tests.support.quadratic import history
from tests.support.tampering import small_run

HERE = Path(__file__).parent
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


def known(path: Path) -> Ledger:
    """Two steps of the rule `known`, with skips and an excluded vote."""
    return small_run(path, rule="known", N=3)


def regression(path: Path) -> Ledger:
    """Three steps of the rule `regression`, whose recommended points were measured."""
    settings, ledger, policy = quadratic.started(path.parent, path.name)
    quadratic.drive(settings, ledger, policy, until_step=3, measured_kl=kl)
    return ledger


def kl(theta: Theta) -> float:
    """Twice the quadratic estimate |z|²/2."""
    return float((theta["z"].astype(float) ** 2).sum())


def make(run: Callable[[Path], Ledger]) -> None:
    """Make a run, and the JSON file beside it of what later versions must find in it."""
    path = HERE / f"{run.__name__}.db"
    path.unlink(missing_ok=True)
    with run(path) as ledger:
        expected = {"history": history(ledger), "head": theta_digest(ledger)}
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    for beside in HERE.glob(f"{path.name}-*"):
        beside.unlink()
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    if not sys.argv[1:]:
        make(known)
        make(regression)
    else:
        one, *others = [digests(Path(name)) for name in sys.argv[2:]]
        print(json.dumps(one, indent=1))
        if differ := [name for name in WHAT for other in others if other[name] != one[name]]:
            sys.exit(f"they differ in {', '.join(differ)}")
