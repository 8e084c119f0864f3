"""The rules: how a step's votes become a move of θ. One file each, listed in `registry`."""
