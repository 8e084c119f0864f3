"""Make the kept ledger of this schema version: run once, then never again for that version.

    python tests/ledgers/make.py tests/ledgers/v1.db

``regression.db`` holds three steps of the rule `regression` from before its fits had a side and
its recommended point was held by predicted guards (the run of `tests.training.test_two_points`).
Later versions of szpo must still open and verify every file beside this script.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from szpo.ledger.theta import theta_digest
from tests.support.quadratic import history
from tests.support.tampering import small_run

if __name__ == "__main__":
    path = Path(sys.argv[1])
    with small_run(path, rule="known", N=3) as ledger:
        expected = {"history": history(ledger), "head": theta_digest(ledger)}
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")
