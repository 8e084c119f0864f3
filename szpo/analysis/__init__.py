"""What the votes of a ledger say: progress, agreement, voters, features, tastes."""
