"""Answers from workers on several processes or machines.

`schedule` decides which worker gets which chunk, `worker` is what each of them runs, `ray_engine`
carries messages by Ray, and `remote` puts these together for a policy.
"""
