"""Replay a ledger: weights from updates, updates from votes, and every hash verified."""
