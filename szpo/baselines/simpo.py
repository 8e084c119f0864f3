"""SimPO (Meng, Xia, Chen 2024) through TRL's CPOTrainer, which is experimental.

    loss = −log σ(β/|y⁺| · log π(y⁺) − β/|y⁻| · log π(y⁻) − γ)

The reward is β times the mean log-probability per token. There is a margin γ and no reference.
"""

from __future__ import annotations

from typing import Any, Unpack

from szpo.baselines import trainer
from szpo.baselines.actor import Actor
from szpo.baselines.costs import Positive, Shared, Trained, Weight
from szpo.baselines.trainer import require_pairs
from szpo.data.pairs import Preferences

METHOD = "simpo"


class Recipe(trainer.Recipe):
    """Settings of one SimPO training."""

    beta: Positive = 2.0
    """As in the paper (2.0 to 2.5)."""
    gamma: Weight = 0.5
    """γ: the margin, in units of β times log-probabilities; TRL's default."""


def train(
    actor: Actor, data: Preferences, recipe: Recipe | None = None, **shared: Unpack[Shared]
) -> Trained:
    """Train by SimPO on these pairs; arguments and errors are as in `szpo.baselines.dpo.train`."""
    require_pairs(data, METHOD)
    listener, how = trainer.Listener.begin(METHOD, shared), recipe or Recipe()
    limit = trainer.limit_length(actor.loaded, how.max_length)
    rows = [
        {"prompt": "", "chosen": "", "rejected": "", **_tokens(row, limit)}
        for row in trainer.tokenize_pairs(actor.loaded, data.pairs, limit, METHOD)
    ]
    with trainer.isolate():  # silences a warning that it is experimental
        from trl.experimental.cpo import CPOConfig, CPOTrainer

    class PairTrainer(CPOTrainer):  # type: ignore[misc]
        def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
            return {}  # tokens are ours already

    arguments = {
        **trainer.schedule_arguments(how),
        "loss_type": "simpo",
        "cpo_alpha": 0.0,  # no likelihood term: SimPO alone
        "beta": how.beta,
        "simpo_gamma": how.gamma,
        "max_length": limit,
        "remove_unused_columns": False,
    }
    trainer.train((PairTrainer, CPOConfig), actor, rows, arguments, listener, seed=shared["seed"])
    return listener.finish(len(rows), len(data.pairs), data.ties)


def _tokens(row: dict[str, list[int]], limit: int) -> dict[str, list[int]]:
    """A pair as the columns that CPOTrainer itself makes from texts."""
    prompt = row["prompt_ids"]
    found = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer = row[f"{side}_ids"][: limit - len(prompt)]
        found[f"{side}_input_ids"] = prompt + answer
        found[f"{side}_attention_mask"] = [1] * (len(prompt) + len(answer))
        found[f"{side}_labels"] = [-100] * len(prompt) + answer
    return found
