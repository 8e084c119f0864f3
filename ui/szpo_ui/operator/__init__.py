"""The operator's pages: a run, its votes, and the posterior of `szpo visualize`."""
