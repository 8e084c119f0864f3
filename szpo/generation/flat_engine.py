"""The flat-batch engine: members of one base model share every matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from szpo.generation.engine import Generated, check_rows, padded_logprobs
from szpo.generation.flat_attention import Rows, flat_model, staged
from szpo.generation.prefill import Canary, Plan, Prompts, plan
from szpo.generation.sampling import Sampling, draw
from szpo.models.batched_lora import Deltas, attached
from szpo.models.lora_sites import Site
from szpo.types import Floats


class HfEngine:
    """Batched decoding on a transformers model, all members and rows in one flat batch.

    ``stop_tokens`` end a row. At most ``max_rows`` rows are decoded together and about
    ``max_tokens`` prompt tokens go through one forward pass; both bound memory and change no
    distribution.

    The same call gives the same tokens on the same machine and thread count. So nothing is cached
    from call to call: a resumed run must generate what an unbroken one did.
    """

    def __init__(
        self,
        model: Any,
        sites: tuple[Site, ...] = (),
        *,
        stop_tokens: Sequence[int] = (),
        max_rows: int = 256,
        max_tokens: int = 2048,
    ):
        self.model = model
        self.sites = sites
        self.stop_tokens = tuple(stop_tokens)
        self.max_rows = max_rows
        self.max_tokens = max_tokens

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Generated:
        """See `Engine.generate`."""
        check_rows(prompts, members, deltas, sampling, uniforms)
        if not prompts:
            return Generated((), ())
        layout = plan(prompts, members)
        tokens: list[tuple[int, ...]] = [()] * len(prompts)
        watch = Canary() if canary else None
        with torch.inference_mode(), flat_model(self.model):
            batch = Prompts(self.model, self.sites, deltas, layout, self.max_tokens)
            for begin in range(0, len(prompts), self.max_rows):
                rows = range(begin, min(begin + self.max_rows, len(prompts)))
                cache, logits = batch.fill(rows, sampling.max_new_tokens, watch)
                order = [layout.order[row] for row in rows]
                draws = torch.from_numpy(uniforms[order]).to(logits.device)
                made = self._decode(layout, rows, deltas, cache, logits, sampling, draws)
                for row, new in zip(order, made, strict=True):
                    tokens[row] = new
        if watch is not None:
            watch.judge()
        return Generated(tuple(tokens), tuple(row[-1] in self.stop_tokens for row in tokens))

    def _decode(
        self,
        layout: Plan,
        rows: range,
        deltas: Deltas | None,
        cache: Rows,
        logits: Tensor,
        sampling: Sampling,
        draws: Tensor,
    ) -> list[tuple[int, ...]]:
        """Draw, feed back, repeat; finished rows leave the batch a quarter at a time."""
        device = logits.device
        stop = torch.tensor(self.stop_tokens, dtype=torch.long, device=device)
        made = torch.full((len(rows), sampling.max_new_tokens), -1, device=device)
        live = torch.arange(len(rows), device=device)
        going = torch.ones(len(rows), dtype=torch.bool, device=device)
        members = torch.tensor([layout.member(row) for row in rows], device=device)
        with attached(self.model, self.sites, deltas, members[None]) as attachment:
            for t in range(sampling.max_new_tokens):
                new = draw(logits, draws[live, t], sampling)
                made[live, t] = torch.where(going, new, -1)
                going = going & ~torch.isin(new, stop)
                left = int(going.sum())
                if left == 0 or t + 1 == sampling.max_new_tokens:
                    break
                if left <= 0.75 * len(live):
                    kept = going.nonzero()[:, 0]
                    cache.keep(kept)
                    new, live, going = new[kept], live[kept], going[kept]
                    if attachment is not None:
                        attachment.assign(members[live][None])
                with staged(cache):
                    logits = self.model(
                        input_ids=new[None], position_ids=cache.lengths[None], use_cache=False
                    ).logits[0]
                cache.advance()
        return [tuple(token for token in row if token >= 0) for row in made.tolist()]

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        *,
        temperature: float = 1.0,
    ) -> list[Floats]:
        """See `Engine.logprobs`."""
        return padded_logprobs(
            self.model, self.sites, prompts, completions, members, deltas, temperature
        )
