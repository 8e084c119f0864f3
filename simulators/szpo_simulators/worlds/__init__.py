"""Worlds whose truth is known, and the optimizer in thousands of repetitions on them."""
