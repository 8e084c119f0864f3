"""Evaluators, which answer comparisons: people, judges in this process, a panel in another one.

`protocol` is the contract. A panel of your own comes by the entry point ``szpo.evaluators``; see
`panel_factory`.
"""
