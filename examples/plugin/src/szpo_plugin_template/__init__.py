"""A rule, a reward, an evaluator and an engine for szpo."""
