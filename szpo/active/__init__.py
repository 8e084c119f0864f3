"""Active learning of preferences from a pool of pairs: choose the most informative questions.

`posterior` is the Bradley–Terry posterior of weights w over features, `svgd` draws particles from
it, `entropy` measures the remaining uncertainty, `acquisition` scores and chooses questions, and
`rounds` runs the loop over a pool. δ is winner − loser everywhere.
"""
