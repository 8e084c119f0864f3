"""Gradient methods that learn from the same votes, to compare szpo with."""

SCORED = ("ppo", "grpo", "rloo")
"""Methods that learn from a score of single answers."""
