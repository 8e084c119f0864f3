"""Hidden states of answers: the mean of one layer's output over an answer's tokens.

The regressors of a taste (`szpo.optim.state_regression`). A layer in the upper half knows what an
answer says; the last ones turn it into next words (experiments/LOG.md, 2026-11-30).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from szpo import background_work
from szpo.errors import UsageError
from szpo.models import loading
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.loading import Loaded
from szpo.models.logprobs import Batch, Sample, batches, body, run_batch
from szpo.models.out_of_memory import split_halved
from szpo.types import Answer, Floats, Prompt

DEPTH: Final = 5 / 6
"""Share of the layers below the states that are read by default."""


class _Reached(Exception):  # noqa: N818
    """Ends a pass at the layer that is read: what lies above it is not computed."""


def layers_of(model: Any) -> list[nn.Module]:
    """The model's decoder layers, in order.

    Raises:
        UsageError: the model has no list of as many layers as its configuration says.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UsageError(
            f"{type(model).__name__} has no list of {count} layers, so its hidden states cannot "
            "be read; vote on named features instead"
        )
    return list(lists[0])


def usual_layer(layers: int) -> int:
    """How many of a model's layers stand below the states that are read by default.

    >>> usual_layer(30), usual_layer(2), usual_layer(1)
    (25, 2, 1)
    """
    return max(1, round(DEPTH * layers))


def mean_states(
    adapted: AdaptedModel, samples: Sequence[Sample], layer: int, deltas: Deltas | None = None
) -> Floats:
    """States h of answers after their prompts, (answers, hidden); 0 for an answer without tokens.

    Args:
        adapted: The model.
        samples: Prompts and answers as tokens.
        layer: How many layers stand below, from 1.
        deltas: The start's own LoRA factors, as one member; None: the base.

    Raises:
        UsageError: the model has no such layer.
    """
    model, every = adapted.model, layers_of(adapted.model)
    if not 1 <= layer <= len(every):
        raise UsageError(f"layer {layer} of the states: the model has layers 1 to {len(every)}")
    hidden = np.zeros((len(samples), model.config.get_text_config().hidden_size))
    spoken = [i for i, sample in enumerate(samples) if sample.answer]

    def read(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        part = [samples[spoken[i]] for i in rows]
        for batch in batches(part, device=model.device, vocab=1):
            owner = torch.zeros(len(batch.index), 1, dtype=torch.long, device=model.device)
            start = attach_deltas(model, adapted.sites, deltas, owner)
            with keep(model, layer, ends=True) as seen, start, contextlib.suppress(_Reached):
                run_batch(body(model), batch)
            hidden[[spoken[rows[i]] for i in batch.index]] = means(seen[0], batch)
        return rows

    with torch.inference_mode():
        split_halved(read, np.arange(len(spoken)))
    return hidden


@contextlib.contextmanager
def keep(model: Any, layer: int | None, *, ends: bool = False) -> Iterator[list[torch.Tensor]]:
    """Keep a layer's outputs of the passes in this block; None: of no layer.

    ``ends``: a pass ends there, by an error.
    """
    seen: list[torch.Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        if ends:
            raise _Reached

    if layer is None:
        yield seen
        return
    handle = layers_of(model)[layer - 1].register_forward_hook(background_work.only_here(hook))
    try:
        yield seen
    finally:
        handle.remove()


def means(output: torch.Tensor, batch: Batch, ends: Sequence[int] = ()) -> Floats:
    """The mean of a layer's output over each answer's tokens but ``ends``, (rows, hidden)."""
    mask = batch.mask & ~torch.isin(batch.targets, torch.tensor(ends, device=batch.ids.device))
    mask = mask[:, :, None]
    spoken = output[:, -batch.width :].to(torch.float32)
    mean = torch.where(mask, spoken, 0).sum(1) / mask.sum(1).clamp(min=1)
    return np.asarray(mean.double().cpu().numpy())


def of_texts(loaded: Loaded, texts: Sequence[tuple[Prompt, Answer]], layer: int) -> Floats:
    """`mean_states` of answers' texts after their prompts by a loaded model without adapters.

    Raises:
        UsageError: A text is longer than the model reads.
    """
    samples = [
        Sample(
            loading.encode(loaded.tokenizer, prompt), tuple(loading.text_tokens(loaded, answer))
        )
        for prompt, answer in texts
    ]
    reader = loading.reader_of(loaded)
    sizes = [len(each.prompt) + len(each.answer) for each in samples]
    if over := [size for size in sizes if reader.over(size)]:
        raise UsageError(
            f"{len(over)} of {len(sizes)} answers are longer, with their prompts, than the "
            f"{reader.most:,} tokens that model {loaded.name} reads (the longest has "
            f"{max(over):,}); leave them out"
        )
    return mean_states(loaded.adapt(), samples, layer)
