"""The vote service and the life of a round: seats, casting, counting, closing, applying.

`casting` refuses a late vote or stores it as late; `counting` decides which votes stand and count.
Evaluators answer comparisons: people, judges in this process, or a panel in another one.
`evaluator` is the contract. Register your own panel at the entry point ``szpo.evaluators``; see
`panel_factory`.
"""
