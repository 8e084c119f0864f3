"""Variational preference learning: votes by people of different tastes, a latent taste for each.

After Poddar et al. (2024), on frozen features of texts: ``data`` holds
pairs, ``sets`` makes some with known truth, ``model`` and ``fit`` are the method and the three
models without a latent that it is compared with. `szpo.analysis.taste_clusters` finds tastes in a
ledger's votes.
"""
