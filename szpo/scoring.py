"""Log-probabilities of given completions: for KL, fluency under the base, and scores.

Plain padded forward passes of the transformers model, differentiable with respect to deltas that
`szpo.deltas.attached` has hooked on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from szpo.errors import UsageError


def completion_logits(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict each completion token (rows, T, words), tokens and mask (rows, T).

    Prompts are padded on the left and completions on the right, so that the completions of all
    rows lie in the same columns and the LM head runs on those only. T is the longest completion;
    mask is 1.0 on real tokens. Logits keep the model's dtype.
    """
    if not prompts or len(prompts) != len(completions):
        raise UsageError(
            f"need one completion per prompt, got {len(prompts)} and {len(completions)}"
        )
    before = max(len(p) for p in prompts)
    after = max(1, *(len(c) for c in completions))
    ids = torch.zeros(len(prompts), before + after, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[i, before - len(p) : before + len(c)] = torch.as_tensor([*p, *c])
        seen[i, before - len(p) : before + len(c)] = 1
    ids, seen = ids.to(model.device), seen.to(model.device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=after + 1,
    ).logits[:, -after - 1 : -1]
    return logits, ids[:, before:], seen[:, before:].to(torch.float32)


def token_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log π(token | prompt, earlier tokens) in fp32, (rows, T), 0 on padding; and the mask.

    Uses the sampled law of the run: logits divided by ``temperature``, no top-p or top-k.
    """
    logits, tokens, mask = completion_logits(model, prompts, completions)
    logp = torch.log_softmax(logits.to(torch.float32) / temperature, dim=-1)
    picked = logp.gather(-1, tokens[..., None])[..., 0]
    return picked * mask, mask
