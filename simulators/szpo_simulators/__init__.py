"""Simulated panels, rewards, worlds and benches whose truth is known.

`szpo compare` runs the cells of a plan, each a method on one model, reward, panel and seed:

* plan: settings, groups of cells in order of importance, and comparisons, as a TOML file
* cells: one job, in its own process; its spec has all that it depends on as plain JSON values, and
  its method says how a policy learns from votes, on batches or on pairs
* start: the model before any vote, panels fitted to it, and held-out measurements along a run
"""
