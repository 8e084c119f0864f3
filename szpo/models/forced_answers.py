"""Answers that policies are forced along: gradients of their log-probability, and KL by the way.

An answer that one policy drew tells of any other one: read token by token, it gives that policy's
distribution at each of them (teacher forcing). What does not depend on the adapted weights, the
start's own reading and the layers below the first adapted one, is computed once for all policies.

KL is exact over the whole vocabulary at every token; only the path is drawn, Σ_t KL(π(·|y_<t) ‖
π₀(·|y_<t)). Autograd never differentiates the head: with p the next-token distribution and W the
head's rows, ∇_h log π(y_t) = (W[y_t] − Σ_v p_v W_v) / temperature, a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from szpo import background_work
from szpo.errors import RunError, UsageError
from szpo.models import states
from szpo.models.batched_lora import AdaptedModel, Below, Deltas, attach_deltas, keep_below, skip
from szpo.models.logprobs import (
    Batch,
    Sample,
    answer_positions,
    batches,
    head_inputs,
    kl_of_logits,
    reads_slices,
    run_batch,
)
from szpo.models.packed_layers import allow_gradients
from szpo.models.scores import CPU_TOKENS, POSITIONS, TOKENS, attention_of
from szpo.types import Floats, Theta


@dataclass(eq=False)
class _Read:
    """A batch of answers, and what has been read of it."""

    batch: Batch
    at: tuple[Tensor, Tensor]
    below: Below
    start: Tensor
    """What the head reads of the start at each token of the answers, (tokens, hidden)."""
    last: Tensor
    """The same of the policy whose gradient was read last."""

    @property
    def rows(self) -> Tensor:
        """The row of each token."""
        return self.batch.mask.nonzero(as_tuple=True)[0]


class Forced:
    """Answers along which policies of one adapter are forced."""

    def __init__(
        self,
        adapted: AdaptedModel,
        samples: Sequence[Sample],
        start: Deltas | None = None,
        *,
        temperature: float = 1.0,
        layer: int | None = None,
    ):
        """Read the start, whose ``states`` are those of this layer's output; None: of none.

        Raises:
            UsageError: the model does more to its logits than one product.
        """
        self._adapted, self._temperature, self._count = adapted, temperature, len(samples)
        if not reads_slices(adapted):
            raise UsageError(
                "gradients need a head that is one product and not adapted; this model's is not: "
                "take the best of several answers (--best-of) or a mix of adapters instead"
            )
        model, device = adapted.model, adapted.model.device
        bound = CPU_TOKENS if device.type == "cpu" else TOKENS
        hidden = model.config.get_text_config().hidden_size
        self.states = None if layer is None else np.zeros((len(samples), hidden))
        """Mean of the layer's output over each answer's tokens at the start, (answers, hidden)."""
        self._parts: list[_Read] = []
        spoken = [i for i, sample in enumerate(samples) if sample.answer]
        every = batches([samples[i] for i in spoken], device=device, vocab=1, tokens=bound)
        for batch in every:
            index = tuple(spoken[i] for i in batch.index)
            batch = Batch(index, batch.ids, batch.attention, batch.width, batch.mask)
            at, run = answer_positions(batch), partial(run_batch, model, batch)
            with (
                torch.enable_grad(),  # its products round as those of `gradient` do
                attention_of(batch),
                attach_deltas(model, adapted.sites, start),
                keep_below(adapted) as below,
                states.keep(model, layer) as seen,
            ):
                read = head_inputs(model, at, run)
            if self.states is not None:
                self.states[[*index]] = states.means(seen[0], batch, adapted.stop_tokens)
            self._parts.append(_Read(batch, at, below, read, read))

    def gradient(
        self, theta: Theta, moving: Sequence[str], weights: Floats, cuts: Sequence[int] = ()
    ) -> tuple[Theta, Floats]:
        """The gradient of Σ weight · log π(token) in some factors, and KL to the start.

        Args:
            theta: Every factor A and B of the policy, by ``site.a`` and ``site.b``.
            moving: Names of those that the gradient is in.
            weights: Of the parts of each answer, (answers, parts).
            cuts: Tokens of an answer at which another part begins, ascending.

        Returns:
            The gradient by name, and each answer's KL(π ‖ start) in nats.

        Raises:
            RunError: the gradient is not finite.
        """
        factors, deltas = self._attach(theta, moving)
        kl = np.zeros(self._count)
        with allow_gradients(self._adapted.model):
            for part, hidden in self._each(deltas, graph=True):
                row, token = (
                    each.cpu().numpy() for each in part.batch.mask.nonzero(as_tuple=True)
                )
                place = np.searchsorted(np.asarray(cuts), token, side="right")
                own = torch.from_numpy(weights[np.array(part.batch.index)[row], place])
                slope = torch.empty_like(hidden)
                each = self._compare(
                    hidden.detach(), part.start, part.batch.targets[part.batch.mask],
                    own.to(hidden.device, torch.float32), slope,
                )  # fmt: skip
                np.add.at(kl, np.array(part.batch.index)[part.rows.cpu()], each)
                torch.autograd.backward(hidden, slope)
                part.last = hidden.detach()
        gradient = {
            name: np.zeros(value.shape, np.float32) if value.grad is None
            else value.grad.cpu().numpy()
            for name, value in factors.items()
        }  # fmt: skip
        if not all(np.isfinite(value).all() for value in gradient.values()):
            raise RunError("a gradient is not finite; set model.dtype to fp32")
        return gradient, kl

    def cost(self, theta: Theta) -> Floats:
        """KL to the policy whose `gradient` was read last, nats an answer, (answers,)."""
        _, deltas = self._attach(theta, ())
        nats = np.zeros(self._count)
        for part, hidden in self._each(deltas, graph=False):
            each = self._compare(hidden, part.last)
            np.add.at(nats, np.array(part.batch.index)[part.rows.cpu()], each)
        return nats

    def _attach(self, theta: Theta, moving: Sequence[str]) -> tuple[Mapping[str, Tensor], Deltas]:
        device, sites = self._adapted.model.device, self._adapted.sites
        every = {
            name: torch.tensor(theta[name], device=device, requires_grad=name in moving)
            for site in sites
            for name in (site.a, site.b)
        }
        A = {site.name: every[site.a] for site in sites}
        B = {site.name: every[site.b][None] for site in sites}
        return {name: every[name] for name in moving}, Deltas(A, B)

    def _each(self, deltas: Deltas, *, graph: bool) -> Iterator[tuple[_Read, Tensor]]:
        model, sites = self._adapted.model, self._adapted.sites
        for part in self._parts:
            background_work.pause()
            run = partial(run_batch, model, part.batch)
            with (
                torch.enable_grad(),
                attention_of(part.batch),
                skip(part.below),
                attach_deltas(model, sites, deltas),
            ):
                yield part, head_inputs(model, part.at, run)

    def _compare(
        self,
        hidden: Tensor,
        other: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Floats:
        """KL at each token between what the head reads of two policies, nats, (tokens,).

        With targets ``slope`` becomes the gradient of Σ weight · log π(target) in ``hidden``.
        """
        head, nats = self._adapted.model.get_output_embeddings(), np.zeros(len(hidden))
        with torch.no_grad():
            for first in range(0, len(hidden), POSITIONS):
                here = slice(first, first + POSITIONS)
                moved, still = (
                    nn.functional.linear(each[here], head.weight, head.bias)
                    .to(torch.float32).div_(self._temperature)
                    for each in (hidden, other)
                )  # fmt: skip
                if targets is not None and weights is not None and slope is not None:
                    p = torch.softmax(moved, -1).to(head.weight.dtype)
                    mean = (p @ head.weight).to(torch.float32)
                    own = head.weight[targets[here]].to(torch.float32)
                    factor = weights[here, None] / self._temperature
                    slope[here] = ((own - mean) * factor).to(slope.dtype)
                nats[here] = kl_of_logits(moved, still).cpu().numpy()
        return nats
