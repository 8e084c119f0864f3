"""`szpo compare` and `szpo bench frontier`: methods beside each other on the same model and panel.

* cell: one job, a method on one taste with one seed, in a process of its own
* spec: all that a cell is given, as plain JSON values; its hash is part of the cell's name
* shared setup: measured once by the cell ``base``: β of the panel, the model before any vote
* checkpoints: held-out measurements at even shares of a cell's run, each with the cost so far
* method: how a policy learns from votes; ``ask`` says whether a vote is on batches or on pairs
* plan: the frontier's frozen settings as a TOML file; groups of cells in order of importance
"""
