"""Benchmarks: `szpo bench NAME`."""
