"""How adapters change the logits of given answers: scores and covariances without gradients.

Let x_j be the change of the logits over temperature that member j makes at a token, and p the
reference's distribution there. To first order in the members' weights, an answer's score along
member j, the growth of its log-probability, is Σ_t x_j(y_t) − E_p x_j, and its Fisher matrix is
Σ_t cov_p(x_j, x_k). Both need one forward pass for each member and one for the reference; the
layers below the first adapted one are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, keep_below, skip
from szpo.models.logprobs import (
    KL_LOGITS,
    Batch,
    Sample,
    answer_logits,
    answer_positions,
    batches,
    head_inputs,
    reads_slices,
    run_batch,
    vocabulary_size,
)
from szpo.models.smaller_batches import split_halved
from szpo.types import Floats

MOVED = 3_500_000
"""Logits of all members that live at once: more leave the processor's cache."""


def logit_moves(
    adapted: AdaptedModel,
    deltas: Deltas,
    samples: Sequence[Sample],
    *,
    reference: Deltas | None = None,
    temperature: float = 1.0,
    fisher: bool = True,
) -> Floats:
    """Each answer's scores along the members, and its Fisher matrix.

    Args:
        adapted: The base model and its adapted weights.
        deltas: The members, a short way from the reference each.
        samples: Answers of the reference.
        reference: One member; None is the base model.
        temperature: The sampling temperature.
        fisher: False leaves the matrix out: then no member's logits are needed, only how its
            last hidden states move along the score's gradient in them.

    Returns:
        (answers, 1 + members, members): the scores in row 0, then the matrix, in nats; without it
        (answers, 1, members).
    """
    model, sites, count = adapted.model, adapted.sites, deltas.members
    vocab, head = vocabulary_size(model), model.get_output_embeddings()
    plain = reads_slices(adapted)
    scores_only = plain and not fisher
    at_once = max(1, KL_LOGITS // vocab if scores_only else MOVED // (vocab * (count + 1)))
    bounds = {"vocab": 1} if plain else {"vocab": vocab * (count + 1), "logits": KL_LOGITS}
    owners = [torch.full((1, 1), member) for member in range(count)]
    depth = 1 + count * fisher

    def read(batch: Batch) -> Tensor:
        if not plain:
            return answer_logits(model, batch, temperature)
        return head_inputs(model, answer_positions(batch), partial(run_batch, model, batch))

    def move(states: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
        """The reference's p (tokens, vocabulary), and x (tokens, members, vocabulary)."""
        apart = states.to(torch.float32) - still.to(torch.float32)[:, None]
        if not plain:
            return still.softmax(-1), apart
        logits = head(still).to(torch.float32).div_(temperature)
        # The head reads the difference: that of two rounded logits would be mostly rounding.
        x = nn.functional.linear(apart.to(head.weight.dtype), head.weight)
        return logits.softmax(-1), x.to(torch.float32).div_(temperature)

    def find_scores(states: Tensor, still: Tensor, tokens: Tensor) -> Tensor:
        """The scores alone, (tokens, 1, members)."""
        apart = states.to(torch.float32) - still.to(torch.float32)[:, None]
        p = head(still).to(torch.float32).div_(temperature).softmax(-1)
        mean = (p.to(head.weight.dtype) @ head.weight).to(torch.float32)
        slope = (head.weight[tokens].to(torch.float32) - mean) / temperature
        scores: Tensor = apart @ slope[..., None]
        return scores.mT

    def measure(part: NDArray[np.int64]) -> Floats:
        found = np.zeros((len(part), depth, count))
        for batch in batches([samples[i] for i in part], device=model.device, **bounds):
            with attach_deltas(model, sites, reference), keep_below(adapted) as below:
                still = read(batch)
            with attach_deltas(model, sites, deltas) as attachment, skip(below):
                moved = []
                for owner in owners:
                    assert attachment is not None
                    attachment.assign(owner)
                    moved.append(read(batch))
            states, targets = torch.stack(moved, 1), batch.targets[batch.mask]
            rows = np.array(batch.index)[batch.mask.nonzero(as_tuple=True)[0].cpu().numpy()]
            for first in range(0, len(rows), at_once):
                here = slice(first, first + at_once)
                if scores_only:
                    each = find_scores(states[here], still[here], targets[here])
                else:
                    p, x = move(states[here], still[here])
                    x -= x @ p[..., None]
                    own = x.gather(-1, targets[here][:, None, None].expand(-1, count, 1))
                    each = torch.cat([own.mT, (x * p[:, None]) @ x.mT], 1)
                np.add.at(found, rows[here], each[:, :depth].double().cpu().numpy())
        return found

    with torch.inference_mode():
        return split_halved(measure, np.arange(len(samples)))
