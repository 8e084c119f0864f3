"""Gradient methods on the same votes and worlds as SZPO, vectorised over repetitions in numpy."""
