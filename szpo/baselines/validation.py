"""Checks before a training, and checks that stop a training that diverges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TypeVar

from torch import Tensor

from szpo.data.pairs import Preferences
from szpo.errors import LogitsError, RunError, UsageError
from szpo.generation.sampling import Sampling

Row = TypeVar("Row")

NOISE_NATS = 3.0
"""Above this KL to the start, nats per token, a policy's answers may be noise."""
STILL_NATS = 1e-3
"""Below this KL to the start a policy has learned next to nothing."""
RISE = 1.5
"""A loss that ends above this many times its first value gives a remark."""


def require_plain(sampling: Sampling, method: str) -> None:
    """Refuse sampling that is not from the policy's whole distribution."""
    if sampling.top_p < 1 or sampling.top_k or not sampling.temperature:
        raise UsageError(
            f"{method}: answers must be drawn from the model's whole distribution; set "
            "generation.top_p to 1, generation.top_k to 0 and generation.temperature above 0"
        )


def drop_too_long(rows: Sequence[Row], tokens: Sequence[int], most: int, method: str) -> list[Row]:
    """The rows that are short enough to train on; longer ones have no token to learn.

    Args:
        rows: Pairs or examples.
        tokens: Fewest tokens of each row with which there is something to learn.
        most: The recipe's ``max_length``.
        method: The method's name, for the message.

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

    It stops no training: policies that learned well have been as far from their start.
    """
    end = _end(log, "kl")
    if end <= NOISE_NATS:
        return ""
    return (
        f"{end:.1f} nats per token from the start at the end: its answers may be noise; look at "
        "them, lower the learning rate or raise beta"
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
