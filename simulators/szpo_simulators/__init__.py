"""Evaluators, rewards and worlds with a known truth."""
