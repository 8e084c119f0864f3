"""Gradient methods that learn from the same votes, to compare szpo with."""

NAMES = (
    "dpo", "simpo", "iterative-dpo", "reward-model", "ppo", "grpo", "rloo", "self-rewarding",
    "notebook-dpo", "sft",
)  # fmt: skip
"""All methods; named here so that help loads none of them (`recipes.RECIPES`)."""
SCORED = ("ppo", "grpo", "rloo")
"""Methods that learn from a score of single answers."""
