"""The policies to optimise: the `Policy` contract, LoRA policies, and their subspaces."""
