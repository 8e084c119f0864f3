"""Benchmarks in worlds whose true values are known."""
