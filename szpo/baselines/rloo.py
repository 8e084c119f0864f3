"""RLOO (Ahmadian et al. 2024) through TRL's RLOOTrainer: REINFORCE, leave-one-out baseline.

An answer's advantage is its reward, less β times its KL to the reference, less the mean of the
others of its group. Whole answers are the actions; no critic.
"""

from __future__ import annotations

from typing import Annotated

from szpo.baselines import group_rl, trainer
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Meter, OnStep, Trained, ignore_step
from szpo.baselines.questions import Task
from szpo.baselines.recipes import Count, at_least, recipe

METHOD = "rloo"


@recipe(METHOD)
class Recipe(group_rl.Recipe):
    """Settings of RLOO; TRL's defaults but for the rate and the size of a group (TRL: 2).

    Groups of 4 are the larger of the paper's two sizes.
    """

    prompts: Count = 16
    samples: Annotated[int, at_least(2)] = 4


def train(
    actor: Actor,
    task: Task,
    recipe: Recipe | None = None,
    *,
    seed: int,
    on_step: OnStep = ignore_step,
    meter: Meter | None = None,
) -> Trained:
    """RLOO on this task; arguments and errors as in `szpo.baselines.grpo.train`."""
    trainer.demand_trl(METHOD)
    from trl import RLOOConfig, RLOOTrainer

    listener = trainer.Listener(METHOD, meter or Meter(), on_step)
    how = recipe or Recipe()
    return group_rl.train((RLOOTrainer, RLOOConfig), actor, task, how, seed, listener)
