"""Answers from workers in several processes or on several machines.

`schedule` decides which worker gets which chunk, `worker` is what each worker runs, `ray_engine`
carries messages over Ray, and `remote` combines them for a policy. `vllm_*` uses vLLM servers.
"""
