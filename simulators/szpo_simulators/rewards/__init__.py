"""Rewards of texts: what a simulated panel likes, and held-out measurement."""
