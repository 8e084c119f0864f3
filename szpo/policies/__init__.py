"""The policies to optimise: the `Policy` contract, LoRA policies, and their subspaces.

`worker` is what each Ray worker runs, and `ray_engine` gives them their chunks; `vllm_*` uses vLLM
servers.
"""
