"""How adapters change the logits of given answers: scores and covariances without gradients.

Let x_j be the change of the logits over temperature that member j makes at a token, and p the
reference's distribution there. To first order in the members' weights, an answer's score along
member j, the growth of its log-probability, is Σ_t x_j(y_t) − E_p x_j, and its Fisher matrix is
Σ_t cov_p(x_j, x_k). Both need one forward pass for each member and one for the reference; the
layers below the first adapted one are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szpo.models.batched_lora import AdaptedModel, Deltas, adapted_layers, attach_deltas
from szpo.models.logprobs import (
    KL_LOGITS,
    Batch,
    Sample,
    answer_logits,
    batches,
    head_inputs,
    head_is_plain,
    vocabulary_size,
)
from szpo.models.smaller_batches import split_halved
from szpo.types import Floats


def logit_moves(
    adapted: AdaptedModel,
    deltas: Deltas,
    samples: Sequence[Sample],
    *,
    reference: Deltas | None = None,
    temperature: float = 1.0,
) -> Floats:
    """Each answer's scores along the members, and its Fisher matrix.

    Args:
        adapted: The base model and its adapted weights.
        deltas: The members, a short way from the reference each.
        samples: Answers of the reference.
        reference: One member; None is the base model.
        temperature: The sampling temperature.

    Returns:
        (answers, 1 + members, members): the scores in row 0, then the matrix, in nats.
    """
    model, sites, count = adapted.model, adapted.sites, deltas.members
    vocab, head = vocabulary_size(model), model.get_output_embeddings()
    plain = head_is_plain(model) and all(model.get_submodule(s.name) is not head for s in sites)
    at_once = max(1, 2 * KL_LOGITS // (vocab * (count + 1)))
    bounds = {"vocab": 1} if plain else {"vocab": vocab * (count + 1), "logits": KL_LOGITS}
    owners = [torch.full((1, 1), member) for member in range(count)]

    def read(batch: Batch) -> Tensor:
        return head_inputs(model, batch) if plain else answer_logits(model, batch, temperature)

    def move(states: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
        """The reference's p (tokens, vocabulary), and x (tokens, members, vocabulary)."""
        apart = states.to(torch.float32) - still.to(torch.float32)[:, None]
        if not plain:
            return still.softmax(-1), apart
        logits = head(still).to(torch.float32).div_(temperature)
        # The head reads the difference: that of two rounded logits would be mostly rounding.
        x = nn.functional.linear(apart.to(head.weight.dtype), head.weight)
        return logits.softmax(-1), x.to(torch.float32).div_(temperature)

    def measure(part: NDArray[np.int64]) -> Floats:
        found = np.zeros((len(part), 1 + count, count))
        for batch in batches([samples[i] for i in part], device=model.device, **bounds):
            with attach_deltas(model, sites, reference), _keep_below(model, adapted) as below:
                still = read(batch)
            with attach_deltas(model, sites, deltas) as attachment, _skip(below):
                moved = []
                for owner in owners:
                    assert attachment is not None
                    attachment.assign(owner)
                    moved.append(read(batch))
            states, targets = torch.stack(moved, 1), batch.targets[batch.mask]
            rows = np.array(batch.index)[batch.mask.nonzero(as_tuple=True)[0].cpu().numpy()]
            for first in range(0, len(rows), at_once):
                here = slice(first, first + at_once)
                p, x = move(states[here], still[here])
                x -= x @ p[..., None]
                own = x.gather(-1, targets[here][:, None, None].expand(-1, count, 1))
                each = torch.cat([own.mT, (x * p[:, None]) @ x.mT], 1).double().cpu().numpy()
                np.add.at(found, rows[here], each)
        return found

    with torch.inference_mode():
        return split_halved(measure, np.arange(len(samples)))


@dataclass
class _Below:
    """The layers below the first adapted one, and what the last of them gave."""

    layers: list[nn.Module]
    output: Any = None


@contextmanager
def _keep_below(model: Any, adapted: AdaptedModel) -> Iterator[_Below]:
    """Keep what the layers below the first adapted one give for the rows of this block."""
    upper = adapted_layers(model, adapted.sites)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    whole = next((list(m) for m in lists if upper and any(each is upper[0] for each in m)), [])
    below = _Below(whole[: len(whole) - len(upper)])

    def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
        below.output = out

    handle = below.layers[-1].register_forward_hook(keep) if below.layers else None
    try:
        yield below
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def _skip(below: _Below) -> Iterator[None]:
    """Let these layers give what was kept, without computing it again."""
    before = [layer.__dict__.get("forward") for layer in below.layers]
    for layer in below.layers:
        layer.forward = lambda *_inputs, **_more: below.output
    try:
        yield
    finally:
        for layer, own in zip(below.layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own
