"""Before and after generation: the seeded order of prompts, and comparisons cut from batches.

`szpo.training.rollouts` generates the two batches, `szpo.training.controller` asks the evaluators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import RunError, UsageError
from szpo.optim.settings import Settings
from szpo.types import Batch, Comparison, Prompt, Row

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


def compare(
    settings: Settings,
    step: int,
    prompts: Sequence[Sequence[Prompt]],
    batches: Sequence[Batch],
) -> tuple[Comparison, ...]:
    """A rollout's batches, (plus, minus) per direction, cut into N comparisons of D rows.

    Raises:
        RunError: a batch is missing, or does not answer every prompt.
    """
    if len(batches) != len(prompts) or any(
        len(batch) != len(asked) for batch, asked in zip(batches, prompts, strict=False)
    ):
        raise RunError(
            f"step {step}: the policy answered {[len(batch) for batch in batches]} prompts, "
            f"and was asked {[len(asked) for asked in prompts]}"
        )
    result = []
    for k in range(settings.K):
        rows = [
            Row(clean_prompt(prompt), clean_answer(plus), clean_answer(minus))
            for prompt, plus, minus in zip(
                prompts[2 * k], batches[2 * k], batches[2 * k + 1], strict=True
            )
        ]
        for n in range(settings.N):
            key = seeds.derive(settings.root_seed, "comparison", step=step, k=k, name=str(n))
            shown = tuple(rows[n * settings.D : (n + 1) * settings.D])
            result.append(Comparison(key.hex(), step, k, n, shown))
    return tuple(result)
