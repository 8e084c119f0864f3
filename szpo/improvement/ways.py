"""Ways to find where a policy should move so that its answers score higher.

Let s be the score function ∇_B log π(y | x) of an answer that the policy drew at its present
coordinates, and r what the answer scores, both centred within prompts (a leave-one-out baseline
times (n − 1)/n). E[s r] is the policy gradient (Williams 1992, REINFORCE); F⁻¹ E[s r] with
F = E[s sᵀ] is the natural one (Kakade 2001, A natural policy gradient). Either way the same
answers tell what a step d costs: KL ≈ ½ dᵀ F d nats an answer.

Without gradients: pairs of policies θ ± μv along seeded directions v answer the same prompts, and
the difference of what they score, or of votes drawn from it, moves θ along v by the rules of
`szpo.optim`. A step is then a seed and numbers, and anybody can compute its weights again.

Credit: an answer's s is the sum over its parts, and each part is given what the text's score grew
by from there on (`szpo.policies.feature_basis.assign_credit`), which leaves out most of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np

from szpo import seeds
from szpo.aggregation import links
from szpo.config.optimizer import make_settings
from szpo.errors import UsageError
from szpo.optim import optimizer, parameters
from szpo.optim.settings import name_of
from szpo.policies.feature_basis import DECAY, PARTS, Fisher, assign_credit, centre
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.requests import Scores, Tokens
from szpo.types import Answer, Floats, Prompt, Tally, Theta

Score: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Floats]
"""What each answer to its prompt is worth, (answers,)."""


@dataclass(frozen=True)
class Task:
    """What a way is given besides the policy."""

    score: Score
    prompts: tuple[Prompt, ...]
    """The prompts of this step."""
    samples: int
    """Number of answers to each."""
    seed: int
    step: int = 0
    """Number of this step, for directions that come from the policy's seed."""
    parts: int = PARTS
    """Most parts of an answer with credit of their own; 1: the score reads whole texts only."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """Where a way would move the policy."""

    direction: Floats
    """(D,), over all moving weights in the order of the layout."""
    nats: float
    """½ dᵀ F d of the whole direction: what it is predicted to cost."""
    score: float
    """Mean score of the answers that were drawn for it."""
    answers: int
    """How many these were."""
    seeded: bool = False
    """``direction`` has (K,) coefficients of directions that the policy draws at this step."""


class Way(Protocol):
    """Finds a direction at the policy's present coordinates, from answers that it draws itself."""

    def propose(self, policy: LoraPolicy, task: Task) -> Proposal | None:
        """The direction; None where no answer scores more than another to the same prompt."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Answers to a task at the policy's present coordinates, and their score functions."""

    scores: Floats
    """Score functions of whole answers (n, D), centred within prompts."""
    gradient: Floats
    """The policy gradient E[s r] (D,), for r in standard deviations within prompts."""
    mean: float
    """Mean score of the answers."""


def draw(policy: LoraPolicy, task: Task) -> Drawn | None:
    """Draw and read the answers of a policy gradient; None where none scores more than another."""
    require_all_weights(policy)
    rows = policy.sample_tokens(task.prompts, task.samples, seed=task.seed)
    asked = [prompt for prompt in task.prompts for _ in range(task.samples)]
    groups = np.repeat(np.arange(len(task.prompts)), task.samples)

    def values(cut: int | None = None) -> Floats:
        answers = [policy.answer(row[:cut]) for row in rows]
        return np.asarray(task.score(asked, answers), np.float64).reshape(-1, 1)

    worth = values()
    if not centre(worth, groups).any():
        return None
    longest = max(map(len, rows))
    step = -(-longest // task.parts)
    cuts = tuple(range(step, longest, step))
    begun = np.stack([values(cut) for cut in cuts]) if cuts else np.zeros((0, *worth.shape))
    credit = assign_credit(worth, begun, groups, DECAY**step)[..., 0]
    read = read_scores(policy, policy.theta(), asked, rows, cuts)
    gradient = np.einsum("npd,np->d", read, credit, optimize=True) / len(rows)
    return Drawn(centre(read.sum(1), groups), gradient, float(worth.mean()))


def read_scores(
    policy: LoraPolicy,
    theta: Theta,
    prompts: Sequence[Prompt],
    rows: Tokens,
    cuts: tuple[int, ...] = (),
) -> Floats:
    """Score functions at θ of answers, (answers, parts, D); see `Scores.cuts`."""
    request = Scores(
        tuple(policy.encode(prompt) for prompt in prompts),
        rows,
        theta=theta,
        temperature=policy.sampling.temperature,
        cuts=cuts,
    )
    found = policy.backend.read(request)
    return np.asarray(found.reshape(len(rows), 1 + len(cuts), -1), np.float64)


def cost(scores: Floats, direction: Floats) -> float:
    """½ dᵀ F d in nats, with F of these score functions (n, D)."""
    return float(((scores @ direction) ** 2).mean() / 2)


def require_all_weights(policy: LoraPolicy) -> None:
    """Refuse a policy whose coordinates are not all B of its adapter, at a temperature above 0."""
    if [name for name, _ in policy.layout] != [site.b for site in policy.subspace.sites]:
        raise UsageError("a gradient moves every B of an adapter: set subspace.kind to full, and "
                         "adapter.train to B")  # fmt: skip
    if policy.sampling.temperature == 0:
        raise UsageError("temperature 0 has no policy gradient; set generation.temperature")


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Way (a): along the policy gradient, each weight divided by the spread of its own s."""

    ridge: float = 0.1
    """Added to each weight's second moment, as a share of their mean; inf: no preconditioner."""

    def propose(self, policy: LoraPolicy, task: Task) -> Proposal | None:
        """See `Way.propose`."""
        drawn = draw(policy, task)
        if drawn is None:
            return None
        square = (drawn.scores**2).mean(0)
        share = square / square.mean() / self.ridge
        return _propose(drawn, drawn.gradient / np.sqrt(share + 1))


@dataclass(frozen=True, slots=True)
class NaturalGradient:
    """Way (b): along F⁻¹ E[s r], with F of the same answers."""

    ridge: float = 0.03
    """Ridge on F, as a share of its trace."""

    def propose(self, policy: LoraPolicy, task: Task) -> Proposal | None:
        """See `Way.propose`."""
        drawn = draw(policy, task)
        if drawn is None:
            return None
        found = Fisher(drawn.scores, self.ridge).natural(drawn.gradient[:, None])
        return _propose(drawn, found[:, 0])


def _propose(drawn: Drawn, direction: Floats) -> Proposal:
    nats = cost(drawn.scores, direction)
    return Proposal(direction, nats, drawn.mean, len(drawn.scores))


@dataclass(frozen=True, slots=True)
class ZerothOrder:
    """Way (c): along seeded directions, by what the policies perturbed along them score."""

    votes: Literal["known", "sign"] | None = None
    """Rule of the votes that are drawn from the scores, by Bradley and Terry's law; None: their
    limit, the difference of mean scores."""
    rows: int = 4
    """N: pairs of answers for each direction."""
    voters: int = 1
    """M: votes on each pair."""
    nats: float = 0.5
    """κ: how far a perturbed policy is from the present one; KL should be quadratic so far."""

    def propose(self, policy: LoraPolicy, task: Task) -> Proposal | None:
        """See `Way.propose`; the number of directions is what the task's answers allow."""
        count = max(1, len(task.prompts) * task.samples // (2 * self.rows))
        space, scale = policy.space, policy.subspace.scale
        shape = (count, self.rows)
        mu = policy.subspace.mu(self.nats)
        settings = make_settings(
            space.root_seed, space.layout, rule=self.votes or "known", law=name_of(space.law),
            K=count, N=self.rows, M=self.voters, D=1, mu=mu, alpha=mu * mu,
        )  # fmt: skip
        state = replace(optimizer.init(settings), step=task.step)
        query = optimizer.ask(state)
        shifts = [shift for pair in query.shifts for shift in pair]
        order = np.arange(count * self.rows).reshape(shape) % len(task.prompts)
        asked = [tuple(task.prompts[i] for i in order[n // 2]) for n in range(len(shifts))]
        drawn = policy.rollout(asked, shifts, seed=task.seed)
        flat = [prompt for row in asked for prompt in row]
        scores = np.asarray(task.score(flat, [answer for row in drawn for answer in row]))
        plus, minus = np.moveaxis(scores.reshape(count, 2, self.rows), 1, 0)
        worth = plus - minus
        if not worth.any():
            return None
        none = np.zeros(shape)
        if self.votes is None:
            delta, tally = worth.mean(1), Tally(none, none, none, worth == 0)
        else:
            key = seeds.derive(task.seed, "improve votes")
            u = seeds.uniform(key, worth.size * self.voters).reshape(*shape, -1)
            wins = (u < links.link("logistic").prob(worth)[..., None]).sum(-1).astype(np.float64)
            delta, tally = None, Tally(wins, self.voters - wins, none, none > 0)
        _, updates, _ = optimizer.tell(state, query, tally, delta=delta)
        coefs = np.array([update.coef for update in updates])
        along = sum(
            coef * parameters.direction_vector(space, task.step, k) for k, coef in enumerate(coefs)
        )
        cost = float(np.sum(np.square(along))) / (2 * scale * scale)
        return Proposal(coefs, cost, float(scores.mean()), scores.size, seeded=True)
