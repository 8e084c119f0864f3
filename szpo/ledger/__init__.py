"""The ledger: one SQLite file that holds a run, append-only and hash-chained."""
