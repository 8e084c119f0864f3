"""The contract of an engine: tokens and log-probabilities for several members in one batch.

Rows are prompts, each answered by one *member*: a policy of the same base model with its own LoRA
weights. `szpo.models.local_engines` has one for transformers models whose attention can be
replaced, one for all others, the choice between them, and the contract's public test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.models.answer_shares import Tokens
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.logprobs import (
    Sample,
    answer_positions,
    batches,
    logit_slices,
    reads_slices,
    run_batch,
    token_logprobs,
    vocabulary_size,
)
from szpo.models.out_of_memory import split_halved
from szpo.models.sampling import Sampling
from szpo.types import Floats


class Engine(Protocol):
    """Generates and scores for rows that belong to different members of the same base model."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Tokens:
        """Continue each prompt under its member.

        Args:
            prompts: The tokens of each row's prompt, at least one.
            members: The member of each row, 0 … ``deltas.members`` − 1.
            deltas: The members' LoRA weights; None: the base model, as member 0.
            sampling: How tokens are drawn, and how many at most.
            uniforms: Uniform numbers in [0, 1) for the draws, (rows, ``max_new_tokens``).
            canary: Check that members with a common prompt differ in the logits after it.

        Returns:
            The new tokens of each row, with the end token if one ended it.

        Raises:
            RunError: the canary found two members that are the same policy.
            UsageError: the arguments do not fit each other.
        """

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        *,
        temperature: float = 1.0,
    ) -> list[Floats]:
        """Log-probability of each completion token under the row's member, in nats."""


class HasModel(Protocol):
    """An engine that runs a transformers model in this process."""

    @property
    def adapted(self) -> AdaptedModel:
        """The model that the engine runs."""


def padded_logprobs(
    engine: HasModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    members: Sequence[int],
    deltas: Deltas | None,
    *,
    temperature: float = 1.0,
) -> list[Floats]:
    """`Engine.logprobs` by plain padded passes, which every model can run.

    Log-probabilities are in nats: one array per row, with one value per completion token.
    """
    model, sliced = engine.adapted.model, reads_slices(engine.adapted)
    samples = [
        Sample(tuple(p), tuple(c), i)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    logprobs: list[Floats] = [np.zeros(0)] * len(samples)
    spoken = [sample for sample in samples if sample.answer]

    def read(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        part = [spoken[i] for i in rows]
        for batch in batches(part, device=model.device, vocab=vocabulary_size(model)):
            asked = [part[i].group for i in batch.index]
            owner = torch.tensor([members[row] for row in asked], device=model.device)
            at, run = answer_positions(batch), partial(run_batch, model, batch)
            with attach_deltas(model, engine.adapted.sites, deltas, owner[:, None]):
                slices = logit_slices(model, at, run, temperature, sliced=sliced)
            picked = token_logprobs(slices, batch.targets[batch.mask])
            parts = np.split(
                picked.cpu().to(torch.float64).numpy(),
                np.cumsum([len(completions[row]) for row in asked])[:-1],
            )
            for row, values in zip(asked, parts, strict=True):
                logprobs[row] = values
        return rows

    with torch.inference_mode():
        split_halved(read, np.arange(len(spoken)))
    return logprobs


def check_rows(
    prompts: Sequence[Sequence[int]],
    members: Sequence[int],
    deltas: Deltas | None,
    sampling: Sampling,
    uniforms: Floats,
) -> None:
    """Raise UsageError if the arguments of `Engine.generate` do not fit each other."""
    if len(members) != len(prompts):
        raise UsageError(f"generate: {len(prompts)} prompts but {len(members)} members")
    count = 1 if deltas is None else deltas.members
    if any(not 0 <= member < count for member in members):
        raise UsageError(f"generate: members must lie in 0 … {count - 1}")
    if uniforms.shape != (len(prompts), sampling.max_new_tokens):
        raise UsageError(
            f"generate: uniforms have shape {uniforms.shape}, "
            f"need {(len(prompts), sampling.max_new_tokens)}"
        )
    if any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("generate: a prompt has no tokens; give it at least one")
