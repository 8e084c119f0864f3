"""What GRPO and RLOO share: answers in groups by our own decoding, scored by a callable.

TRL's trainers make of each group's scores the advantages, the objective and the step. Answers
serve one update, so the ratio of probabilities is 1 and there is nothing to clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from szpo import seeds
from szpo.baselines import trainer
from szpo.baselines.actor import Actor
from szpo.baselines.asking import drawn
from szpo.baselines.costs import Meter, OnStep, Trained
from szpo.baselines.questions import Score
from szpo.baselines.recipes import Count, Positive, Weight, at_least
from szpo.baselines.validation import answering, demand_plain, distant
from szpo.errors import RunError, UsageError
from szpo.seeds import as_seed
from szpo.types import Prompt


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


def arguments(actor: Actor, recipe: Recipe, folder: str, seed: int, method: str) -> dict[str, Any]:
    """Arguments that both trainers get."""
    sampling = actor.policy.asking.sampling
    return {
        **trainer.here(actor.loaded, folder, seed, method),
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


def train(
    kind: Any,
    make: Any,
    actor: Actor,
    prompts: Sequence[Prompt],
    score: Score,
    recipe: Recipe,
    *,
    method: str,
    seed: int,
    on_step: OnStep,
    meter: Meter | None,
) -> Trained:
    """Train by a trainer class ``kind``; ``make`` gives its arguments for a folder."""
    from datasets import Dataset

    if not prompts:
        raise UsageError(f"{method}: no prompts; give those to answer")
    demand_plain(actor.policy.asking.sampling, method)
    meter = meter or Meter()
    listener = trainer.Listener(method, meter, on_step)
    order = drawn(len(prompts), recipe.steps * recipe.prompts, seed)
    rows = [{"prompt": _turns(actor, prompts[i]), "at": i} for i in order]

    def reward(
        completion_ids: Sequence[Sequence[int]], at: Sequence[int], **_: Any
    ) -> list[float]:
        answers = [actor.policy.answer(ids) for ids in completion_ids]
        meter.generated(answers)
        values = [float(v) for v in score([prompts[i] for i in at], answers)]
        if not all(map(isfinite, values)):
            raise RunError(f"{method}: a reward is not finite; check the reward or verifier")
        return values

    with trainer.workplace() as folder, actor.training() as model:
        start = actor.theta()
        made = _drawing(kind, actor, seed, method)(
            model=model,
            reward_funcs=reward,
            args=make(folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=actor.loaded.tokenizer,
        )
        reference = actor.start() if "ref" in model.peft_config else None
        trainer.fit(made, listener, model.get_base_model(), actor.sites, start, reference)
    log = tuple(listener.log)
    return Trained(meter.cost(), log, remark=distant(log))


def _drawing(kind: Any, actor: Actor, seed: int, method: str) -> Any:
    """The trainer class, with answers by the actor's own engine and named random numbers."""

    class Drawing(kind):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            key = seeds.derive(seed, "baseline answers", step=int(self.state.global_step))
            with answering(method):
                rows = actor.complete(prompt_ids, seed=as_seed(key))
            found = [list(row) for row in rows]
            return (found, None) if kind.__name__ == "GRPOTrainer" else found

    return Drawing


def _turns(actor: Actor, prompt: Prompt) -> Any:
    """A prompt as TRL takes it, which gives the tokens of `szpo.models.loading.encode`."""
    if getattr(actor.loaded.tokenizer, "chat_template", None):
        return [{"role": role, "content": text} for role, text in prompt.turns]
    return "\n\n".join(text for _, text in prompt.turns)
