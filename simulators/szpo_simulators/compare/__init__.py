"""`szpo compare` and `szpo bench frontier`: compare methods on the same model and panel.

* cell: one job, a method on one reward with one seed, in its own process
* spec: all inputs of a cell as plain JSON values; its hash is part of the cell's name
* shared setup: the panel's β and the model before any vote, measured once by the cell ``base``
* checkpoints: held-out measurements at given shares of a cell's run, each with the cost so far
* method: how a policy learns from votes; ``ask`` says whether a vote is on batches or on pairs
* plan: the frontier's frozen settings as a TOML file; groups of cells in order of importance
"""
