"""The training loop, and a run's guards, budgets and totals.

The steps of the algorithm are `perturb_policy`, `sample_batches`, `ask_evaluators` and
`update_policy`; `controller` runs them in turn.
"""
