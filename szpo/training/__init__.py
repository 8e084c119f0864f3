"""The training loop: what a step asks, its guards, budgets and report, and a run's totals."""
