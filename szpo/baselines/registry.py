"""All gradient methods by name: their recipes, and a function that runs one on given inputs.

`Inputs` are an actor, prompts, recorded votes, an annotator to ask, or a score. `szpo baseline` is
a thin layer around `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from szpo.baselines import (
    SCORED,
    dpo,
    group_rl,
    ppo,
    recipes,
    reward_model,
    self_rewarding,
    trainer,
)
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Ask, Meter, OnStep, Score, Trained
from szpo.baselines.trainer import join_remarks
from szpo.data.preference_formats import Preferences
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

OFFLINE: Mapping[str, Any] = {
    "dpo": dpo.train, "simpo": dpo.train_simpo, "notebook-dpo": dpo.train,
}  # fmt: skip
"""Methods that learn from given pairs and draw no answers."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a method."""

    actor: Actor
    prompts: tuple[Prompt, ...]
    votes: Callable[[Meter], Preferences] | None = None
    """Returns the training pairs and charges their cost; None: there are no votes."""
    ask: Ask | None = None
    """Annotator for new votes; None: there is none."""
    score: Score | None = None
    """A reward or verifier; None: methods that need a reward learn one from the votes."""
    rows: int | None = None
    """D of the comparisons to which the panel of ``ask`` was fitted, used by iterative-dpo unless
    set; None: its recipe's."""
    examples: tuple[tuple[Prompt, Answer], ...] = ()
    """Prompts with good answers, for sft and for M1 of self-rewarding."""


@dataclass(frozen=True)
class Outcome:
    """The result of a method, and its reward model if it trained one."""

    trained: Trained
    recipe: Any
    """The recipe as used, with the inputs' ``rows`` if none was set."""
    rewards: reward_model.RewardModel | None = None


def run(
    method: str,
    inputs: Inputs,
    settings: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    on_step: OnStep,
) -> Outcome:
    """Train the inputs' actor by a method; ``settings`` change fields of its recipe.

    Args:
        method: One of `szpo.baselines.NAMES`.
        inputs: The actor to train, and the data.
        settings: Values by field name; fields of other recipes are refused.
        folder: Folder for self-rewarding's models; other methods write nothing.
        seed: Root seed of all draws.
        on_step: Called after each step.
    """
    how, actor = recipes.make(method, settings), inputs.actor
    shared: dict[str, Any] = {"seed": seed, "on_step": on_step}
    learned: reward_model.RewardModel | None = None
    if method == "iterative-dpo":
        if inputs.ask is None:
            raise UsageError(
                "iterative-dpo asks while it trains: give --fresh, or a --run in which no people "
                "vote"
            )
        if "rows" not in settings and inputs.rows is not None:
            how = how.model_copy(update={"rows": None if inputs.rows == 1 else inputs.rows})
        trained = dpo.iterative(actor, inputs.prompts, inputs.ask, how, **shared)
    elif method == "self-rewarding":
        trained = self_rewarding.train(
            actor, inputs.prompts, inputs.examples, how, folder=folder, **shared
        )
    elif method == "sft":
        trained = trainer.train_sft(actor, inputs.examples, how, **shared)
    elif method in SCORED:
        trained, learned = _maximise(method, inputs, how, shared)
    else:
        shared["meter"] = meter = Meter()
        votes = _votes(method, inputs, meter)
        if method == "reward-model":
            learned, trained = reward_model.train(actor.loaded, votes, how, **shared)
        else:
            trained = OFFLINE[method](actor, votes, how, **shared)
    return Outcome(trained, how, learned)


def _maximise(
    method: str, inputs: Inputs, how: Any, shared: Mapping[str, Any]
) -> tuple[Trained, reward_model.RewardModel | None]:
    """Train towards the inputs' score, or towards a reward model learned from the votes."""
    train = ppo.train if method == "ppo" else group_rl.train
    if inputs.score is not None:
        return train(inputs.actor, inputs.prompts, inputs.score, how, **shared), None
    meter = Meter()
    votes = _votes(method, inputs, meter)
    learned, fitted = reward_model.train(
        inputs.actor.loaded, votes, seed=shared["seed"], meter=meter
    )
    with meter:
        score = reward_model.scale_reward(learned, votes.pairs)
    trained = train(inputs.actor, inputs.prompts, score, how, **shared, meter=meter)
    remark = join_remarks(fitted.remark, trained.remark)
    return replace(trained, pairs=fitted.pairs, ties=fitted.ties, remark=remark), learned


def require_extra(method: str, *, scored: bool) -> None:
    """Refuse to start without a method's libraries; PPO on a score needs none."""
    if not (method == "ppo" and scored):
        trainer.require_trl(method)


def _votes(method: str, inputs: Inputs, meter: Meter) -> Preferences:
    if inputs.votes is None:
        raise UsageError(f"{method} learns from votes: give --run, --pairs or --fresh")
    with meter:
        return inputs.votes(meter)
