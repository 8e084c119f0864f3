"""The fallback engine: ``transformers.generate``, a few rows at a time.

It is slower than `szpo.generation.flat_engine`, but runs models that the flat batch cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from szpo import turns
from szpo.generation.engine import Generated, check_rows, padded_logprobs
from szpo.generation.prefill import Canary, plan_prefill
from szpo.generation.sampling import Sampling, draw, place_uniforms
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.smaller_batches import retry_halved
from szpo.types import Floats


@dataclass(eq=False)
class GenerateEngine:
    """``transformers.generate`` with LoRA deltas per row."""

    adapted: AdaptedModel
    max_rows: int = 32
    """Rows in one call; with a large vocabulary each row takes tens of megabytes."""
    halved_rows: int | None = None
    """Rows in one call since memory ran out; None if it has not."""

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

        most = min(self.max_rows, len(prompts))
        # Rows of one prompt stay together, so that the canary sees its members side by side.
        order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))

        def attempt(size: int) -> Generated:
            if size < most:
                self.max_rows = self.halved_rows = size
            watch = Canary() if canary else None
            tokens: list[tuple[int, ...]] = [()] * len(prompts)
            for begin in range(0, len(order), self.max_rows):
                rows = order[begin : begin + self.max_rows]
                part = [prompts[row] for row in rows]
                owner = [members[row] for row in rows]
                made, first = self._generate_block(part, owner, deltas, sampling, uniforms[rows])
                if watch is not None:
                    _show(watch, part, owner, first, begin)
                for row, new in zip(rows, made, strict=True):
                    tokens[row] = new
            if watch is not None:
                self._compare_across_blocks(prompts, members, deltas, sampling, watch)
                watch.judge()
            stop = self.adapted.stop_tokens
            return Generated(tuple(tokens), tuple(row[-1] in stop for row in tokens))

        return retry_halved(attempt, most)

    def _compare_across_blocks(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        watch: Canary,
    ) -> None:
        """Show the canary members of one prompt that fell into different blocks, in one pass.

        Logits of two passes may differ by rounding even for equal policies, so a pair must be in
        one pass. Generates one token each, and only for pairs not yet seen to differ.
        """
        one_token = replace(sampling, max_new_tokens=1)
        answering: dict[tuple[int, ...], set[int]] = {}
        for prompt, member in zip(prompts, members, strict=True):
            answering.setdefault(tuple(prompt), set()).add(member)
        half = max(1, self.max_rows // 2)
        number = len(prompts)  # above all numbers of the blocks' sequences
        for shared, owners in answering.items():
            own = sorted(owners)
            groups = [own[i : i + half] for i in range(0, len(own), half)]
            for one, other in combinations(groups, 2) if len(groups) > 1 else [(own, [])]:
                few = [*one, *other]
                if all(watch.differs(*pair) for pair in combinations(few, 2)):
                    continue
                same = [shared] * len(few)
                uniforms = np.full((len(few), 1), 0.5)
                _, first = self._generate_block(same, few, deltas, one_token, uniforms)
                _show(watch, same, few, first, number)
                number += 1

    def _generate_block(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
    ) -> tuple[list[tuple[int, ...]], Tensor]:
        """Each row's new tokens, and the logits after its prompt (rows, words)."""
        model, stop = self.adapted.model, self.adapted.stop_tokens
        device = model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            seen[row, width - len(prompt) :] = 1
        chooser = _Chooser(place_uniforms(uniforms, device), width, sampling)
        owner = torch.tensor(list(members), device=device)[:, None]
        with torch.inference_mode(), attach_deltas(model, self.adapted.sites, deltas, owner):
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=list(stop) or None,
                pad_token_id=stop[0] if stop else 0,
                logits_processor=LogitsProcessorList([chooser]),
            )
        tokens = []
        for line in out[:, width:].tolist():
            end = next((i for i, token in enumerate(line) if token in stop), None)
            tokens.append(tuple(line if end is None else line[: end + 1]))
        return tokens, chooser.first


def _show(
    watch: Canary,
    prompts: Sequence[Sequence[int]],
    members: Sequence[int],
    logits: Tensor,
    begin: int,
) -> None:
    """Show the canary the logits after a block's prompts.

    ``begin`` is added to the numbers of the block's sequences, to make them unique.
    """
    layout = plan_prefill(prompts, members)
    row_of = dict(zip(layout.unit_of_row, layout.order, strict=True))
    units = [(begin + sequence, member) for sequence, member in layout.units]
    watch.see(units, logits[[row_of[u] for u in range(len(units))]])


class _Chooser(LogitsProcessor):
    """Draws the token itself, and leaves ``generate`` no other choice."""

    def __init__(self, uniforms: Tensor, width: int, sampling: Sampling):
        self.first = uniforms.new_empty(0)
        """Logits after the prompts; set when the first token is drawn."""
        self._uniforms, self._width, self._sampling = uniforms, width, sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        turns.pause()
        t = input_ids.shape[1] - self._width
        if t == 0:
            self.first = scores.clone()
        new = draw(scores, self._uniforms[:, t], self._sampling)
        return torch.full_like(scores, float("-inf")).scatter(1, new[:, None], 0.0)
