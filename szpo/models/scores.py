"""Score vectors: per answer the gradient of its log-probability in every B, at the start.

The score of an answer y is s = ∇_B log π(y | x), the direction in which its own log-probability
grows fastest; F = E[s sᵀ] is the Fisher matrix. It needs gradients of the policy and no vote.

Rows need no weights of their own. Let x_t be the input of an adapted layer at token t, and δ_t the
gradient of log π(y | x) in its output there. Then s = scale · Σ_t δ_t (A x_t)ᵀ for each row: one
forward pass stores A x_t (rank numbers per token), and one backward pass gives δ_t for all rows.
Autograd never differentiates the head, the largest product of a small model. With p the next-token
distribution and W the head's rows, ∇_h log π(y_t) = (W[y_t] − Σ_v p_v W_v) / temperature, computed
a few positions at a time.

Redraws: F is also Σ_t E[g_t g_tᵀ] along answers of the policy, with g_t the score of token t. So
tokens ỹ_t drawn anew at every position, given the answer up to there, give another sample of F for
only one more backward pass (Kunstner and others 2019, arXiv 1905.12558, section 2.1).

Parts: s is a sum over tokens, and so over stretches of the answer. Given the answer up to a token,
what that token adds has mean 0, since it affects only the distributions of later tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from szpo import seeds, turns
from szpo.errors import RunError
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.four_bit import allow_gradients
from szpo.models.logprobs import (
    Batch,
    Sample,
    answer_positions,
    batches,
    head_is_plain,
    run_batch,
)
from szpo.models.lora_sites import Site
from szpo.models.smaller_batches import split_halved
from szpo.types import Theta

TOKENS = 384
"""Tokens of one pass, padding included. More need more memory."""
CPU_TOKENS = 640
"""The same on a CPU, where fewer are slower and more are hardly faster."""
POSITIONS = 96
"""Positions whose logits are in memory at once."""
MAX_MATH_TOKENS = 128
"""Longest row, in tokens, for which plain attention has a faster backward pass on a CPU."""


@dataclass(frozen=True, slots=True)
class ScoredLaw:
    """The distribution of the scored answers, and how many tokens are drawn from it anew."""

    temperature: float = 1.0
    redraws: int = 0
    """Redraws per answer, besides its own tokens."""
    seed: int = 0
    """Seed of the redraws."""
    cuts: tuple[int, ...] = ()
    """Tokens of the answer at which another part of its own score begins, ascending."""

    @property
    def rows(self) -> int:
        """Rows of an answer: the parts of its own score, then one for each redraw."""
        return 1 + len(self.cuts) + self.redraws


def iterate_scores(
    adapted: AdaptedModel,
    start: Theta,
    samples: Sequence[Sample],
    law: ScoredLaw,
    *,
    tokens: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Score answers batch by batch: their own scores, and those of tokens redrawn along them.

    A score is the gradient of log π(answer | prompt) in every B, at the start. Only the part of
    the model above the first adapted site is differentiated.

    Args:
        adapted: The model, whose own weights get no gradient, and the adapted weights.
        start: A and B of each site, by ``site.a`` and ``site.b``.
        samples: Answers of the starting policy (same temperature, no top-p).
        law: The run's sampling temperature, and the number of redraws.
        tokens: Most tokens of one pass; None takes the default of the model's device.

    Yields:
        Indices of the samples, and their scores (rows, law.rows, sum of out·r in the order of
        ``sites``); each row begins with the answer's own score, or with the parts of it.
    """
    reader = _Reader(adapted, start, law)
    device = adapted.model.device
    bound = tokens or (CPU_TOKENS if device.type == "cpu" else TOKENS)
    every = [b.index for b in batches(samples, device=device, vocab=1, tokens=bound)]
    with allow_gradients(adapted.model):
        for index in every:
            turns.pause()
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
        uniforms = self._uniforms(batch, rows[order])
        found = np.empty((len(rows), self._law.rows, width_of(self._sites)), np.float32)
        first, length = batch.ids.shape[1] - batch.width - 1, batch.ids.shape[1]
        ends = [*(min(first + cut, length) for cut in self._law.cuts), length]
        at = 0
        with (
            torch.enable_grad(),
            _attention_of(batch),
            attach_deltas(self._model, self._sites, self._start),
            _record(self._model, self._sites, self._A, batch) as seen,
        ):
            gradients = (
                self._differentiate_head if self._plain_head else self._differentiate_by_tape
            )(batch, uniforms, seen)
            outputs = [seen.outputs[s.name] for s in self._sites]
            for draw, gradient in enumerate(gradients):
                more = draw + 1 < len(gradients)
                deltas = torch.autograd.grad(
                    seen.hidden, outputs, gradient, retain_graph=more, materialize_grads=True
                )
                begin = 0
                for end in ends if draw == 0 else ends[-1:]:
                    here = slice(begin, end)
                    # (A x)ᵀ δ and not δᵀ (A x): so the larger factor is not transposed.
                    parts = [
                        s.scale * (seen.read[s.name][:, here].mT @ d[:, here].to(torch.float32)).mT
                        for s, d in zip(self._sites, deltas, strict=True)
                    ]
                    flat = torch.cat([part.flatten(1) for part in parts], 1)
                    found[order, at] = flat.cpu().numpy()
                    begin, at = end, at + 1
        return found

    def _uniforms(self, batch: Batch, numbers: NDArray[np.int64]) -> Tensor:
        """One number in [0, 1) per answer token and redraw, (tokens, redraws)."""
        count = self._law.redraws
        lengths = batch.mask.sum(1).tolist()
        keys = [seeds.derive(self._law.seed, "words drawn anew", k=int(i)) for i in numbers]
        parts = [
            seeds.uniform(key, n * count).reshape(n, count)
            for key, n in zip(keys, lengths, strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts)).to(batch.ids.device, torch.float32)

    def _differentiate_head(self, batch: Batch, uniforms: Tensor, seen: _Seen) -> Tensor:
        """∇_h log π in closed form, a few positions at a time: (1 + redraws, tokens, hidden)."""
        seen.run(self._model, batch, logits=False)
        head, targets = self._model.get_output_embeddings(), batch.targets[batch.mask]
        with torch.no_grad():
            found: Tensor = seen.hidden.new_empty(1 + uniforms.shape[1], *seen.hidden.shape)
            for first in range(0, len(targets), POSITIONS):
                here = slice(first, first + POSITIONS)
                logits = nn.functional.linear(seen.hidden[here], head.weight, head.bias)
                logits = logits.to(torch.float32)
                p = torch.softmax(logits.div_(self._law.temperature), -1)
                mean = (p.to(head.weight.dtype) @ head.weight).to(torch.float32)
                for draw, words in enumerate(_tokens_to_score(p, targets[here], uniforms[here])):
                    own = head.weight[words].to(torch.float32)
                    found[draw, here] = ((own - mean) / self._law.temperature).to(found.dtype)
        return found

    def _differentiate_by_tape(self, batch: Batch, uniforms: Tensor, seen: _Seen) -> Tensor:
        """The same by autograd, for heads that do more than one product, such as a soft cap."""
        logits = seen.run(self._model, batch, logits=True) / self._law.temperature
        logp, targets = logits.log_softmax(-1), batch.targets[batch.mask]
        every = _tokens_to_score(logp.detach().exp(), targets, uniforms)
        return torch.stack(
            [
                torch.autograd.grad(
                    logp.gather(-1, words[:, None]).sum(), seen.leaf, retain_graph=True
                )[0]
                for words in every
            ]
        )


def _tokens_to_score(p: Tensor, own: Tensor, uniforms: Tensor) -> Iterator[Tensor]:
    """The answers' own tokens, then tokens drawn from p (tokens, vocabulary) for each redraw."""
    yield own
    if uniforms.shape[1]:
        cumulative = p.cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        yield from drawn.clamp_(max=p.shape[1] - 1).T


def _attention_of(batch: Batch) -> AbstractContextManager[None]:
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
