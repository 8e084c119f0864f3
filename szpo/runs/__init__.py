"""Runs as a whole: set-up, driver, the loop, guards, budgets, totals, trackers.

`controller` calls the parts of a step: `sample_batches`, then the evaluators, then
`update_policy`.
"""
