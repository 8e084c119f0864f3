"""Gradient methods on the same votes."""
