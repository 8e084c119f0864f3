"""Worlds with known values, and thousands of repetitions of the optimizer on them.

`vpl` models votes of people with different tastes: with a latent
taste for each user (Poddar et al. 2024), and with three models without a latent for comparison.
"""
