"""Which comparisons teach most: a posterior over preferences, its entropy, what to ask next.

`posterior` is the Bradley–Terry posterior of weights w over features, `svgd` spreads particles
over it, `entropy` measures how much is still open, and `selection` chooses questions. δ is winner
− loser everywhere.
"""
