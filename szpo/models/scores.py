"""Scores of answers: gradients of their log-probability, and how adapters move their logits.

The score of an answer y is s = ∇_B log π(y | x), the direction in which its own log-probability
grows fastest; F = E[s sᵀ] is the Fisher matrix. It needs gradients of the policy and no vote.

Rows need no weights of their own. Let x_t be the input of an adapted layer at token t, and δ_t the
gradient of log π(y | x) in its output there. Then s = scale · Σ_t δ_t (A x_t)ᵀ for each row: one
forward pass stores A x_t (rank numbers per token), and one backward pass gives δ_t for all rows.
Autograd never differentiates the head, the largest product of a small model. With p the next-token
distribution and W the head's rows, ∇_h log π(y_t) = (W[y_t] − Σ_v p_v W_v) / temperature, computed
a few positions at a time.

Parts: s is a sum over tokens, and so over stretches of the answer. Given the answer up to a token,
what that token adds has mean 0, since it affects only the distributions of later tokens.

How adapters change the logits of given answers: scores and covariances without gradients. Let x_j
be the change of the logits over temperature that member j makes at a token, and p the reference's
distribution there. To first order in the members' weights, an answer's score along member j, the
growth of its log-probability, is Σ_t x_j(y_t) − E_p x_j, and its Fisher matrix is Σ_t cov_p(x_j,
x_k). Both need one forward pass for each member and one for the reference; the layers below the
first adapted one are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from szpo import background_work
from szpo.errors import RunError
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, keep_below, skip
from szpo.models.logprobs import (
    KL_LOGITS,
    Batch,
    Sample,
    answer_logits,
    answer_positions,
    batches,
    head_inputs,
    head_is_plain,
    reads_slices,
    run_batch,
    vocabulary_size,
)
from szpo.models.lora import Site
from szpo.models.out_of_memory import split_halved
from szpo.models.packed_layers import allow_gradients
from szpo.types import Floats, Theta

TOKENS = 384
"""Tokens of one pass, padding included. More need more memory."""
CPU_TOKENS = 640
"""The same on a CPU, where fewer are slower and more are hardly faster."""
POSITIONS = 96
"""Positions whose logits are in memory at once."""
MAX_MATH_TOKENS = 128
"""Longest row, in tokens, for which plain attention has a faster backward pass on a CPU."""

MOVED = 3_500_000
"""Logits of all members that live at once: more leave the processor's cache."""


@dataclass(frozen=True, slots=True)
class ScoredLaw:
    """The distribution of the scored answers, and the parts of their scores."""

    temperature: float = 1.0
    cuts: tuple[int, ...] = ()
    """Tokens of the answer at which another part of its score begins, ascending."""

    @property
    def rows(self) -> int:
        """Rows of an answer: the parts of its score."""
        return 1 + len(self.cuts)


def iterate_scores(
    adapted: AdaptedModel,
    start: Theta,
    samples: Sequence[Sample],
    law: ScoredLaw,
    *,
    tokens: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Score answers batch by batch.

    A score is the gradient of log π(answer | prompt) in every B, at the start. Only the part of
    the model above the first adapted site is differentiated.

    The model's own weights get no gradient. ``samples``: answers of the starting policy (same
    temperature, no top-p). ``tokens``: most tokens of one pass; None takes the default of the
    model's device.

    Yields:
        Indices of the samples, and their scores (rows, law.rows, sum of out·r in the order of
        ``sites``): the answer's score, or the parts of it.
    """
    reader = _Reader(adapted, start, law)
    device = adapted.model.device
    bound = tokens or (CPU_TOKENS if device.type == "cpu" else TOKENS)
    every = [b.index for b in batches(samples, device=device, vocab=1, tokens=bound)]
    with allow_gradients(adapted.model):
        for index in every:
            background_work.pause()
            part = np.array(index)
            scores = split_halved(lambda rows: reader.read(samples, rows), part)
            if not np.isfinite(scores).all():
                bad = int((~np.isfinite(scores)).any((1, 2)).sum())
                raise RunError(
                    f"score set-up: {bad} of {len(part)} score vectors are not finite; "
                    "set model.dtype to fp32, or choose other adapter.layers"
                )
            yield part, scores


def width_of(sites: Sequence[Site]) -> int:
    """Number of weights in all B of these sites: the length of a score vector."""
    return sum(site.outputs * site.rank for site in sites)


class _Reader:
    """Reads answers of one starting policy and gives their scores."""

    def __init__(self, adapted: AdaptedModel, start: Theta, law: ScoredLaw):
        self._model, self._sites, self._law = adapted.model, adapted.sites, law
        device = adapted.model.device
        self._A = {s.name: torch.from_numpy(start[s.a]).to(device) for s in self._sites}
        self._start: Deltas | None = None
        if any(start[s.b].any() for s in self._sites):
            B = {s.name: torch.from_numpy(start[s.b]).to(device)[None] for s in self._sites}
            self._start = Deltas(self._A, B)
        self._plain_head = head_is_plain(adapted.model)

    def read(self, samples: Sequence[Sample], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (rows, law.rows, width) of these samples, as one batch."""
        few = [samples[i] for i in rows]
        (batch,) = batches(few, device=self._model.device, vocab=1, tokens=2**62)
        order = np.array(batch.index)
        scores = np.empty((len(rows), self._law.rows, width_of(self._sites)), np.float32)
        first, length = batch.ids.shape[1] - batch.width - 1, batch.ids.shape[1]
        ends = [*(min(first + cut, length) for cut in self._law.cuts), length]
        with (
            torch.enable_grad(),
            attention_of(batch),
            attach_deltas(self._model, self._sites, self._start),
            _record(self._model, self._sites, self._A, batch) as seen,
        ):
            by = self._differentiate_head if self._plain_head else self._differentiate_by_tape
            gradient = by(batch, seen)
            outputs = [seen.outputs[s.name] for s in self._sites]
            deltas = torch.autograd.grad(seen.hidden, outputs, gradient, materialize_grads=True)
            for at, here in enumerate(map(slice, [0, *ends], ends)):
                # (A x)ᵀ δ and not δᵀ (A x): so the larger factor is not transposed.
                parts = [
                    s.scale * (seen.read[s.name][:, here].mT @ d[:, here].to(torch.float32)).mT
                    for s, d in zip(self._sites, deltas, strict=True)
                ]
                scores[order, at] = torch.cat([part.flatten(1) for part in parts], 1).cpu().numpy()
        return scores

    def _differentiate_head(self, batch: Batch, seen: _Seen) -> Tensor:
        """∇_h log π in closed form, a few positions at a time: (tokens, hidden)."""
        seen.run(self._model, batch, logits=False)
        head, targets = self._model.get_output_embeddings(), batch.targets[batch.mask]
        with torch.no_grad():
            gradient: Tensor = torch.empty_like(seen.hidden)
            for first in range(0, len(targets), POSITIONS):
                here = slice(first, first + POSITIONS)
                logits = nn.functional.linear(seen.hidden[here], head.weight, head.bias)
                logits = logits.to(torch.float32)
                p = torch.softmax(logits.div_(self._law.temperature), -1)
                mean = (p.to(head.weight.dtype) @ head.weight).to(torch.float32)
                own = head.weight[targets[here]].to(torch.float32)
                gradient[here] = ((own - mean) / self._law.temperature).to(gradient.dtype)
        return gradient

    def _differentiate_by_tape(self, batch: Batch, seen: _Seen) -> Tensor:
        """The same by autograd, for heads that do more than one product, such as a soft cap."""
        logits = seen.run(self._model, batch, logits=True) / self._law.temperature
        logp, targets = logits.log_softmax(-1), batch.targets[batch.mask]
        (gradient,) = torch.autograd.grad(logp.gather(-1, targets[:, None]).sum(), seen.leaf)
        return torch.as_tensor(gradient)


def attention_of(batch: Batch) -> AbstractContextManager[None]:
    """The attention with the fastest backward pass, if a model uses torch's.

    For short rows on a CPU, fused attention takes five times as long as plain attention in bf16,
    and a third longer in fp32. The choice holds for the whole process while the block runs.
    """
    if batch.ids.device.type == "cpu" and batch.ids.shape[1] <= MAX_MATH_TOKENS:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class _Seen:
    """What the hooks of a forward pass saw."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        """Outputs of each site, (rows, length, out), with gradients."""
        self.read: dict[str, Tensor] = {}
        """A x of each site, (rows, length, r), fp32."""
        self.hidden: Any = None
        """What the head reads where a token of an answer is predicted, (tokens, hidden)."""
        self.leaf: Any = None
        """The same, detached: the head's own graph begins here."""
        self.logits = False

    def run(self, model: Any, batch: Batch, *, logits: bool) -> Tensor:
        """Run the model; with ``logits`` those of all answer positions are returned, fp32."""
        self.logits = logits
        return torch.as_tensor(run_batch(model, batch).logits[0], dtype=torch.float32)


@contextmanager
def _record(
    model: Any, sites: tuple[Site, ...], A: dict[str, Tensor], batch: Batch
) -> Iterator[_Seen]:
    """Record, inside the block, what is needed for scores."""
    seen = _Seen()
    at = answer_positions(batch)

    def site_hook(name: str) -> Callable[..., Tensor]:
        def hook(_module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            with torch.no_grad():
                seen.read[name] = inputs[0].to(torch.float32) @ A[name].T
            # The graph begins at the first site; nothing below it is differentiated.
            seen.outputs[name] = out if out.requires_grad else out.detach().requires_grad_()
            return seen.outputs[name].clone()  # some models (Falcon) add to it in place

        return hook

    def head_hook(_module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.hidden = inputs[0][at]
        seen.leaf = seen.hidden.detach().requires_grad_()
        # Without logits the head gets one position: it needs some input. ``hidden[None, :1]``
        # would keep the strides of all positions, and the product then copies the whole head.
        return ((seen.leaf if seen.logits else seen.hidden.detach()[:1])[None], *inputs[1:])

    handles = [model.get_submodule(s.name).register_forward_hook(site_hook(s.name)) for s in sites]
    handles.append(model.get_output_embeddings().register_forward_pre_hook(head_hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


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
        moves = np.zeros((len(part), depth, count))
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
                np.add.at(moves, rows[here], each[:, :depth].double().cpu().numpy())
        return moves

    with torch.inference_mode():
        return split_halved(measure, np.arange(len(samples)))
