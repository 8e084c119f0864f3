"""What votes say: progress, agreement, voters, features, tastes, and what to ask next."""
