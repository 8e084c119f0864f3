"""`szpo bench frontier`: what votes gain, and at what KL, against other ways to use them.

* plan: the frozen settings as a TOML file; groups of cells in their order of importance
* cell: one method on one taste and panel with one seed, in a process and with a ledger of its own
* row: a cell measured at one checkpoint
* base: the model before any vote, measured once for all cells that share prompts and sampling
"""
