"""Benchmarks on language models: generation, subspaces, KL, memory, the demo."""
