"""Replay a ledger: recompute weights from updates and updates from votes, verify every hash."""
