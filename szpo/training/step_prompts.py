"""The prompts of a step, in their seeded order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from szpo import seeds
from szpo.errors import UsageError
from szpo.optim.settings import Settings
from szpo.types import Prompt

Prompts = Callable[[int], Sequence[Prompt]]
"""Step → its K·N·D prompts; `prompt_order` makes one from a list."""


def prompt_order(pool: Sequence[Prompt], settings: Settings) -> Prompts:
    """Training prompts in seeded permutations, one per epoch, K·N·D of them a step.

    Raises:
        UsageError: the pool is empty.
    """
    if not pool:
        raise UsageError("prompts: the training set is empty")
    prompts, per_step = tuple(pool), settings.K * settings.N * settings.D

    def of(step: int) -> tuple[Prompt, ...]:
        order = seeds.endless_order(
            len(prompts),
            per_step,
            lambda epoch: seeds.derive(settings.root_seed, "prompts", step=epoch),
            first=step * per_step,
        )
        return tuple(prompts[i] for i in order)

    return of
