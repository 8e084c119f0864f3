"""`szpo compare`: the cells of a plan, each a method on one model, reward and panel with one seed.

* plan: settings, groups of cells in order of importance, targets and comparisons, as a TOML file
* cell: one job, in its own process; its spec has all that it depends on as plain JSON values
* start: the model before any vote, its answers and measurement, and panels fitted to them
* checkpoints: held-out measurements at given shares of a cell's run, each with the cost so far
* method: how a policy learns from votes; ``ask`` says whether a vote is on batches or on pairs
"""
