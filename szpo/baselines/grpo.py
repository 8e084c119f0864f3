"""GRPO (Shao et al. 2024, DeepSeekMath) through TRL's GRPOTrainer; with a verifier it is RLVR.

Each prompt gets a group of answers; an answer's advantage is its reward less the group's mean,
over the group's standard deviation (of a sample, as TRL has it, plus 1e-4). No critic.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from szpo.baselines import group_rl, trainer
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Meter, OnStep, Trained, ignore_step
from szpo.baselines.questions import Task
from szpo.baselines.recipes import Weight, one_of, recipe

METHOD = "grpo"
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo")
"""Those of TRL's GRPOTrainer that weigh each token by itself."""


@recipe(METHOD)
class Recipe(group_rl.Recipe):
    """Settings of GRPO; β and the loss are the paper's, not TRL's defaults (0, dapo).

    Groups of 8 are TRL's default; the paper draws 64.
    """

    beta: Weight = 0.04
    loss: Annotated[str, one_of(*LOSSES)] = "grpo"
    """The mean over each answer's tokens, then over answers, as in the paper."""


def train(
    actor: Actor,
    task: Task,
    recipe: Recipe | None = None,
    *,
    seed: int,
    on_step: OnStep = ignore_step,
    meter: Meter | None = None,
) -> Trained:
    """GRPO on this task; the actor then stands at the trained weights.

    Args:
        actor: Trained in place.
        task: Prompts to answer in a seeded order, and the reward of an answer: a
            `szpo.baselines.reward_model.RewardModel`, or a verifier.
        recipe: Settings; the defaults where None.
        seed: Names the order of the prompts and every answer.
        on_step: Called after each optimizer step.
        meter: What was spent before; a new one where None.

    Raises:
        RunError: training diverged, or a reward is not finite.
        UsageError: the extra is not installed, or there are no prompts.
    """
    trainer.demand_trl(METHOD)
    from trl import GRPOConfig, GRPOTrainer

    how = recipe or Recipe()
    config = partial(GRPOConfig, loss_type=how.loss, scale_rewards="group")
    listener = trainer.Listener(METHOD, meter or Meter(), on_step)
    return group_rl.train((GRPOTrainer, config), actor, task, how, seed, listener)
