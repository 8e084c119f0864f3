"""Every gradient method by name: its recipe, and how it is run on given inputs.

The `Inputs` of a method are an actor, prompts, recorded votes, an annotator to ask, or a score,
whatever their source. `szpo baseline` is a thin shell around `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from szpo.baselines import (
    dpo,
    group_rl,
    notebook_dpo,
    ppo,
    reward_model,
    self_rewarding,
    sft,
    simpo,
    trainer,
)
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Ask, Score, Task
from szpo.baselines.costs import Meter, OnStep, Trained
from szpo.baselines.validation import join_remarks
from szpo.data.pairs import Preferences
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

RECIPES: Mapping[str, Any] = {
    "dpo": dpo.Recipe(), "simpo": simpo.Recipe(), "iterative-dpo": dpo.Rounds(),
    "reward-model": reward_model.Recipe(), "ppo": ppo.Recipe(), "grpo": group_rl.Grpo(),
    "rloo": group_rl.Rloo(), "self-rewarding": self_rewarding.Recipe(),
    "notebook-dpo": notebook_dpo.RECIPE, "sft": sft.Recipe(),
}  # fmt: skip
"""Every method with its recipe."""
NAMES = tuple(RECIPES)
SCORED = ("ppo", "grpo", "rloo")
"""Methods that learn from a score of single answers."""
OFFLINE: Mapping[str, Any] = {"dpo": dpo, "simpo": simpo, "notebook-dpo": dpo}
"""Methods that learn from pairs as they are."""
INNER = {"iterative-dpo": "recipe", "self-rewarding": "dpo"}
"""Methods around DPO, and the field of their recipe that holds DPO's."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a method."""

    actor: Actor
    prompts: tuple[Prompt, ...]
    votes: Callable[[Meter], Preferences] | None = None
    """Returns the training pairs and charges their cost; None: there are no votes."""
    ask: Ask | None = None
    """Who gives new votes; None: nobody."""
    score: Score | None = None
    """A reward or verifier; None: one is learned from the votes, where a method needs one."""
    rows: int | None = None
    """D of the comparisons that the panel of ``ask`` was fitted to: the default of iterative-dpo;
    None: its recipe's."""
    examples: tuple[tuple[Prompt, Answer], ...] = ()
    """Prompts with good answers, to which sft fits the actor and self-rewarding M1."""


@dataclass(frozen=True)
class Outcome:
    """The result of a method, and the reward model where it trained one."""

    trained: Trained
    recipe: Any
    """The recipe as used, with the inputs' ``rows`` where it named none."""
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
    """Train the actor of the inputs by a method; ``settings`` change its recipe, by field.

    Args:
        method: One of `NAMES`.
        inputs: What it trains and on which data.
        settings: Values by names of fields; those of other recipes are refused.
        folder: Of the artefacts of self-rewarding; other methods write nothing.
        seed: Root of all draws.
        on_step: Called after each step.

    Raises:
        UsageError: no such method or setting, or an input of the method is missing.
        RunError: there is nothing to learn from, or training diverged.
    """
    how = recipe(method, settings)
    require_extra(method, scored=inputs.score is not None)
    if method == "iterative-dpo":
        return _iterate(inputs, how, settings, seed=seed, on_step=on_step)
    if method == "self-rewarding":
        data = self_rewarding.TrainingData(inputs.prompts, inputs.examples)
        trained = self_rewarding.train(
            inputs.actor, data, how, folder=folder, seed=seed, on_step=on_step
        )
        return Outcome(trained, how)
    meter = Meter()
    if method == "sft":
        trained = sft.train(
            inputs.actor, inputs.examples, how, seed=seed, on_step=on_step, meter=meter
        )
        return Outcome(trained, how)
    if method in OFFLINE:
        votes = _votes(method, inputs, meter)
        trained = OFFLINE[method].train(
            inputs.actor, votes, how, seed=seed, on_step=on_step, meter=meter
        )
        return Outcome(trained, how)
    if method == "reward-model":
        votes = _votes(method, inputs, meter)
        rewards, trained = reward_model.train(
            inputs.actor.loaded, votes, how, seed=seed, on_step=on_step, meter=meter
        )
        return Outcome(trained, how, rewards)
    learned: reward_model.RewardModel | None = None
    fitted, score = None, inputs.score
    if score is None:
        votes = _votes(method, inputs, meter)
        learned, fitted = reward_model.train(inputs.actor.loaded, votes, seed=seed, meter=meter)
        with meter:
            score = reward_model.scale_reward(learned, votes.pairs)
    train = ppo.train if method == "ppo" else group_rl.train
    trained = train(
        inputs.actor, Task(inputs.prompts, score), how, seed=seed, on_step=on_step, meter=meter
    )
    if fitted is not None:
        remark = join_remarks(fitted.remark, trained.remark)
        trained = replace(trained, pairs=fitted.pairs, ties=fitted.ties, remark=remark)
    return Outcome(trained, how, learned)


def _iterate(
    inputs: Inputs,
    how: dpo.Rounds,
    settings: Mapping[str, Any],
    *,
    seed: int,
    on_step: OnStep,
) -> Outcome:
    """Iterative DPO; its questions have the rows D that the panel was fitted to."""
    if inputs.ask is None:
        raise UsageError(
            "iterative-dpo asks while it trains: give --fresh, or a --run whose panel is no people"
        )
    if "rows" not in settings and inputs.rows is not None:
        how = replace(how, rows=None if inputs.rows == 1 else inputs.rows)
    trained = dpo.iterative(
        inputs.actor, inputs.prompts, inputs.ask, how, seed=seed, on_step=on_step
    )
    return Outcome(trained, how)


def recipe(method: str, settings: Mapping[str, Any]) -> Any:
    """The recipe of a method with these fields changed.

    Raises:
        UsageError: no such method or field, or a value that does not fit.

    >>> recipe("dpo", {"beta": "0.2", "steps": "5"}).steps
    5
    """
    if method not in NAMES:
        raise UsageError(f"no method {method!r}; there are: {', '.join(NAMES)}")
    default, inner = RECIPES[method], INNER.get(method)
    if inner is None:
        return _replace_fields(default, method, settings)
    own = _plain_fields(default)
    outer = {k: v for k, v in settings.items() if k in own}
    rest = {k: v for k, v in settings.items() if k not in own}
    made = _replace_fields(getattr(default, inner), method, rest, also=own)
    return replace(_replace_fields(default, method, outer), **{inner: made})


def require_extra(method: str, *, scored: bool) -> None:
    """Refuse to start without the libraries of a method; PPO on a score needs none.

    Raises:
        UsageError: trl or datasets is not installed.
    """
    if not (method == "ppo" and scored):
        trainer.require_trl(method)


def _replace_fields(
    default: Any, method: str, settings: Mapping[str, Any], also: Sequence[str] = ()
) -> Any:
    """A recipe with fields given as text or as values."""
    own = _plain_fields(default)
    for name in settings:
        if name not in own:
            known = ", ".join(sorted({*own, *also}))
            raise UsageError(f"{method} has no setting {name!r}; it has: {known}")
    return replace(default, **{name: _plain(value) for name, value in settings.items()})


def _plain_fields(recipe: Any) -> list[str]:
    """The names of a recipe's fields, without those that hold another recipe."""
    return [f.name for f in fields(recipe) if not is_dataclass(getattr(recipe, f.name))]


def _plain(value: Any) -> Any:
    """A value from a command line: none, or text that pydantic reads by the field's type."""
    return None if value in ("none", "None", "null") else value


def _votes(method: str, inputs: Inputs, meter: Meter) -> Preferences:
    if inputs.votes is None:
        raise UsageError(f"{method} learns from votes: give --run, --pairs or --fresh")
    with meter:
        return inputs.votes(meter)
