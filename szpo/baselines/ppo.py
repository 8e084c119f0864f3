"""PPO-clip with a KL penalty for language models, with actor, critic and reward.

Each step draws answers, stores their tokens and log-probabilities, and trains on them for several
epochs (Schulman et al. 2017). The reward of an answer is r_φ − β(log π − log π_ref) (Ziegler et
al. 2019): a score at its end, from a learned reward or a verifier, and the penalty at every token.
The critic is a linear head on the actor's last hidden state. Its gradient stops there, so only the
policy's loss moves the policy. The reference is the actor's start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from szpo import seeds
from szpo.baselines.actor import Actor, read_weights, write_weights
from szpo.baselines.advantages import gae, standardise, token_rewards
from szpo.baselines.asking import (
    Meter,
    Score,
    Shared,
    Trained,
    draw_order,
    ignore_step,
)
from szpo.baselines.recipes import Ppo
from szpo.baselines.reward_model import compute_rewards
from szpo.baselines.trainer import (
    catch_divergence,
    describe_drift,
    describe_still,
    join_remarks,
    require_finite,
    require_plain,
    require_weights,
)
from szpo.errors import RunError, UsageError
from szpo.models import logprobs
from szpo.seeds import as_seed
from szpo.types import Answer, Floats, Ints, Prompt

METHOD = "ppo"
NOTHING_DIFFERED = "no two answers of a step ever differed in reward; take another --score"

Rollout: TypeAlias = tuple["Part", Tensor, Tensor, Tensor, Tensor]
"""A part with its old log-probabilities, values, advantages and returns, one per token."""


class Critic(nn.Module):
    """V(s) from the last hidden state at a position; 0 everywhere at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Values (n,) of hidden states (n, width), which are first standardised."""
        return compute_rewards(hidden, self.weight) + self.bias


@dataclass(frozen=True)
class Learner:
    """The trained weights, their optimizer and the settings."""

    actor: Actor
    model: Any
    critic: Critic
    weights: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    how: Ppo


@dataclass(frozen=True)
class Part:
    """Answers that pass through the model together.

    Values of their tokens are in the order of ``batch.mask.nonzero()``.
    """

    batch: logprobs.Batch
    rows: Ints
    """Indices of these answers among the step's."""

    @property
    def places(self) -> tuple[Ints, Ints]:
        """Answer and position of each token, for arrays (answers, tokens)."""
        row, column = self.batch.mask.cpu().numpy().nonzero()
        return self.rows[row], column


def train(
    actor: Actor,
    prompts: Sequence[Prompt],
    score: Score,
    recipe: Ppo | None = None,
    **shared: Unpack[Shared],
) -> Trained:
    """Train the actor towards answers with high scores.

    The actor must sample without top-p and top-k, since probabilities are read. ``score`` is
    called once a step. ``shared``: see `szpo.baselines.asking.Shared`.
    """
    how, seed = recipe or Ppo(), shared["seed"]
    meter, on_step = shared.get("meter") or Meter(), shared.get("on_step", ignore_step)
    if not prompts:
        raise UsageError("ppo: no prompts to learn on")
    require_plain(actor.sampling, METHOD)
    log, differ = [], False
    with actor.training() as peft:
        learner = _learner(actor, peft.get_base_model(), how)
        for step in range(how.steps):
            with meter:
                asked = draw_prompts(prompts, how.prompts, seed, step)
                answers, tokens = _answers(learner, asked, seed, step)
                meter.charge_tokens(answers)
                each = [prompt for prompt in asked for _ in range(how.samples)]
                reward = _score(score, each, answers)
                differ |= bool(np.ptp(reward))
                parts = _parts(learner, each, tokens, seed, step)
                rollouts, figures = _rollouts(learner, parts, reward)
                figures["tokens"] = float(np.mean([answer.tokens for answer in answers]))
                require_finite(figures, METHOD, step + 1)
                _require_near(figures, how, step + 1)
                figures |= _improve(learner, rollouts, step + 1)
            log.append(figures)
            meter.report(on_step, step + 1, how.steps, figures)
    nats = [{"kl": figures["kl"] / figures["tokens"]} for figures in log if figures["tokens"]]
    moved = join_remarks(describe_drift(nats), describe_still(nats))
    return Trained(meter.cost(), tuple(log), remark=moved if differ else NOTHING_DIFFERED)


def _learner(actor: Actor, model: Any, how: Ppo) -> Learner:
    critic = Critic(model.get_output_embeddings().in_features).to(model.device)
    weights = tuple(p for p in model.parameters() if p.requires_grad)
    groups = [
        {"params": weights, "lr": how.rate},
        {"params": tuple(critic.parameters()), "lr": how.critic_rate},
    ]
    return Learner(actor, model, critic, weights, torch.optim.Adam(groups), how)


def draw_prompts(prompts: Sequence[Prompt], count: int, seed: int, step: int) -> list[Prompt]:
    """The prompts of a step, from seeded permutations of all prompts one after another."""
    order = draw_order(len(prompts), count, seed, first=step * count, purpose="ppo prompts")
    return [prompts[i] for i in order]


def _answers(
    learner: Learner, prompts: Sequence[Prompt], seed: int, step: int
) -> tuple[list[Answer], tuple[tuple[int, ...], ...]]:
    """Draw a step's answers, as text and as tokens."""
    key = seeds.derive(seed, "ppo answers", step=step)
    with catch_divergence(METHOD):
        tokens = learner.actor.sample_tokens(prompts, learner.how.samples, seed=as_seed(key))
    return [learner.actor.answer(row) for row in tokens], tokens


def _score(score: Score, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    reward = np.asarray(score(prompts, answers), np.float64)
    if reward.shape != (len(answers),):
        raise UsageError(
            f"ppo: the reward gave {reward.size} numbers for {len(answers)} answers; "
            "it must give one each"
        )
    if not np.isfinite(reward).all():
        text = answers[int(np.flatnonzero(~np.isfinite(reward))[0])].text
        raise RunError(f"ppo: the reward of {text!r:.80} is no number; it must be finite")
    return reward


def _parts(
    learner: Learner,
    prompts: Sequence[Prompt],
    tokens: Sequence[tuple[int, ...]],
    seed: int,
    step: int,
) -> list[list[Part]]:
    """Divide answers into minibatches by the seed, and these into parts that fit into memory."""
    order = seeds.permutation(seeds.derive(seed, "ppo minibatches", step=step), len(tokens))
    encoded = [learner.actor.encode(prompt) for prompt in prompts]
    passes = []
    for rows in np.array_split(order, learner.how.minibatches):
        samples = [logprobs.Sample(encoded[row], tokens[row]) for row in rows]
        batches = logprobs.batches(
            samples, device=learner.model.device, vocab=logprobs.vocabulary_size(learner.model)
        )
        passes.append([Part(batch, rows[list(batch.index)]) for batch in batches])
    return passes


def _rollouts(
    learner: Learner, parts: Sequence[Sequence[Part]], reward: Floats
) -> tuple[list[list[Rollout]], dict[str, float]]:
    """Compute each token's advantage and return, and the figures of the step's answers."""
    every = [part for group in parts for part in group]
    shape = (len(reward), max(part.batch.width for part in every))
    logp, value, reference = (np.zeros(shape) for _ in range(3))
    there = np.zeros(shape, bool)
    with torch.no_grad():
        for part in every:
            now, worth = token_values(learner, part.batch)
            logp[part.places], value[part.places] = now.cpu(), worth.cpu()
            there[part.places] = True
        with _at_start(learner):
            for part in every:
                reference[part.places] = token_values(learner, part.batch)[0].cpu()
    how = learner.how
    earned = token_rewards(reward, logp, reference, there, how.beta)
    ahead = gae(earned, np.pad(value, ((0, 0), (0, 1))), how.lam, how.gamma)
    advantage, returns = standardise(ahead, there), ahead + value

    def one(part: Part) -> Rollout:
        old, worth, gained, back = (
            torch.from_numpy(values[part.places]).to(learner.model.device, torch.float32)
            for values in (logp, value, advantage, returns)
        )
        return part, old, worth, gained, back

    figures = {
        "reward": float(reward.mean()),
        "kl": float((logp - reference).sum(1).mean()),
        "value": float(value[there].mean()),
    }
    return [[one(part) for part in group] for group in parts], figures


def _improve(
    learner: Learner, rollouts: Sequence[Sequence[Rollout]], step: int
) -> dict[str, float]:
    """Train all epochs on a step's answers; figures are means over the updates."""
    how, updates = learner.how, []
    for _ in range(how.epochs):
        for group in rollouts:
            figures = _update(learner, group)
            require_finite(figures, METHOD, step)
            learner.optimizer.step()
            updates.append(figures)
    require_weights(learner.weights, METHOD, step)
    means = {name: float(np.mean([figures[name] for figures in updates])) for name in updates[0]}
    # Before a step's first update the policy is the one that drew, so any gap is an error.
    return {**means, "first_ratio_gap": updates[0]["ratio_gap"]}


def _update(learner: Learner, group: Sequence[Rollout]) -> dict[str, float]:
    """Compute the gradients of a minibatch, and its figures."""
    how, count = learner.how, sum(len(old) for _, old, *_ in group)
    learner.optimizer.zero_grad()
    figures = dict.fromkeys(("policy_loss", "value_loss", "clipped", "ratio_gap"), 0.0)
    for part, old, worth, advantage, returns in group:
        logp, value = token_values(learner, part.batch)
        loss, ratio, clipped = policy_loss(logp, old, advantage, clip=how.clip)
        critic = value_loss(value, worth, returns, clip=how.value_clip)
        share = len(old) / count
        (share * (loss + critic)).backward()  # type: ignore[no-untyped-call]
        figures["policy_loss"] += share * loss.item()
        figures["value_loss"] += share * critic.item()
        figures["clipped"] += share * clipped
        figures["ratio_gap"] = max(figures["ratio_gap"], float((ratio - 1).abs().max()))
    norm = nn.utils.clip_grad_norm_(learner.weights, how.grad_norm)
    return {**figures, "gradient": float(norm)}


def token_values(learner: Learner, batch: logprobs.Batch) -> tuple[Tensor, Tensor]:
    """Log π of each stored answer token, and the critic's value of the state before it, (n,) each.

    The order is that of ``batch.mask.nonzero()``; probabilities are at the sampling temperature.
    """
    seen: list[Tensor] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...], _out: Tensor) -> None:
        seen.append(inputs[0].detach()[0])

    handle = learner.model.get_output_embeddings().register_forward_hook(look)
    try:
        temperature = learner.actor.sampling.temperature
        logits = logprobs.answer_logits(learner.model, batch, temperature)
    finally:
        handle.remove()
    taken = batch.targets[batch.mask]
    logp = logits.gather(-1, taken[:, None])[:, 0] - logits.logsumexp(-1)
    return logp, learner.critic(seen[0])


@contextmanager
def _at_start(learner: Learner) -> Iterator[None]:
    """Set the adapter to the reference policy, the actor's start, within the block."""
    sites = learner.actor.sites
    now = read_weights(learner.model, sites)
    write_weights(learner.model, sites, learner.actor.start())
    try:
        yield
    finally:
        write_weights(learner.model, sites, now)


def _require_near(figures: Mapping[str, float], how: Ppo, step: int) -> None:
    """Stop if the policy is too far from its start: its answers are then noise."""
    each = figures["kl"] / max(figures["tokens"], 1.0)
    if each > how.kl_limit:
        raise RunError(
            f"ppo: {each:.1f} nats per token from the start at step {step} (limit "
            f"{how.kl_limit:g}): training diverged; lower the learning rate or raise beta"
        )


# ---- losses ----


def policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, *, clip: float = 0.2
) -> tuple[Tensor, Tensor, float]:
    """−mean min(ρA, clip(ρ, 1 − ε, 1 + ε)A) with ρ = exp(log π − log π_old) (eq. 7 there).

    Both log-probabilities must be of the *stored* choices, never of newly drawn ones. Returns the
    loss, ρ of each choice, and the share of choices with ρ outside [1 − ε, 1 + ε].

    Args:
        logp: log π of the stored choices under the current policy, with gradient.
        old_logp: log π of the same choices when they were made.
        advantages: of these choices.
        clip: ε > 0.
    """
    ratio = (logp - old_logp.detach()).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    # −L^CLIP, eq. 7
    loss = -torch.minimum(ratio * advantages, bounded * advantages).mean()
    left = float((ratio.detach() != bounded.detach()).float().mean())
    return loss, ratio.detach(), left


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2
) -> Tensor:
    """½ mean max((V − R)², (V_clip − R)²), with V_clip within ε of V at sampling.

    Args:
        values: V of the stored states, with gradient.
        old_values: V of the same states when the answers were sampled.
        returns: advantages plus ``old_values``.
        clip: ε > 0, in units of the return; infinite for the plain squared error.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
