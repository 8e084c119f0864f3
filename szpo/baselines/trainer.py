"""Runs TRL's trainers: checks before a training and while it runs, figures of each step.

TRL computes the losses. szpo makes the tokens (`szpo.models.loading.encode`, with an end token
only if an answer ended by itself) and holds the fp32 weights.

Supervised fine-tuning (`train_sft`) is the plainest: loss = −mean log π(y|x) over the answers'
tokens; prompts have no loss.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from szpo import cache, seeds
from szpo.baselines import actor as actors
from szpo.baselines.actor import Actor
from szpo.baselines.asking import (
    Meter,
    OnStep,
    Shared,
    Trained,
    ignore_step,
)
from szpo.baselines.recipes import Sft, Training
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import LogitsError, RunError, UsageError
from szpo.models import loading
from szpo.models.loading import Loaded, answer_tokens, encode
from szpo.models.lora import Site
from szpo.models.sampling import Sampling
from szpo.plugins import how_to_install
from szpo.types import Answer, Prompt, Theta

Row = TypeVar("Row")

FAR_NATS = 0.3
"""Above this KL to the start, nats per token, SmolLM2's answers had lost their variety."""
STILL_NATS = 1e-3
"""Below this KL to the start a policy has learned next to nothing."""
RISE = 1.5
"""A loss that ends above this many times its first value gives a remark."""

SFT = "sft"


def require_plain(sampling: Sampling, method: str) -> None:
    """Refuse sampling that is not from the policy's whole distribution."""
    if sampling.top_p < 1 or not sampling.temperature:
        raise UsageError(
            f"{method}: answers must be drawn from the model's whole distribution; set "
            "generation.top_p to 1 and generation.temperature above 0"
        )


def drop_too_long(rows: Sequence[Row], tokens: Sequence[int], most: int, method: str) -> list[Row]:
    """The rows that are short enough to train on; longer ones have no token to learn.

    ``tokens``: fewest tokens of each row with which there is something to learn.

    >>> drop_too_long(["a", "b"], [3, 9], 8, "dpo")
    ['a']
    """
    short = [row for row, needed in zip(rows, tokens, strict=True) if needed <= most]
    if rows and not short:
        raise RunError(
            f"{method}: nothing to learn from: none of {len(rows)} fits into max_length {most}; "
            f"the shortest needs {min(tokens)} tokens; raise max_length"
        )
    return short


def describe_left_out(used: int, of: int) -> str:
    """A remark if rows were too long to learn from, else "".

    >>> describe_left_out(7, 10), describe_left_out(10, 10)
    ('3 of 10 do not fit into max_length and were left out', '')
    """
    return f"{of - used} of {of} do not fit into max_length and were left out" if used < of else ""


def join_remarks(*each: str) -> str:
    """Join the remarks that are not empty."""
    return "; ".join(filter(None, each))


def require_weights(weights: Iterable[Tensor], method: str, step: int) -> None:
    """Stop if weights are not finite after the last step, which no loss shows yet."""
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise RunError(
            f"{method}: the weights are not finite after step {step}: training diverged; "
            "lower the learning rate"
        )


@contextmanager
def catch_divergence(method: str) -> Iterator[None]:
    """Turn non-finite logits of a trained policy inside the block into a `RunError`."""
    try:
        yield
    except LogitsError:
        raise RunError(
            f"{method}: the policy's logits are not finite: training diverged; "
            "lower the learning rate"
        ) from None


def describe_rise(log: Sequence[Mapping[str, float]]) -> str:
    """A remark if the loss ends far above its first value, else "".

    It stops no training: in a good training a single batch may have such a loss.

    >>> describe_rise([{"loss": 0.7}] * 9 + [{"loss": 1.4}])
    'the loss rose from 0.70 to 1.40: it may have diverged; try a lower learning rate'
    """
    first, end = log[0]["loss"] if log else 0.0, _end(log, "loss")
    if end <= RISE * first:
        return ""
    return (
        f"the loss rose from {first:.2f} to {end:.2f}: it may have diverged; "
        "try a lower learning rate"
    )


def describe_drift(log: Sequence[Mapping[str, float]]) -> str:
    """A remark if a policy ends far from its start by TRL's ``kl`` per token, else "".

    It stops no training: who wants the reward alone may go as far.
    """
    end = _end(log, "kl")
    if end <= FAR_NATS:
        return ""
    return (
        f"{end:.2f} nats per token from the start at the end: its answers may be all alike, or "
        "noise; read some, and take fewer steps, a lower learning rate or a larger beta"
    )


def describe_still(log: Sequence[Mapping[str, float]], beta: float | None = None) -> str:
    """A remark if a policy ends where it began, else "".

    By TRL's ``kl`` per token; with DPO's β by r²/2, near the KL, of the largest mean log-ratio r
    to the reference. One step says nothing: its figures are from before it.

    >>> describe_still([{"kl": 0.0}, {"kl": 4e-5}]).partition(";")[0]
    'it ends within 0.001 nats of its start, so next to nothing was learned'
    >>> describe_still([{"kl": 0.0}] * 2 + [{"kl": 0.02}]), describe_still([{"kl": 0.0}])
    ('', '')
    """
    if beta is None:
        nats = abs(_end(log, "kl"))
    else:
        sides = [abs(_end(log, f"rewards/{name}")) for name in ("chosen", "rejected", "margins")]
        nats = (max(sides) / beta) ** 2 / 2
    if len(log) < 2 or nats >= STILL_NATS:
        return ""
    return (
        f"it ends within {STILL_NATS:g} nats of its start, so next to nothing was learned; raise "
        "learning_rate or steps (--recipe)"
    )


def _end(log: Sequence[Mapping[str, float]], name: str) -> float:
    """Mean of a figure over the last tenth of the steps; missing ones count as 0."""
    last = [figures.get(name, 0.0) for figures in log[-max(1, len(log) // 10) :]]
    return sum(last) / max(1, len(last))


def require_pairs(data: Preferences, method: str) -> None:
    """Refuse to train without a pair."""
    if not data.pairs:
        why = (
            f"all {data.ties} answers were ties or skips; ask a panel that can tell the answers "
            "apart"
            if data.ties
            else "there is no vote to learn from; give a ledger or a file with votes"
        )
        raise RunError(f"{method}: no pair to learn from: {why}")


def require_finite(figures: Mapping[str, float], method: str, step: int) -> None:
    """Stop a training if a figure is not finite."""
    for name, value in figures.items():
        if not isfinite(value):
            raise RunError(
                f"{method}: {name} is {value} at step {step}: training diverged; "
                "lower the learning rate"
            )


def require_trl(method: str) -> None:
    """Refuse to start without the libraries of the extra "baselines"."""
    for name in ("trl", "datasets"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{method} needs {name}: {how_to_install('baselines')}")


def torch_seed(seed: int, name: str) -> int:
    """A 32-bit seed for other libraries, derived by name like all randomness."""
    return int.from_bytes(seeds.derive(seed, "baseline", name=name)[:4], "little")


@contextmanager
def isolate() -> Iterator[str]:
    """Yield a temporary folder for a trainer; libraries are silent, global random state is kept.

    Trainers seed the global generators; their states are restored afterwards.
    """
    import datasets

    states = (random.getstate(), np.random.get_state())
    bars = datasets.are_progress_bars_disabled()
    silence = os.environ.get("TRL_EXPERIMENTAL_SILENCE")
    level = logging.getLogger("trl").level
    datasets.disable_progress_bars()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        with cache.quiet(), torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            yield folder
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logging.getLogger("trl").setLevel(level)
        if silence is None:
            del os.environ["TRL_EXPERIMENTAL_SILENCE"]
        else:
            os.environ["TRL_EXPERIMENTAL_SILENCE"] = silence
        if not bars:
            datasets.enable_progress_bars()


def base_arguments(loaded: Loaded, folder: str, seed: int, name: str) -> dict[str, Any]:
    """Arguments for all trainers: the model's device, no autocast, nothing written or printed."""
    return {
        "output_dir": folder,
        "use_cpu": loaded.device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a non-finite loss must be seen
        "dataloader_pin_memory": False,
        "seed": torch_seed(seed, name),
        "data_seed": torch_seed(seed, f"{name} order"),
    }


def schedule_arguments(recipe: Training) -> dict[str, Any]:
    """A recipe's fields as arguments of TRL's trainers."""
    return {
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.epochs,
        "max_steps": -1 if recipe.steps is None else recipe.steps,
        "per_device_train_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "lr_scheduler_type": recipe.schedule,
        "optim": recipe.optimizer,
    }


def limit_length(loaded: Loaded, most: int) -> int:
    """Most tokens of a text: a recipe's ``max_length``, or what the model reads if less."""
    return min(most, loading.reader_of(loaded).most or most)


def tokenize_pairs(
    loaded: Loaded,
    pairs: Sequence[Pair],
    max_length: int,
    method: str,
    prompt_tokens: int | None = None,
) -> list[dict[str, list[int]]]:
    """Turn pairs into tokens; a prompt keeps its last ``prompt_tokens``.

    Pairs whose prompt leaves no room for an answer in ``max_length`` are left out.
    """
    rows = [
        {
            "prompt_ids": list(encode(loaded.tokenizer, pair.prompt))[-(prompt_tokens or 0) :],
            "chosen_ids": answer_tokens(loaded, pair.chosen),
            "rejected_ids": answer_tokens(loaded, pair.rejected),
        }
        for pair in pairs
    ]
    return drop_too_long(rows, [len(row["prompt_ids"]) + 1 for row in rows], max_length, method)


@dataclass
class Listener(TrainerCallback):
    """Collects and reports each step's figures, and stops a training that diverges."""

    method: str
    meter: Meter
    on_step: OnStep
    log: list[Mapping[str, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, method: str, shared: Shared) -> Listener:
        """The listener of a training that begins now."""
        require_trl(method)
        on_step = shared.get("on_step", ignore_step)
        return cls(method, shared.get("meter") or Meter(), on_step)

    def finish(self, used: int, of: int, ties: int = 0) -> Trained:
        """The result of a training that used ``used`` of ``of`` pairs or examples."""
        remark = join_remarks(describe_left_out(used, of), describe_rise(self.log))
        return Trained(self.meter.cost(), tuple(self.log), used, ties, remark)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **_: Any
    ) -> None:
        """One step is done."""
        if not logs or "loss" not in logs:
            return  # the summary at the end
        figures = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
        step = state.global_step
        named = {k: v for k, v in figures.items() if k in ("loss", "grad_norm", "reward")}
        require_finite(named, self.method, step)
        require_weights((p for p in model.parameters() if p.requires_grad), self.method, step)
        self.log.append(figures)
        self.meter.report(self.on_step, step, state.max_steps, figures)


def train(
    library: tuple[Any, Callable[..., Any]],
    actor: Actor,
    rows: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    listener: Listener,
    *,
    seed: int,
    name: str | None = None,
    dropout: float = 0.0,
    from_now: bool = False,
    building: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
    **more: Any,
) -> None:
    """Train an actor in place by a trainer class of TRL.

    Args:
        library: The trainer's class, and a function that makes its configuration.
        actor: The actor to train.
        rows: The data, in the class's format.
        arguments: Arguments of the configuration, besides `base_arguments`.
        listener: Called after each step; it has the method's name and the meter.
        seed: Root seed of the order of the rows.
        name: Name of the draws, used with the seed; None: the method's name.
        dropout: Dropout of the adapter's inputs.
        from_now: π_ref is the actor's current weights, not its start.
        building: Makes a context from PEFT's model, in which the trainer is built.
        more: Further arguments of the trainer's class.
    """
    from datasets import Dataset

    kind, config = library
    with isolate() as folder, actor.training(dropout=dropout) as model:
        start = actor.theta()
        own = base_arguments(actor.loaded, folder, seed, name or listener.method)
        with building(model):
            made = kind(
                model=model,
                args=config(**own, **arguments),
                train_dataset=Dataset.from_list(rows),
                processing_class=actor.loaded.tokenizer,
                **more,
            )
        reference = start if from_now else actor.start()
        fit(
            made, listener, model.get_base_model(), actor.sites, start,
            reference if "ref" in model.peft_config else None,
        )  # fmt: skip


def fit(
    trainer: Any,
    listener: Listener,
    base: Any,
    sites: Sequence[Site],
    start: Theta,
    reference: Theta | None = None,
) -> None:
    """Run a trainer from exactly these fp32 weights, with its listener's meter running.

    The weights are written again, since on a 4-bit base TRL rounds the adapter to bf16 and copies
    that to "ref".

    ``start`` and ``reference``: A and B of the trained adapter and of "ref"; None without "ref".
    """
    actors.write_weights(base, sites, start)
    if reference is not None:
        actors.write_weights(base, sites, reference, "ref")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(listener)
    with listener.meter, only_answers_scored():
        trainer.train()


@contextmanager
def only_answers_scored() -> Iterator[None]:
    """Keep TRL from scoring prompts too where there is no Triton, which it later discards.

    With a vocabulary of 49,152 that is most of a DPO step's time on a CPU. The loss is the same.
    """
    from trl.trainer import utils

    before = getattr(utils, "_use_triton", None)
    if before is None:  # another version of TRL
        yield
        return
    utils._use_triton = lambda device: device.type == "cpu" or before(device)
    try:
        yield
    finally:
        utils._use_triton = before


def train_sft(
    actor: Actor,
    examples: Sequence[tuple[Prompt, Answer]],
    recipe: Sft | None = None,
    **shared: Unpack[Shared],
) -> Trained:
    """Fit the actor to prompts with their answers."""
    if not examples:
        raise RunError(f"{SFT}: no example to learn from; give --examples")
    listener, how = Listener.begin(SFT, shared), recipe or Sft()
    from trl import SFTConfig, SFTTrainer

    limit = limit_length(actor.loaded, how.max_length)
    texts = [
        (list(encode(actor.loaded.tokenizer, prompt)), answer_tokens(actor.loaded, answer))
        for prompt, answer in examples
    ]
    texts = drop_too_long(texts, [len(asked) + 1 for asked, _ in texts], limit, SFT)
    rows = [
        {"input_ids": (asked + answer)[:limit], "labels": ([-100] * len(asked) + answer)[:limit]}
        for asked, answer in texts
    ]
    arguments = {
        **schedule_arguments(how),
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    train(
        (SFTTrainer, SFTConfig), actor, rows, arguments, listener,
        seed=shared["seed"], dropout=how.dropout,
    )  # fmt: skip
    return listener.finish(len(rows), len(examples))
