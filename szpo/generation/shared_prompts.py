"""Log-probabilities of many answers after one prompt, which is read once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.logprobs import LOGITS, vocabulary_size
from szpo.models.smaller_batches import split_halved
from szpo.types import Floats


def total_logprobs(
    adapted: AdaptedModel,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    deltas: Deltas | None = None,
) -> Floats:
    """Log-probability of each whole answer after the prompt at temperature 1, in nats.

    Args:
        adapted: The base model and its adapted weights.
        prompt: Tokens, at least one.
        answers: Tokens of each; an answer without any has 0.
        deltas: One member, the policy that reads; None is the base model.
    """
    model = adapted.model
    vocabulary = vocabulary_size(model)
    found = np.zeros(len(answers))
    order = sorted((i for i, a in enumerate(answers) if len(a)), key=lambda i: len(answers[i]))
    if not order:
        return found
    with torch.inference_mode():
        ids = torch.tensor([list(prompt)], device=model.device)
        with _attach(adapted, deltas, 1):
            read = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        after = read.logits[0, -1].to(torch.float32).log_softmax(-1)

        def read_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            few = [answers[i] for i in rows]
            total = after[torch.tensor([a[0] for a in few], device=model.device)]
            if len(few[-1]) > 1:
                past = copy.deepcopy(read.past_key_values)
                past.batch_repeat_interleave(len(few))
                with _attach(adapted, deltas, len(few)):
                    total = total + _continue(model, past, len(prompt), few)
            values: NDArray[np.float64] = total.cpu().to(torch.float64).numpy()
            return values

        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order):
                width = len(answers[order[end]])
                if (end + 1 - start) * width * vocabulary > LOGITS:
                    break
                end += 1
            part = np.array(order[start:end])
            found[part] = split_halved(read_rows, part)
            start = end
    return found


def _attach(adapted: AdaptedModel, deltas: Deltas | None, rows: int) -> Any:
    owner = torch.zeros(rows, 1, dtype=torch.long, device=adapted.model.device)
    return attach_deltas(adapted.model, adapted.sites, deltas, owner)


def _continue(model: Any, past: Any, seen: int, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sum of the log-probabilities of all tokens but the first, (answers,)."""
    width = max(map(len, answers))
    ids = torch.zeros(len(answers), width, dtype=torch.long)
    mask = torch.zeros(len(answers), seen + width, dtype=torch.long)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(list(answer))
        mask[row, : seen + len(answer)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=torch.arange(seen, seen + width - 1, device=model.device)[None],
        past_key_values=past,
        use_cache=True,
    ).logits.to(torch.float32)
    chosen = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
    return torch.where(mask[:, seen + 1 :].bool(), chosen, 0.0).sum(1)
