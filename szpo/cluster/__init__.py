"""Answers from workers in several processes or on several machines.

`worker` is what each Ray worker runs, `ray_engine` gives them their chunks, and `remote` does so
for a policy. `vllm_*` uses vLLM servers.
"""
