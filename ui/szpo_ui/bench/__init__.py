"""Benchmarks of the web process."""
