"""DPO (Rafailov et al. 2023) through TRL's DPOTrainer, offline and iterative.

loss = −log σ(β · [log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻)])

There is no reward model and no critic. Offline DPO learns from given pairs. Iterative DPO draws
two answers to each prompt, asks which is better, trains on these pairs, and repeats.

The settings of the RLHF notebook's DPO run, in the names of current libraries. Its base is
Mistral-7B-Instruct-v0.2 in 4 bits; any other model of szpo can be used.
docs/how-to/compare-with-dpo.md says how it is run.

SimPO (Meng, Xia, Chen 2024) is trained by TRL's CPOTrainer, which is experimental. Its reward is β
times the mean log-probability per token; there is a margin γ and no reference:

loss = −log σ(β/|y⁺| · log π(y⁺) − β/|y⁻| · log π(y⁻) − γ)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from szpo.baselines import trainer
from szpo.baselines.actor import Actor, Peft
from szpo.baselines.asking import (
    Ask,
    Meter,
    OnStep,
    Shared,
    Survey,
    Trained,
    ask_round,
    ignore_step,
)
from szpo.baselines.recipes import NOTEBOOK, Dpo, Rounds, Simpo
from szpo.baselines.trainer import catch_divergence, describe_still, join_remarks, require_pairs
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import UsageError
from szpo.models.loading import answer_tokens
from szpo.policies.lora_policy import LoraPolicy
from szpo.types import Answer, Floats, Prompt, Row

METHOD = "dpo"

NOTEBOOK_TARGETS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
NOTEBOOK_RANK, NOTEBOOK_ALPHA = 32, 64
SIMPO = "simpo"


def train(
    actor: Actor, data: Preferences, recipe: Dpo | None = None, **shared: Unpack[Shared]
) -> Trained:
    """Train the actor by DPO on these pairs.

    ``data`` without pairs: its ties appear in the error. ``shared``: see
    `szpo.baselines.asking.Shared`.
    """
    require_pairs(data, METHOD)
    listener = trainer.Listener.begin(METHOD, shared)
    recipe = recipe or Dpo()
    learned = _fit(actor, data.pairs, recipe, shared["seed"], listener)
    return _remark(listener.finish(learned, len(data.pairs), data.ties), recipe)


def iterative(
    actor: Actor,
    prompts: Sequence[Prompt],
    ask: Ask,
    plan: Rounds | None = None,
    *,
    seed: int,
    on_step: OnStep = ignore_step,
) -> Trained:
    """Generate, ask, train, repeat; ``on_step`` is called after each round.

    Every question has its own prompts, drawn from ``prompts`` in a seeded order, with two answers
    of the current policy each. A round with only ties trains on the earlier pairs. With
    ``plan.drawn`` above 1 it draws so many times the pairs and asks about those of which the
    policy is least sure (Ji, He, Gu 2024, arXiv 2402.09401); in the first round it knows nothing.
    """
    plan = plan or Rounds()
    if not prompts:
        raise UsageError("iterative-dpo: no prompts; give those to answer")
    survey = Survey(prompts, ask, plan.questions, plan.rows, seed)
    listener = trainer.Listener.begin("iterative-dpo", {"seed": seed})
    meter, learned, asked = listener.meter, 0, Asked()
    for i, asked in enumerate(ask_rounds(survey, actor, plan, meter)):
        if asked.pairs:
            learned = _fit(actor, asked.pairs, plan.recipe, seed, listener, name=f"round {i}")
        last = listener.log[-1] if listener.log else {}
        figures = {"round": i + 1.0, "pairs": float(len(asked.pairs)), "ties": float(asked.ties)}
        meter.report(on_step, i + 1, plan.rounds, {**last, **figures})
    if not listener.log:
        require_pairs(Preferences((), asked.ties), "iterative-dpo")
    done = listener.finish(learned, len(asked.pairs), asked.ties)
    return replace(_remark(done, plan.recipe), pairs=asked.found)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the rounds so far have brought."""

    pairs: tuple[Pair, ...] = ()
    """Those to train on."""
    found: int = 0
    """Pairs of all rounds."""
    ties: int = 0


def ask_rounds(survey: Survey, policy: LoraPolicy, plan: Rounds, meter: Meter) -> Iterator[Asked]:
    """Ask about the answers of the policy as it is, once for each round of the plan."""
    survey = replace(survey, drawn=plan.drawn, sure=partial(margins, policy))
    asked = Asked()
    for i in range(plan.rounds):
        with meter, catch_divergence("iterative-dpo"):
            new = ask_round(survey, policy, meter, i)
        kept = asked.pairs if plan.memory == "all" or not new.pairs else ()
        asked = Asked((*kept, *new.pairs), asked.found + len(new.pairs), asked.ties + new.ties)
        yield asked


def margins(policy: LoraPolicy, rows: Sequence[Row]) -> list[float]:
    """How sure the policy is of each row: the distance of both answers' log-ratios, nats."""
    sides = [(row.prompt, getattr(row, side)) for side in ("plus", "minus") for row in rows]
    plus, minus = np.split(log_ratios(policy, sides), 2)
    return [float(gap) for gap in np.abs(plus - minus)]


def log_ratios(policy: LoraPolicy, texts: Sequence[tuple[Prompt, Answer]]) -> Floats:
    """Of each answer log π(y | x) − log π_ref(y | x) in nats, (answers,); π_ref: the start."""
    asked = [policy.encode(prompt) for prompt, _ in texts]
    answers = [answer_tokens(policy.loaded, answer) for _, answer in texts]
    now, start = (
        np.array([
            each.sum()
            for each in policy.engine.logprobs(
                asked, answers, [0] * len(texts), policy.deltas([theta]),
                temperature=policy.sampling.temperature or 1.0,
            )
        ])
        for theta in (policy.theta(), policy.start())
    )  # fmt: skip
    return np.asarray(now - start)


def _remark(done: Trained, recipe: Dpo) -> Trained:
    still = describe_still(done.log, recipe.beta)
    return replace(done, remark=join_remarks(done.remark, still))


def _fit(
    actor: Actor,
    pairs: Sequence[Pair],
    recipe: Dpo,
    seed: int,
    listener: trainer.Listener,
    *,
    name: str = METHOD,
) -> int:
    """Run a DPOTrainer from the actor's current weights; returns how many pairs fitted."""
    from trl import DPOConfig, DPOTrainer

    class PairTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # tokens are ours already

    most = trainer.limit_length(actor.loaded, recipe.max_length)
    rows = trainer.tokenize_pairs(actor.loaded, pairs, most, listener.method, recipe.prompt_tokens)
    arguments = {
        **trainer.schedule_arguments(recipe),
        "beta": recipe.beta,
        "max_length": most,
        "loss_type": [recipe.loss],
        "label_smoothing": recipe.label_smoothing,
        "disable_dropout": recipe.disable_dropout,
    }
    trainer.train(
        (PairTrainer, DPOConfig), actor, rows, arguments, listener, seed=seed, name=name,
        dropout=recipe.dropout, from_now=recipe.reference == "now",
        building=partial(trainable_head, actor),
    )  # fmt: skip
    return len(rows)


# ---- an adapter on the LM head, which DPOTrainer refuses ----
# TRL multiplies hidden states by the head's weight itself, in tiles, which would ignore an adapter
# on the head; so TRL refuses one. Here the head with its adapter computes the logits, as other
# layers do, and log-probabilities come from these. It needs memory for all logits.


@contextmanager
def trainable_head(actor: Actor, model: Peft) -> Iterator[None]:
    """Allow a DPOTrainer to be built on an adapted LM head, and give it a `plain_head`."""
    base = model.get_base_model()
    head = actor.loaded.model.get_output_embeddings()
    names = [name for name, module in actor.loaded.model.named_modules() if module is head]
    if not any(site.name in names for site in actor.sites):
        yield
        return
    layer = base.get_output_embeddings()
    # The trainer's check sees the base layer; the model keeps the adapted one.
    vars(base)["get_output_embeddings"] = layer.get_base_layer
    try:
        yield
    finally:
        vars(base).pop("get_output_embeddings", None)
    plain_head(base)


def plain_head(base: Any) -> None:
    """Make a trainer compute its log-probabilities from the model's own logits.

    This replaces the forward pass that TRL's ``add_fused_lm_head`` set, and returns what TRL's DPO
    loss and figures need. `szpo.baselines.actor.wrap_peft` removes it again.
    """
    original = type(base).forward

    def forward(
        *args: Any, labels: Tensor | None = None, fused_lm_head: bool = False, **more: Any
    ) -> Any:
        if not fused_lm_head or labels is None:
            return original(base, *args, labels=labels, **more)
        logits = original(base, *args, **more).logits[:, :-1].to(torch.float32)
        return per_token(logits, labels[:, 1:])

    vars(base)["forward"] = forward


def per_token(logits: Tensor, labels: Tensor) -> SimpleNamespace:
    """The log-probability of each label, and TRL's figures; zero where the label is −100.

    Args:
        logits: (rows, tokens, words), fp32, of the positions before the labels.
        labels: (rows, tokens).
    """
    mask = labels != -100
    targets = labels.clamp(min=0)[..., None]
    logp = logits.log_softmax(-1)
    chosen = logp.gather(-1, targets)[..., 0].masked_fill(~mask, 0.0)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1).masked_fill(~mask, 0.0)
        mean = logits.mean(-1).masked_fill(~mask, 0.0)
        top = (logits.argmax(-1) == targets[..., 0]) & mask
    return SimpleNamespace(
        loss=-chosen.sum() / mask.sum().clamp(min=1), log_probs=chosen, entropy=entropy,
        mean_logits=mean, is_top1=top, label_mask=mask, log_sum_sq_probs=None, aux_loss=None,
    )  # fmt: skip


def notebook_lora(**changes: Any) -> Any:
    """The notebook's ``peft.LoraConfig``: rank 32, α 64, seven targets, no bias."""
    from peft import LoraConfig

    settings: Mapping[str, Any] = {
        "r": NOTEBOOK_RANK,
        "lora_alpha": NOTEBOOK_ALPHA,
        "lora_dropout": NOTEBOOK.dropout,
        "bias": "none",
        "target_modules": list(NOTEBOOK_TARGETS),
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**{**settings, **changes})


def train_simpo(
    actor: Actor, data: Preferences, recipe: Simpo | None = None, **shared: Unpack[Shared]
) -> Trained:
    """Train by SimPO on these pairs; arguments and errors are as in `szpo.baselines.dpo.train`."""
    require_pairs(data, SIMPO)
    listener, how = trainer.Listener.begin(SIMPO, shared), recipe or Simpo()
    limit = trainer.limit_length(actor.loaded, how.max_length)
    rows = [
        {"prompt": "", "chosen": "", "rejected": "", **_cpo_tokens(row, limit)}
        for row in trainer.tokenize_pairs(actor.loaded, data.pairs, limit, SIMPO)
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


def _cpo_tokens(row: dict[str, list[int]], limit: int) -> dict[str, list[int]]:
    """A pair as the columns that CPOTrainer itself makes from texts."""
    prompt = row["prompt_ids"]
    tokens = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer = row[f"{side}_ids"][: limit - len(prompt)]
        tokens[f"{side}_input_ids"] = prompt + answer
        tokens[f"{side}_attention_mask"] = [1] * (len(prompt) + len(answer))
        tokens[f"{side}_labels"] = [-100] * len(prompt) + answer
    return tokens
