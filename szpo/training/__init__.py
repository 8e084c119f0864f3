"""The training loop, and a run's guards, budgets and totals.

The parts of a step are `perturb_policy`, `sample_batches`, `ask_evaluators` and `update_policy`;
`controller` calls them in this order.
"""
