"""What GRPO and RLOO share: answers in groups by our own decoding, scored by a callable.

TRL's trainers make of each group's scores the advantages, the objective and the step. Answers
serve one update, so the ratio of probabilities is 1 and there is nothing to clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Final

from szpo import seeds
from szpo.baselines import trainer
from szpo.baselines.actor import Actor
from szpo.baselines.asking import draw_order
from szpo.baselines.costs import Trained
from szpo.baselines.questions import Task
from szpo.baselines.recipes import Count, Positive, Weight, at_least
from szpo.baselines.validation import catch_divergence, demand_plain, describe_drift
from szpo.errors import RunError, UsageError
from szpo.seeds import as_seed
from szpo.types import Prompt

NOTHING_DIFFERED: Final = (
    "no two answers to a prompt ever differed in reward, so nothing was learned; take another "
    "score, or more answers to each prompt"
)


@dataclass(frozen=True)
class Recipe:
    """What the recipes of both methods share."""

    steps: Count = 40
    prompts: Count = 8
    """Prompts of a step."""
    samples: Annotated[int, at_least(2)] = 8
    """Answers to each prompt: the group."""
    passes: Count = 1
    """Forward passes of a step: more need less memory."""
    learning_rate: Positive = 1e-3
    """TRL's 1e-6 is for full weights; a LoRA of low rank in few steps needs more."""
    beta: Weight = 0.05
    """Weight of the KL penalty, in units of the reward per nat."""

    def __post_init__(self) -> None:
        """Refuse answers that do not divide into passes."""
        if self.prompts * self.samples % self.passes:
            raise ValueError(
                f"{self.prompts * self.samples} answers of a step do not divide into "
                f"{self.passes} passes"
            )


def train(
    library: tuple[Any, Callable[..., Any]],
    actor: Actor,
    task: Task,
    recipe: Recipe,
    seed: int,
    listener: trainer.Listener,
) -> Trained:
    """Train by a class of TRL.

    Args:
        library: The trainer's class, and what makes its configuration from keyword arguments.
        actor: Trained in place.
        task: Prompts and the reward of an answer.
        recipe: Settings.
        seed: Names the order of the prompts and every answer.
        listener: Called after each step; names the method and has the meter.
    """
    from datasets import Dataset

    kind, config = library
    method, meter = listener.method, listener.meter
    if not task.prompts:
        raise UsageError(f"{method}: no prompts; give those to answer")
    demand_plain(actor.answering.sampling, method)
    order = draw_order(len(task.prompts), recipe.steps * recipe.prompts, seed)
    differ: list[bool] = []  # of each step: whether some group's rewards do
    rows = [{"prompt": _turns(actor, task.prompts[i]), "at": i} for i in order]

    def reward(
        completion_ids: Sequence[Sequence[int]], at: Sequence[int], **_: Any
    ) -> list[float]:
        answers = [actor.answer(ids) for ids in completion_ids]
        meter.charge_tokens(answers)
        values = [float(v) for v in task.score([task.prompts[i] for i in at], answers)]
        group = recipe.samples
        differ.append(any(values[i] != values[i - i % group] for i in range(len(values))))
        if not all(map(isfinite, values)):
            raise RunError(f"{method}: a reward is not finite; check the reward or verifier")
        return values

    with trainer.isolate() as folder, actor.training() as model:
        start = actor.theta()
        made = _sampling_class(kind, actor, seed, method)(
            model=model,
            reward_funcs=reward,
            args=config(**_arguments(actor, recipe, folder, seed, method)),
            train_dataset=Dataset.from_list(rows),
            processing_class=actor.loaded.tokenizer,
        )
        reference = actor.start() if "ref" in model.peft_config else None
        trainer.fit(made, listener, model.get_base_model(), actor.sites, start, reference)
    log = tuple(listener.log)
    remark = describe_drift(log) if any(differ) else NOTHING_DIFFERED
    return Trained(meter.cost(), log, remark=remark)


def _arguments(
    actor: Actor, recipe: Recipe, folder: str, seed: int, method: str
) -> dict[str, Any]:
    """Arguments of both trainers' configurations."""
    sampling = actor.answering.sampling
    return {
        **trainer.base_arguments(actor.loaded, folder, seed, method),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.prompts * recipe.samples // recipe.passes,
        "gradient_accumulation_steps": recipe.passes,
        "num_generations": recipe.samples,
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "beta": recipe.beta,
        "shuffle_dataset": False,  # the order is drawn here
        "disable_dropout": True,
    }


def _sampling_class(kind: Any, actor: Actor, seed: int, method: str) -> Any:
    """The trainer class, with answers by the actor's own engine and named random numbers."""

    class Sampling(kind):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            key = seeds.derive(seed, "baseline answers", step=int(self.state.global_step))
            with catch_divergence(method):
                rows = actor.complete(prompt_ids, seed=as_seed(key))
            found = [list(row) for row in rows]
            return (found, None) if kind.__name__ == "GRPOTrainer" else found

    return Sampling


def _turns(actor: Actor, prompt: Prompt) -> Any:
    """A prompt as TRL takes it, which gives the tokens of `szpo.models.loading.encode`."""
    if getattr(actor.loaded.tokenizer, "chat_template", None):
        return [{"role": role, "content": text} for role, text in prompt.turns]
    return "\n\n".join(text for _, text in prompt.turns)
