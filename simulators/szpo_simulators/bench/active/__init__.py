"""Benchmarks of choosing questions: which pairs of a pool to ask."""
