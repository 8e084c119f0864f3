"""Answers, starting weights and members for the tests of log-probabilities and scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from szpo.models import logprobs, scores
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, find_sites
from szpo.models.logprobs import Sample
from szpo.models.lora import Site, lora_config
from szpo.types import Theta
from tests.support import tiny_models

SAMPLES = [
    Sample((5, 9, 11), (40, 41), 0),
    Sample((5, 8), (7, 300, 17, 2), 1),
    Sample((6, 9, 11, 12, 13, 14, 15, 16, 17, 18), (99,), 2),
    Sample((5,), (12, 2), 3),
]


def parts(name: str, rank: int = 1) -> tuple[torch.nn.Module, tuple[Site, ...], Theta]:
    model = tiny_models.build(name)
    sites = find_sites(model, lora_config(model, rank=rank, layers=(1, 2)))
    rng = np.random.default_rng(0)
    start = {}
    for s in sites:
        start[s.a] = rng.normal(size=(s.rank, s.inputs)).astype(np.float32) / s.inputs
        start[s.b] = np.zeros((s.outputs, s.rank), np.float32)
    return model, sites, start


def deltas(sites: tuple[Site, ...], start: Theta, b: Theta) -> Deltas:
    return Deltas(
        {s.name: torch.from_numpy(start[s.a]) for s in sites},
        {s.name: torch.from_numpy(b[s.b])[None] for s in sites},
    )


def score_vectors(
    adapted: AdaptedModel,
    start: Theta,
    samples: Sequence[Sample],
    temperature: float = 1.0,
    tokens: int | None = None,
) -> np.ndarray:
    """The answers' own scores, in the order of the samples."""
    found = np.empty((len(samples), scores.width_of(adapted.sites)), np.float32)
    law = scores.ScoredLaw(temperature)
    for index, some in scores.iterate_scores(adapted, start, samples, law, tokens=tokens):
        found[index] = some[:, 0]
    return found


def by_rows(
    model: Any, sites: tuple[Site, ...], start: Theta, samples: list[Sample], temperature: float
) -> np.ndarray:
    """Scores by autograd alone, with a separate B for every row and all logits."""
    A = {s.name: torch.from_numpy(start[s.a]) for s in sites}
    found = np.empty((len(samples), scores.width_of(sites)), np.float32)
    vocab = logprobs.vocabulary_size(model)
    for batch in logprobs.batches(samples, device=model.device, vocab=vocab):
        rows = len(batch.index)
        B = {
            s.name: torch.from_numpy(start[s.b]).expand(rows, -1, -1).clone().requires_grad_()
            for s in sites
        }
        own = torch.arange(rows)[:, None]
        with torch.enable_grad(), attach_deltas(model, sites, Deltas(A, B), own):
            logits = logprobs.answer_logits(model, batch, temperature)
            logp = logits.log_softmax(-1).gather(-1, batch.targets[batch.mask][:, None])
            grads = torch.autograd.grad(logp.sum(), [B[s.name] for s in sites])
        found[list(batch.index)] = torch.cat([g.reshape(rows, -1) for g in grads], 1)
    return found
