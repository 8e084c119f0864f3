"""RLOO (Ahmadian et al. 2024) through TRL's RLOOTrainer: REINFORCE, leave-one-out baseline.

An answer's advantage is its reward, less β times its KL to the reference, less the mean of the
others of its group. Whole answers are the actions; no critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from szpo.baselines import group_rl, trainer
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Meter, OnStep, Trained, silent
from szpo.baselines.questions import Score
from szpo.types import Prompt

METHOD = "rloo"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of RLOO; TRL's defaults but for the rate and the size of a group (TRL: 2)."""

    steps: int = 40
    prompts: int = 16
    """Prompts of a step."""
    samples: int = 4
    """Size of a group; the paper's larger one."""
    passes: int = 1
    """Forward passes of a step: more need less memory."""
    learning_rate: float = 1e-3
    """TRL's 1e-6 is for full weights; a LoRA of low rank in few steps needs more."""
    beta: float = 0.05
    """Weight of the KL penalty, in units of the reward per nat."""

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        group_rl.check(self, METHOD)


def train(
    actor: Actor,
    prompts: Sequence[Prompt],
    score: Score,
    recipe: Recipe | None = None,
    *,
    seed: int,
    on_step: OnStep = silent,
    meter: Meter | None = None,
) -> Trained:
    """RLOO on these prompts; arguments and errors as in `szpo.baselines.grpo.train`."""
    trainer.demand_trl(METHOD)
    from trl import RLOOConfig, RLOOTrainer

    how = recipe or Recipe()

    def make(folder: str) -> Any:
        return RLOOConfig(**group_rl.arguments(actor, how, folder, seed, METHOD))

    return group_rl.train(
        RLOOTrainer, make, actor, prompts, score, how,
        method=METHOD, seed=seed, on_step=on_step, meter=meter,
    )  # fmt: skip
