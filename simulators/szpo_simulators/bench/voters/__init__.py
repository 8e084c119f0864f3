"""Benchmarks of voters: hostile and noisy panels, weightings, judges, tastes."""
