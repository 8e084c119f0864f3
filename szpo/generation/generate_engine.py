"""The fallback engine: `transformers.generate`, one member at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from szpo.generation.engine import Generated, check_rows, padded_logprobs
from szpo.generation.prefill import Canary, plan
from szpo.generation.sampling import Sampling, draw
from szpo.models.batched_lora import Deltas, attached
from szpo.models.lora_sites import Site
from szpo.types import Floats


class GenerateEngine:
    """``transformers.generate`` with per-row deltas: slower, for models `HfEngine` cannot run."""

    def __init__(
        self,
        model: Any,
        sites: tuple[Site, ...] = (),
        *,
        stop_tokens: Sequence[int] = (),
        max_rows: int = 32,
    ):
        self.model = model
        self.sites = sites
        self.stop_tokens = tuple(stop_tokens)
        self.max_rows = max_rows

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
        """See `Engine.generate`; at most ``max_rows`` rows go through together.

        ``transformers.generate`` holds tens of megabytes a row for a large vocabulary.
        """
        check_rows(prompts, members, deltas, sampling, uniforms)
        watch = Canary() if canary else None
        tokens: list[tuple[int, ...]] = []
        # Rows of one prompt stay together, so that the canary sees its members side by side.
        order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
        for begin in range(0, len(order), self.max_rows):
            rows = order[begin : begin + self.max_rows]
            tokens += self._part(
                [prompts[row] for row in rows], [members[row] for row in rows], deltas, sampling,
                uniforms[rows], watch, begin,
            )  # fmt: skip
        if watch is not None:
            self._look_across(prompts, members, deltas, sampling, watch)
            watch.judge()
        placed: list[tuple[int, ...]] = [()] * len(prompts)
        for row, made in zip(order, tokens, strict=True):
            placed[row] = made
        return Generated(tuple(placed), tuple(row[-1] in self.stop_tokens for row in placed))

    def _look_across(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        watch: Canary,
    ) -> None:
        """Show the canary side by side what blocks have parted: members of one prompt.

        Logits of two passes may differ by rounding where the policies are equal, so a pair must
        stand in one pass. One token each, and only for pairs not yet seen to differ.
        """
        one_token = replace(sampling, max_new_tokens=1)
        answering: dict[tuple[int, ...], set[int]] = {}
        for prompt, member in zip(prompts, members, strict=True):
            answering.setdefault(tuple(prompt), set()).add(member)
        half = max(1, self.max_rows // 2)
        place = len(prompts)  # none that a block had
        for shared, owners in answering.items():
            own = sorted(owners)
            groups = [own[i : i + half] for i in range(0, len(own), half)]
            for one, other in combinations(groups, 2) if len(groups) > 1 else [(own, [])]:
                few = [*one, *other]
                if all(watch.unlike(*pair) for pair in combinations(few, 2)):
                    continue
                self._part(
                    [shared] * len(few), few, deltas, one_token, np.full((len(few), 1), 0.5),
                    watch, place,
                )  # fmt: skip
                place += 1

    def _part(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        watch: Canary | None,
        begin: int,
    ) -> list[tuple[int, ...]]:
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            seen[row, width - len(prompt) :] = 1
        layout = plan(prompts, members)
        chooser = _Chooser(torch.from_numpy(uniforms).to(device), width, sampling)
        owner = torch.tensor(list(members), device=device)[:, None]
        with torch.inference_mode(), attached(self.model, self.sites, deltas, owner):
            out = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=list(self.stop_tokens) or None,
                pad_token_id=self.stop_tokens[0] if self.stop_tokens else 0,
                logits_processor=LogitsProcessorList([chooser]),
            )
        if watch is not None and chooser.first is not None:
            row_of = dict(zip(layout.unit_of_row, layout.order, strict=True))
            units = [(begin + sequence, member) for sequence, member in layout.units]
            watch.see(units, chooser.first[[row_of[u] for u in range(len(units))]])
        tokens = []
        for row in out[:, width:].tolist():
            end = next((i for i, token in enumerate(row) if token in self.stop_tokens), None)
            tokens.append(tuple(row if end is None else row[: end + 1]))
        return tokens

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        *,
        temperature: float = 1.0,
    ) -> list[Floats]:
        """See `szpo.generation.engine.Engine.logprobs`."""
        return padded_logprobs(
            self.model, self.sites, prompts, completions, members, deltas, temperature
        )


class _Chooser(LogitsProcessor):
    """Draws the word itself and leaves ``generate`` no other choice."""

    def __init__(self, uniforms: Tensor, width: int, sampling: Sampling):
        self.first: Tensor | None = None
        self._uniforms, self._width, self._sampling = uniforms, width, sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        t = input_ids.shape[1] - self._width
        if t == 0:
            self.first = scores.clone()
        new = draw(scores, self._uniforms[:, t], self._sampling)
        return torch.full_like(scores, float("-inf")).scatter(1, new[:, None], 0.0)
