"""The contract of an engine: tokens and log-probabilities for several members in one batch.

Rows are prompts, each answered by one *member*: a policy of the same base model with LoRA weights
of its own. `szpo.generation.flat_engine` meets the contract for any transformers model whose
attention can be replaced, `szpo.generation.generate_engine` for the others, and
`szpo.generation.engine_choice` picks one and has the contract's public test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.generation.sampling import Sampling
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.logprobs import Sample, answer_logits, batches, vocabulary_size
from szpo.models.smaller_batches import split_halved
from szpo.types import Floats


@dataclass(frozen=True, slots=True)
class Generated:
    """Per row: the new tokens (an end token included) and whether an end token ended it."""

    tokens: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]


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
    ) -> Generated:
        """Continue each prompt under its member.

        Args:
            prompts: The tokens of each row's prompt, at least one.
            members: Member of each row; 0 … members of ``deltas`` − 1.
            deltas: The members' LoRA weights; None is the base model, which is member 0.
            sampling: How tokens are drawn, and how many at most.
            uniforms: Numbers in [0, 1) that decide the draws, (rows, ``max_new_tokens``).
            canary: Members that answer a common prompt must differ in the logits after it.

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
    """`Engine.logprobs` by plain padded passes; both engines have it as their method.

    Log-probabilities are in nats, one array per row, one value per completion token.
    """
    model = engine.adapted.model
    samples = [
        Sample(tuple(p), tuple(c), i)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    found: list[Floats] = [np.zeros(0)] * len(samples)
    spoken = [sample for sample in samples if sample.answer]

    def read(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        part = [spoken[i] for i in rows]
        for batch in batches(part, device=model.device, vocab=vocabulary_size(model)):
            asked = [part[i].group for i in batch.index]
            owner = torch.tensor([members[row] for row in asked], device=model.device)
            with attach_deltas(model, engine.adapted.sites, deltas, owner[:, None]):
                logp = answer_logits(model, batch, temperature).log_softmax(-1)
            picked = logp.gather(-1, batch.targets[batch.mask][:, None])[:, 0]
            parts = np.split(
                picked.cpu().to(torch.float64).numpy(),
                np.cumsum([len(completions[row]) for row in asked])[:-1],
            )
            for row, values in zip(asked, parts, strict=True):
                found[row] = values
        return rows

    with torch.inference_mode():
        split_halved(read, np.arange(len(spoken)))
    return found


def check_rows(
    prompts: Sequence[Sequence[int]],
    members: Sequence[int],
    deltas: Deltas | None,
    sampling: Sampling,
    uniforms: Floats,
) -> None:
    """Raise UsageError when the arguments of `Engine.generate` do not fit each other."""
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
