"""The flat-batch engine: members of one base model share every matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from szpo.generation.engine import Generated, check_rows, padded_logprobs
from szpo.generation.flat_attention import RowCache, attend_with, use_flat_attention
from szpo.generation.prefill import Canary, PrefillBatch, plan_prefill
from szpo.generation.sampling import Sampling, draw, place_uniforms
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.smaller_batches import retry_halved
from szpo.types import Floats


@dataclass(eq=False)
class FlatEngine:
    """Batched decoding with a transformers model, all members and rows in one flat batch.

    The same call gives the same tokens on the same machine with the same thread count. Nothing is
    cached between calls, because a resumed run must generate the same as an uninterrupted one.
    """

    adapted: AdaptedModel
    max_rows: int = 256
    """Rows decoded together; bounds memory, and changes no distribution."""
    max_tokens: int = 2048
    """Approximate number of prompt tokens in one forward pass; bounds memory too."""
    halved_rows: int | None = None
    """Rows decoded together since memory ran out; None if it has not."""

    logprobs = padded_logprobs

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

        most = min(self.max_rows, len(prompts))
        layout = plan_prefill(prompts, members)

        def attempt(size: int) -> Generated:
            if size < most:
                self.max_tokens = max(1, self.max_tokens // 2)
                self.max_rows = self.halved_rows = size
            tokens: list[tuple[int, ...]] = [()] * len(prompts)
            watch = Canary() if canary else None
            with torch.inference_mode(), use_flat_attention(self.adapted.model) as pause:
                batch = PrefillBatch(self.adapted, deltas, layout, self.max_tokens)
                for begin in range(0, len(prompts), self.max_rows):
                    rows = range(begin, min(begin + self.max_rows, len(prompts)))
                    cache, logits = batch.fill(rows, sampling.max_new_tokens, watch, pause)
                    order = [layout.order[row] for row in rows]
                    draws = place_uniforms(uniforms[order], logits.device)
                    owner = torch.tensor([layout.member(r) for r in rows], device=logits.device)
                    made = self._decode(owner, deltas, cache, logits, sampling, draws, pause)
                    for row, new in zip(order, made, strict=True):
                        tokens[row] = new
            if watch is not None:
                watch.judge()
            stop = self.adapted.stop_tokens
            return Generated(tuple(tokens), tuple(row[-1] in stop for row in tokens))

        return retry_halved(attempt, most)

    def _decode(
        self,
        members: Tensor,
        deltas: Deltas | None,
        cache: RowCache,
        logits: Tensor,
        sampling: Sampling,
        draws: Tensor,
        pause: Callable[[], None],
    ) -> list[tuple[int, ...]]:
        """Draw tokens and feed them back; finished rows are dropped once they are a quarter.

        Args:
            members: The member of each row, (rows,).
            deltas: The members' LoRA weights.
            cache: Keys and values of the rows' prompts.
            logits: Logits after each prompt, (rows, words).
            sampling: How tokens are drawn.
            draws: Uniform numbers, (rows, new tokens).
            pause: Called between two passes of the model.

        Returns:
            The new tokens of each row, including an end token.
        """
        model, device = self.adapted.model, logits.device
        stop = torch.tensor(self.adapted.stop_tokens, dtype=torch.long, device=device)
        made = torch.full((len(members), sampling.max_new_tokens), -1, device=device)
        live = torch.arange(len(members), device=device)
        going = torch.ones(len(members), dtype=torch.bool, device=device)
        with attach_deltas(model, self.adapted.sites, deltas, members[None]) as attachment:
            for t in range(sampling.max_new_tokens):
                pause()
                new = draw(logits, draws[live, t], sampling)
                made[live, t] = torch.where(going, new, -1)
                going = going & ~torch.isin(new, stop)
                left = int(going.sum())
                if left == 0 or t + 1 == sampling.max_new_tokens:
                    break
                if left <= 0.75 * len(live):
                    rest = going.nonzero()[:, 0]
                    cache.keep(rest)
                    new, live, going = new[rest], live[rest], going[rest]
                    if attachment is not None:
                        attachment.assign(members[live][None])
                with attend_with(cache):
                    logits = model(
                        input_ids=new[None], position_ids=cache.lengths[None], use_cache=False
                    ).logits[0]
                cache.advance()
        return [tuple(token for token in row if token >= 0) for row in made.tolist()]
