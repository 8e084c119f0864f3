"""What is optimised: the `Policy` contract, LoRA policies, and the subspaces they move in."""
