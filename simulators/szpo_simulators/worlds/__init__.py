"""Worlds with known values, and thousands of repetitions of the optimizer on them.

`vpl_model`, `vpl_fit` and `vpl_data` are votes by people of different tastes, a latent taste for
each, after Poddar et al. (2024), and the three models without a latent that it is compared with.
"""
