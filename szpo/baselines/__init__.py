"""Gradient methods that learn from the same votes, to compare szpo with."""
