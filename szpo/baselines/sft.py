"""Supervised fine-tuning through TRL's SFTTrainer: raises the likelihood of given answers.

loss = −mean log π(y|x) over the answers' tokens; prompts have no loss
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from szpo.baselines import trainer
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Dropout, Positive, Shared, Trained
from szpo.baselines.trainer import drop_too_long
from szpo.errors import RunError
from szpo.models.loading import answer_tokens, encode
from szpo.types import Answer, Prompt

METHOD = "sft"


class Recipe(trainer.Recipe):
    """Settings of one supervised training."""

    learning_rate: Positive = 1e-4
    dropout: Dropout = 0.0
    """Dropout of the adapter's inputs."""


def train(
    actor: Actor,
    examples: Sequence[tuple[Prompt, Answer]],
    recipe: Recipe | None = None,
    **shared: Unpack[Shared],
) -> Trained:
    """Fit the actor to prompts with their answers."""
    if not examples:
        raise RunError(f"{METHOD}: no example to learn from; give --examples")
    listener, how = trainer.Listener.begin(METHOD, shared), recipe or Recipe()
    from trl import SFTConfig, SFTTrainer

    limit = trainer.limit_length(actor.loaded, how.max_length)
    texts = [
        (list(encode(actor.loaded.tokenizer, prompt)), answer_tokens(actor.loaded, answer))
        for prompt, answer in examples
    ]
    texts = drop_too_long(texts, [len(asked) + 1 for asked, _ in texts], limit, METHOD)
    rows = [
        {"input_ids": (asked + answer)[:limit], "labels": ([-100] * len(asked) + answer)[:limit]}
        for asked, answer in texts
    ]
    arguments = {
        **trainer.schedule_arguments(how),
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    trainer.train(
        (SFTTrainer, SFTConfig), actor, rows, arguments, listener,
        seed=shared["seed"], dropout=how.dropout,
    )  # fmt: skip
    return listener.finish(len(rows), len(examples))
