"""Training an adapter on the LM head with TRL's DPOTrainer, which refuses one.

TRL multiplies hidden states by the head's weight itself, in tiles, and would leave an adapter on
the head out; so it declines. Here the head computes its logits like every other layer, with its
adapter, and the log-probabilities are taken from them. That needs room for whole logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from szpo.baselines.actor import Actor, Peft


@contextmanager
def trainable_head(actor: Actor, model: Peft) -> Iterator[None]:
    """Within it a DPOTrainer may be built on an adapted LM head, and gets a `plain_head`."""
    base = model.get_base_model()
    head = actor.loaded.model.get_output_embeddings()
    names = [name for name, module in actor.loaded.model.named_modules() if module is head]
    if not any(site.name in names for site in actor.sites):
        yield
        return
    layer = base.get_output_embeddings()
    # What the trainer asks before it refuses; the layer in the model stays the adapted one.
    vars(base)["get_output_embeddings"] = layer.get_base_layer
    try:
        yield
    finally:
        vars(base).pop("get_output_embeddings", None)
    plain_head(base)


def plain_head(base: Any) -> None:
    """Let a built trainer get its log-probabilities from the model's own logits.

    Takes the place of the forward pass that TRL's ``add_fused_lm_head`` put into the model, and
    gives what its DPO loss and figures read. `szpo.baselines.actor.wrap_peft` takes it out again.
    """
    original = type(base).forward

    def forward(
        *args: Any, labels: Tensor | None = None, fused_lm_head: bool = False, **more: Any
    ) -> Any:
        if not fused_lm_head or labels is None:
            return original(base, *args, labels=labels, **more)
        logits = original(base, *args, **more).logits[:, :-1].to(torch.float32)
        return per_token(logits, labels[:, 1:])

    vars(base)["forward"] = forward


def per_token(logits: Tensor, labels: Tensor) -> SimpleNamespace:
    """Log-probability of each label and the figures beside it; zero where the label is −100.

    Args:
        logits: (rows, tokens, words), fp32, of the positions before the labels.
        labels: (rows, tokens).
    """
    mask = labels != -100
    targets = labels.clamp(min=0)[..., None]
    logp = logits.log_softmax(-1)
    chosen = logp.gather(-1, targets)[..., 0].masked_fill(~mask, 0.0)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1).masked_fill(~mask, 0.0)
        mean = logits.mean(-1).masked_fill(~mask, 0.0)
        top = (logits.argmax(-1) == targets[..., 0]) & mask
    return SimpleNamespace(
        loss=-chosen.sum() / mask.sum().clamp(min=1), log_probs=chosen, entropy=entropy,
        mean_logits=mean, is_top1=top, label_mask=mask, log_sum_sq_probs=None, aux_loss=None,
    )  # fmt: skip
