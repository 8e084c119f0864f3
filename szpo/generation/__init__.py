"""Generation for several policies of one base model in one batch.

`engine` is the contract. `flat_engine` and `generate_engine` implement it, and `engine_choice`
picks one of them.
"""
