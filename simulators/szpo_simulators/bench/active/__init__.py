"""Benchmarks of choosing questions: which comparisons to ask, in runs and from a pool."""
