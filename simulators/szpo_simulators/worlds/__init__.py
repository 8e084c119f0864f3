"""Worlds with known values, and thousands of repetitions of the optimizer on them."""
