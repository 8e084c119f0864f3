"""GRPO and RLOO: groups of answers from szpo's own decoding, scored by a function.

GRPO (Shao et al. 2024, DeepSeekMath; with a verifier: RLVR): an answer's advantage is its reward
minus the group's mean, divided by the group's standard deviation (the sample's, plus 1e-4, as in
TRL). RLOO (Ahmadian et al. 2024) is REINFORCE with a leave-one-out baseline: the reward minus β
times the KL to the reference, minus the mean of the group's other answers. Whole answers are the
actions. Neither has a critic.

TRL's trainers compute advantages, objective and step from each group's scores. Answers are used
for one update, so the probability ratio is 1 and nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, Unpack

from szpo import seeds
from szpo.baselines import trainer
from szpo.baselines.actor import Actor
from szpo.baselines.asking import (
    Score,
    Shared,
    Trained,
    draw_order,
)
from szpo.baselines.recipes import GroupRl, Grpo, Rloo
from szpo.baselines.trainer import (
    catch_divergence,
    describe_drift,
    describe_still,
    join_remarks,
    require_plain,
)
from szpo.errors import RunError, UsageError
from szpo.models.loading import held_control_words
from szpo.seeds import as_seed
from szpo.types import Prompt

NOTHING_DIFFERED: Final = (
    "no two answers to a prompt ever differed in reward, so nothing was learned; take another "
    "--score, or more answers to each prompt (--recipe samples=16)"
)


def train(
    actor: Actor,
    prompts: Sequence[Prompt],
    score: Score,
    how: Grpo | Rloo,
    **shared: Unpack[Shared],
) -> Trained:
    """Train the actor by GRPO or RLOO, according to the recipe, on these prompts.

    ``score``: a `szpo.baselines.reward_model.RewardModel`, or a verifier. ``shared``: see
    `szpo.baselines.asking.Shared`.
    """
    method = "grpo" if isinstance(how, Grpo) else "rloo"
    listener, seed = trainer.Listener.begin(method, shared), shared["seed"]
    import trl

    meter = listener.meter
    if not prompts:
        raise UsageError(f"{method}: no prompts; give those to answer")
    require_plain(actor.sampling, method)
    order = draw_order(len(prompts), how.steps * how.prompts, seed)
    differ: list[bool] = []  # for each step: whether rewards in a group do
    rows = [{"prompt": _turns(actor, prompts[i]), "at": i} for i in order]

    def reward(
        completion_ids: Sequence[Sequence[int]], at: Sequence[int], **_: Any
    ) -> list[float]:
        answers = [actor.answer(ids) for ids in completion_ids]
        meter.charge_tokens(answers)
        values = [float(v) for v in score([prompts[i] for i in at], answers)]
        group = how.samples
        differ.append(any(values[i] != values[i - i % group] for i in range(len(values))))
        if not all(map(isfinite, values)):
            raise RunError(f"{method}: a reward is not finite; check the reward or verifier")
        return values

    arguments = _arguments(actor, how)
    kind, config = trl.RLOOTrainer, trl.RLOOConfig
    if isinstance(how, Grpo):
        kind, config = trl.GRPOTrainer, trl.GRPOConfig
        arguments |= {"loss_type": how.loss, "scale_rewards": "group"}
    library = _sampling_class(kind, actor, seed, method), config
    trainer.train(library, actor, rows, arguments, listener, seed=seed, reward_funcs=reward)
    log = tuple(listener.log)
    moved = join_remarks(describe_drift(log), describe_still(log))
    remark = moved if any(differ) else NOTHING_DIFFERED
    return Trained(meter.cost(), log, remark=remark)


def _arguments(actor: Actor, how: GroupRl) -> dict[str, Any]:
    """Arguments for the configuration of both trainers."""
    sampling = actor.sampling
    return {
        "learning_rate": how.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_steps": how.steps,
        "per_device_train_batch_size": how.prompts * how.samples // how.passes,
        "gradient_accumulation_steps": how.passes,
        "num_generations": how.samples,
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "beta": how.beta,
        "shuffle_dataset": False,  # the order is drawn here
        "disable_dropout": True,
    }


def _sampling_class(kind: Any, actor: Actor, seed: int, method: str) -> Any:
    """The trainer class, but with answers from the actor's engine and seeded random numbers."""

    class Sampling(kind):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            key = seeds.derive(seed, "baseline answers", step=int(self.state.global_step))
            with catch_divergence(method):
                rows = actor.complete(prompt_ids, seed=as_seed(key))
            answers = [list(row) for row in rows]
            return (answers, None) if kind.__name__ == "GRPOTrainer" else answers

    return Sampling


def _turns(actor: Actor, prompt: Prompt) -> Any:
    """A prompt in TRL's form, with the same tokens as from `szpo.models.loading.encode`."""
    if words := held_control_words(actor.loaded.tokenizer, prompt):
        raise UsageError(
            f"{prompt.text[:40]!r} contains {words[0]}, which TRL would read as a control token; "
            "leave that prompt out for this method"
        )
    if getattr(actor.loaded.tokenizer, "chat_template", None):
        return [{"role": role, "content": text} for role, text in prompt.turns]
    return "\n\n".join(text for _, text in prompt.turns)
