"""Evaluators answer comparisons: people, judges in this process, or a panel in another one.

`protocol` is the contract. Register your own panel at the entry point ``szpo.evaluators``; see
`panel_factory`.
"""
