"""Improve a policy on a score: ways to move it, steps of bounded KL, guards, the best kept.

Let s be the score function ∇_B log π(y | x) of an answer that the policy drew at its present
coordinates, and r what the answer scores, both centred within prompts (a leave-one-out baseline
times (n − 1)/n). E[s r] is the policy gradient (Williams 1992, REINFORCE); F⁻¹ E[s r] with
F = E[s sᵀ] is the natural one (Kakade 2001, A natural policy gradient). Either way the same
answers tell what a step d costs: KL ≈ ½ dᵀ F d nats an answer.

Without gradients: pairs of policies θ ± μv along seeded directions v answer the same prompts, and
the difference of what they score, or of votes drawn from it, moves θ along v by the rules of
`szpo.optim`. A step is then a seed and numbers, and anybody can compute its weights again.

Credit: an answer's s is the sum over its parts, and each part is given what the text's score grew
by from there on (`szpo.policies.basis.assign_credit`), which leaves out most of the noise.

A step draws answers, lets a way propose a direction, and goes as far along it as costs
``step_nats`` by the way's own estimate. What it really costs is measured: the KL of the
new policy to the start, on prompts that no step learns from. In distances r = √(2·KL) a step of
length ℓ may add at most 1.25·ℓ; where it adds more, leaves the budget or breaks a guard, it is
halved. The guards of fluency, variety and length, and the score by which the best policy is
chosen, are of the same prompts; the guard of the topic takes too long for every step, and is the
caller's.

All random numbers follow from one seed, so a resumed improvement ends like an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.config.optimizer import make_settings
from szpo.errors import UsageError
from szpo.files import private, replace_whole
from szpo.ledger.theta import adopted_digest
from szpo.models.scores import ScoredLaw
from szpo.optim import links, optimizer, parameters
from szpo.optim.settings import name_of
from szpo.policies import text_guards
from szpo.policies.backend import Scores, Tokens
from szpo.policies.basis import BLOCK, DECAY, PARTS, Fisher, assign_credit, centre
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.text_guards import Guard, TextFigures
from szpo.types import Answer, Floats, Ints, Layout, Progress, Prompt, Tally, Theta, unseen

Score: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Floats]
"""What each answer to its prompt is worth, (answers,)."""


@dataclass(frozen=True)
class Task:
    """What a way is given besides the policy."""

    score: Score
    prompts: tuple[Prompt, ...]
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
    answers: int
    """How many answers were drawn for it."""
    seeded: bool = False
    """``direction`` has (K,) coefficients of directions that the policy draws at this step."""


Way: TypeAlias = Callable[[LoraPolicy, Task], Proposal | None]
"""Finds a direction at the policy's present coordinates, from answers that it draws itself; None
where no answer scores more than another to the same prompt."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Answers to a task at the policy's present coordinates, and their score functions."""

    scores: Floats
    """Score functions of whole answers (n, D), centred within prompts."""
    gradient: Floats
    """The policy gradient E[s r] (D,), for r in standard deviations within prompts."""


READ: Final = 32
"""Answers whose score functions are read at once, in double precision."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Answers of the start and their score functions, read once for any score."""

    policy: LoraPolicy
    prompts: tuple[Prompt, ...]
    """The prompt of each answer."""
    samples: int
    """How many consecutive answers have the same prompt."""
    rows: Tokens
    cuts: tuple[int, ...]
    scores: NDArray[np.float32]
    """Of the parts of each answer (n, parts, D)."""

    def gradient(self, score: Score) -> Drawn | None:
        """The policy gradient at the start; None where none scores more than another."""
        credit = _credit(self.policy, score, self.prompts, self.samples, self.rows, self.cuts)
        return None if credit is None else _gather(self.scores, credit, self.samples)


def draw_pool(
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    samples: int,
    *,
    seed: int,
    progress: Progress = unseen,
) -> Pool:
    """Draw and read ``samples`` answers of the start to each prompt."""
    require_all_weights(policy)
    asked = tuple(prompt for prompt in prompts for _ in range(samples))
    many = max(1, BLOCK // samples)
    drawn: list[tuple[int, ...]] = []
    for i in range(0, len(prompts), many):
        progress("the start's answers", len(drawn), len(asked))
        drawn += policy.sample_tokens(
            prompts[i : i + many], samples, seed=seeds.child_seed(seed, i, "pool"), base=True
        )
    return read_pool(policy, asked, samples, tuple(drawn), progress=progress)


def read_pool(
    policy: LoraPolicy,
    asked: tuple[Prompt, ...],
    samples: int,
    rows: Tokens,
    *,
    progress: Progress = unseen,
) -> Pool:
    """Read answers of the start, each to its prompt; see `Pool`."""
    cuts = _cut(rows, PARTS)
    scores = np.empty((len(rows), 1 + len(cuts), policy.dim), np.float32)
    for i in range(0, len(rows), READ):
        progress("what they teach", i, len(rows))
        block = slice(i, i + READ)
        scores[block] = read_scores(policy, policy.start(), asked[block], rows[block], cuts)
    return Pool(policy, asked, samples, rows, cuts, scores)


def draw_gradient(policy: LoraPolicy, task: Task) -> Drawn | None:
    """Draw and read the answers of a policy gradient; None where none scores more than another."""
    require_all_weights(policy)
    rows = policy.sample_tokens(task.prompts, task.samples, seed=task.seed)
    asked = [prompt for prompt in task.prompts for _ in range(task.samples)]
    cuts = _cut(rows, task.parts)
    credit = _credit(policy, task.score, asked, task.samples, rows, cuts)
    if credit is None:
        return None
    read = read_scores(policy, policy.theta(), asked, rows, cuts)
    return _gather(read, credit, task.samples)


def _cut(rows: Tokens, parts: int) -> tuple[int, ...]:
    """Where parts of answers begin, in tokens, without the first."""
    longest = max(map(len, rows))
    step = -(-longest // parts)
    return tuple(range(step, longest, step))


def _credit(
    policy: LoraPolicy,
    score: Score,
    asked: Sequence[Prompt],
    samples: int,
    rows: Tokens,
    cuts: tuple[int, ...],
) -> Floats | None:
    """What each part of each answer is worth (n, parts); None where none scores more."""
    groups = _groups(len(rows), samples)

    def values(cut: int | None = None) -> Floats:
        answers = [policy.answer(row[:cut]) for row in rows]
        blocks = [slice(i, i + BLOCK) for i in range(0, len(rows), BLOCK)]
        found = np.concatenate([score(asked[block], answers[block]) for block in blocks])
        return np.asarray(found, np.float64).reshape(-1, 1)

    worth = values()
    if not centre(worth, groups).any():
        return None
    begun = np.stack([values(cut) for cut in cuts]) if cuts else np.zeros((0, *worth.shape))
    step = cuts[0] if cuts else max(map(len, rows))
    return np.asarray(assign_credit(worth, begun, groups, DECAY**step)[..., 0])


def _groups(count: int, samples: int) -> Ints:
    return np.repeat(np.arange(count // samples), samples)


def _gather(read: Floats | NDArray[np.float32], credit: Floats, samples: int) -> Drawn:
    total = np.einsum("npd,np->d", read, credit.astype(read.dtype), optimize=True)
    whole = centre(read.sum(1, dtype=np.float64), _groups(len(read), samples))
    return Drawn(whole, np.asarray(total / len(read), np.float64))


def read_scores(
    policy: LoraPolicy,
    theta: Theta,
    prompts: Sequence[Prompt],
    rows: Tokens,
    cuts: tuple[int, ...] = (),
) -> Floats:
    """Score functions at θ of answers, (answers, parts, D); see `ScoredLaw.cuts`."""
    asked = tuple(policy.encode(prompt) for prompt in prompts)
    law = ScoredLaw(policy.sampling.temperature, cuts=cuts)
    found = policy.backend.read(Scores(asked, rows, law, theta))
    return np.asarray(found.reshape(len(rows), 1 + len(cuts), -1), np.float64)


def cost(scores: Floats, direction: Floats) -> float:
    """½ dᵀ F d in nats, with F of these score functions (n, D)."""
    return float(((scores @ direction) ** 2).mean() / 2)


def require_all_weights(policy: LoraPolicy) -> None:
    """Refuse a policy whose coordinates are not all B of its adapter, at a temperature above 0."""
    if [name for name, _ in policy.layout] != [site.b for site in policy.subspace.sites]:
        raise UsageError("a gradient moves every B of an adapter; these coordinates are others")
    if policy.sampling.temperature == 0:
        raise UsageError("temperature 0 has no policy gradient; set generation.temperature")


def policy_gradient(policy: LoraPolicy, task: Task, ridge: float = 0.1) -> Proposal | None:
    """Way (a): along the policy gradient, each weight divided by the spread of its own s.

    ``ridge`` is added to each weight's second moment, as a share of their mean; inf: no
    preconditioner.
    """
    drawn = draw_gradient(policy, task)
    if drawn is None:
        return None
    square = (drawn.scores**2).mean(0)
    share = square / square.mean() / ridge
    return _propose(drawn, drawn.gradient / np.sqrt(share + 1))


def natural_gradient(policy: LoraPolicy, task: Task, ridge: float = 0.03) -> Proposal | None:
    """Way (b): along F⁻¹ E[s r], with F of the same answers and a ridge, a share of its trace."""
    drawn = draw_gradient(policy, task)
    return None if drawn is None else along_natural(drawn, ridge)


def along_natural(drawn: Drawn, ridge: float) -> Proposal:
    """The natural gradient of answers that were read, with a ridge as in `natural_gradient`."""
    return _propose(drawn, Fisher(drawn.scores, ridge).natural(drawn.gradient[:, None])[:, 0])


def along(
    pool: Pool, score: Score, widen: Callable[[Floats], Floats], *, drawn: int, ridge: float = 0.03
) -> Way:
    """Way (b) from many answers of the start, with which each step goes on along one line.

    So many answers show where a score rises far better than the few of a step, and what a step
    costs too: on SmolLM2 the line is as straight as 3 nats are long (`experiments/LOG.md`).

    ``widen`` writes a direction of the pool's policy in the moving one's coordinates. ``drawn``:
    how many of the answers were drawn for this improvement.
    """

    @once
    def find() -> Proposal | None:
        found = pool.gradient(score)
        if found is None:
            return None
        line = along_natural(found, ridge)
        return replace(line, direction=widen(line.direction), answers=drawn)

    def way(policy: LoraPolicy, task: Task) -> Proposal | None:
        found = find()
        return found and replace(found, answers=found.answers if task.step == 1 else 0)

    return way


def _propose(drawn: Drawn, direction: Floats) -> Proposal:
    return Proposal(direction, cost(drawn.scores, direction), len(drawn.scores))


def zeroth_order(
    policy: LoraPolicy,
    task: Task,
    votes: Literal["known", "sign"] | None = None,
    *,
    rows: int = 4,
    voters: int = 1,
    nats: float = 0.5,
) -> Proposal | None:
    """Way (c): along seeded directions, by what the policies perturbed along them score.

    There are as many directions as the task's answers allow, with N = ``rows`` pairs for each. κ =
    ``nats``: how far a perturbed policy is from the present one; KL should be quadratic so far.
    ``votes``: rule of M = ``voters`` votes on each pair, drawn from the scores by Bradley and
    Terry's law; None: their limit, the difference of mean scores.
    """
    count = max(1, len(task.prompts) * task.samples // (2 * rows))
    space, scale = policy.space, policy.subspace.scale
    shape = (count, rows)
    mu = policy.subspace.mu(nats)
    settings = make_settings(
        space.root_seed, space.layout, rule=votes or "known", law=name_of(space.law),
        K=count, N=rows, M=voters, D=1, mu=mu, alpha=mu * mu,
    )  # fmt: skip
    state = replace(optimizer.init(settings), step=task.step)
    query = optimizer.ask(state)
    shifts = [shift for pair in query.shifts for shift in pair]
    order = np.arange(count * rows).reshape(shape) % len(task.prompts)
    asked = [tuple(task.prompts[i] for i in order[n // 2]) for n in range(len(shifts))]
    drawn = policy.rollout(asked, shifts, seed=task.seed)
    flat = [prompt for row in asked for prompt in row]
    scores = np.asarray(task.score(flat, [answer for row in drawn for answer in row]))
    plus, minus = np.moveaxis(scores.reshape(count, 2, rows), 1, 0)
    worth = plus - minus
    if not worth.any():
        return None
    none = np.zeros(shape)
    if votes is None:
        delta, tally = worth.mean(1), Tally(none, none, none, worth == 0)
    else:
        key = seeds.derive(task.seed, "improve votes")
        u = seeds.uniform(key, worth.size * voters).reshape(*shape, -1)
        wins = (u < links.link("logistic").prob(worth)[..., None]).sum(-1).astype(np.float64)
        delta, tally = None, Tally(wins, voters - wins, none, none > 0)
    _, updates, _ = optimizer.tell(state, query, tally, delta=delta)
    coefs = np.array([update.coef for update in updates])
    along = sum(
        coef * parameters.direction_vector(space, task.step, k) for k, coef in enumerate(coefs)
    )
    spent = float(np.sum(np.square(along))) / (2 * scale * scale)
    return Proposal(coefs, spent, scores.size, seeded=True)


SLACK: Final = 1.25
"""Most that a step may add to √(2·KL), in lengths of the step."""
MOST_HALVED: Final = 4
"""After so many halvings a step is given up."""
SPENT: Final = 0.9
"""Share of the KL budget at which it counts as spent."""
FEWEST_CHECKED: Final = 3
"""Fewest prompts to measure on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How far to go, and in which steps."""

    nats: float = 3.0
    """KL budget: most nats an answer from the start."""
    step_nats: float = 0.1
    """Predicted cost of a step by itself, in nats."""
    answers: int = 96
    samples: int = 4
    """How many of them answer the same prompt."""
    steps: int = 40
    patience: int = 4
    """Steps without a new best score after which it stops."""
    checked: int = 32
    """Prompts split off for measuring; at most a third of all."""
    each: int = 2
    """Measured answers to each of them."""
    parts: int = PARTS
    """As in `Task.parts`."""
    waived: tuple[str, ...] = ()
    """Names of guards that are measured but not heeded: those that the score is about."""

    def failed(self, guards: Sequence[Guard]) -> list[str]:
        """Names of the guards that fail and are heeded."""
        return [guard.name for guard in guards if not guard.ok and guard.name not in self.waived]


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy as measured on the prompts that were split off."""

    score: float
    nats: float
    """KL to the start, nats an answer."""
    stderr: float
    """Of the KL, over prompts."""
    figures: TextFigures
    answers: int
    """How many answers this was measured on."""
    by_prompt: tuple[float, ...] = ()
    """Mean score of the answers to each prompt."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was tried last."""

    answers: int
    """Answers drawn in this step, the measured ones included."""
    halved: int
    checked: Checked
    guards: tuple[Guard, ...]
    kept: bool
    coefs: tuple[float, ...] = ()
    """Of the directions that the policy draws at this step, where the way moved along these."""


@dataclass(frozen=True, eq=False)
class Improved:
    """Where an improvement is, or where it ended."""

    seed: int
    theta: Theta
    """The best policy so far: every moving factor."""
    last: Theta
    """Where the next step begins."""
    base: Checked
    """The start that KL and guards refer to."""
    begun: Checked
    """The policy that the first step began from."""
    first: str = ""
    """Digest of this policy; "": not noted."""
    best: int = 0
    """The step that led to ``theta``; 0: none was better than where it began."""
    steps: tuple[Step, ...] = ()
    stopped: str = ""
    """Why it ended; empty while it goes on."""

    @property
    def checked(self) -> Checked:
        """The best policy as measured."""
        return self.steps[self.best - 1].checked if self.best else self.begun

    @property
    def answers(self) -> int:
        """Answers drawn in all steps."""
        return sum(step.answers for step in self.steps)


def improve(
    policy: LoraPolicy,
    score: Score,
    prompts: Sequence[Prompt],
    way: Way,
    plan: Plan = Plan(),
    *,
    seed: int,
    split: int | None = None,
    since: Improved | None = None,
    report: Callable[[Improved], object] = lambda state: None,
    keep: Callable[[], tuple[Guard, ...]] = tuple,
) -> Improved:
    """Move a policy so that its own answers score higher; nobody is asked.

    The policy begins where it is, and ends there too. A third or less of the prompts, at least
    six, is only measured on; ``split``: another seed for that. It goes on from the state ``since``
    of an improvement with the same arguments. ``report`` gets the state at the beginning and after
    each step. ``keep``: more guards, of the policy where it is when called.
    """
    taught, aside = split_prompts(prompts, plan.checked, seed if split is None else split)

    def check(theta: Theta, *, base: bool = False) -> Checked:
        with moved(policy, theta):
            return measure(policy, score, aside, plan.each, seed=seed, base=base)

    state = since
    if state is None:
        here, start = map(policy.subspace.weights, (policy.theta(), policy.start()))
        base = check(start, base=True)
        begun = base if are_equal(here, start) else check(here)
        state = Improved(seed, here, here, base, begun, adopted_digest(here))
        report(state)
    while not state.stopped:
        state = _take_step(policy, score, way, plan, state, taught, check, keep)
        report(state)
    return state


def split_prompts(
    prompts: Sequence[Prompt], most: int, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Split prompts into those that steps learn from and at most ``most``, a third, to measure on.

    >>> [len(part) for part in split_prompts([Prompt.user(str(i)) for i in range(9)], 32, 0)]
    [6, 3]
    """
    unique = tuple(dict.fromkeys(prompts))
    count = min(most, len(unique) // 3)
    if count < min(most, FEWEST_CHECKED - 1):
        raise UsageError(f"improving needs 6 different prompts or more; got {len(unique)}")
    order = seeds.permutation(seeds.derive(seed, "improve prompts"), len(unique)).tolist()
    return tuple(unique[i] for i in order[count:]), tuple(unique[i] for i in order[:count])


def measure(
    policy: LoraPolicy, score: Score, prompts: Sequence[Prompt], each: int, *,
    seed: int, base: bool = False,
) -> Checked:  # fmt: skip
    """Score, KL and text figures of ``each`` answers to these prompts; ``base``: of the start."""
    rows = policy.sample_tokens(prompts, each, seed=seed, base=base)
    nats, stderr = (0.0, 0.0) if base else policy.kl_of(prompts, rows)
    answers = [policy.answer(row) for row in rows]
    asked = [prompt for prompt in prompts for _ in range(each)]
    grouped = [answers[i : i + each] for i in range(0, len(answers), each)]
    scores = np.asarray(score(asked, answers))
    return Checked(
        float(scores.mean()), nats, stderr,
        text_guards.measure(policy, prompts, grouped, seed=seed, topic=False), len(answers),
        tuple(scores.reshape(-1, each).mean(1).tolist()),
    )  # fmt: skip


def _take_step(
    policy: LoraPolicy,
    score: Score,
    way: Way,
    plan: Plan,
    state: Improved,
    taught: Sequence[Prompt],
    check: Callable[[Theta], Checked],
    keep: Callable[[], tuple[Guard, ...]],
) -> Improved:
    number = len(state.steps) + 1
    if number > plan.steps:
        return replace(state, stopped=f"{plan.steps} steps were taken")
    root = seeds.child_seed(state.seed, number, "improve step")
    many = min(max(1, plan.answers // plan.samples), len(taught))
    order = seeds.endless_order(
        len(taught), many, lambda lap: seeds.derive(state.seed, "improve order", step=lap),
        first=(number - 1) * many,
    )  # fmt: skip
    before = state.steps[-1].checked if state.steps else state.begun
    if before.nats >= plan.nats:
        return replace(state, stopped=_spent(before, plan))
    task = Task(score, tuple(taught[i] for i in order), plan.samples, root, number, plan.parts)
    with moved(policy, state.last):
        found = way(policy, task)
    if found is None or not found.nats > 0:
        return replace(state, stopped="no answer scores more than another to the same prompt")
    coefs: tuple[float, ...] = ()

    far, budget = math.sqrt(2 * before.nats), math.sqrt(2 * plan.nats)
    length = min(math.sqrt(2 * plan.step_nats), budget - far)
    most = min(far + SLACK * length, budget)
    answers, halved = found.answers, 0
    while True:
        factor = length / math.sqrt(2 * found.nats)
        if found.seeded:
            coefs = tuple(parameters.round_coef(factor * found.direction).tolist())
            theta: Theta = policy.subspace.follow(policy.space, state.last, number, coefs)
        else:
            theta = add(state.last, policy.layout, found.direction, factor)
        after = check(theta)
        answers += after.answers
        fits = math.sqrt(2 * max(after.nats, 0.0)) <= most
        with moved(policy, theta):
            more = keep() if fits else ()
        held = (*text_guards.guards(state.base.figures, after.figures), *more)
        failed = plan.failed(held)
        kept = fits and not failed
        if kept or halved == MOST_HALVED:
            break
        length, halved = length / 2, halved + 1
    step = Step(answers, halved, after, held, kept, coefs)
    state = replace(state, steps=(*state.steps, step))
    if not fits:
        return replace(state, stopped="no step stays within the KL that it may cost")
    if failed:
        return replace(state, stopped=f"guard: {failed[0]}")
    best = state.best
    if after.score > state.checked.score:
        state, best = replace(state, theta=theta, best=number), number
    state = replace(state, last=theta)
    if after.nats >= SPENT * plan.nats:
        return replace(state, stopped=_spent(after, plan))
    if number - best >= plan.patience:
        return replace(state, stopped="the score no longer rises")
    return state


def _spent(there: Checked, plan: Plan) -> str:
    return f"{there.nats:.1f} of {plan.nats:g} nats are spent"


def are_equal(one: Theta, other: Theta) -> bool:
    """Whether two policies have the same moving factors, which makes them the same policy."""
    return all((one[name] == value).all() for name, value in other.items())


def add(theta: Theta, layout: Layout, direction: Floats, factor: float) -> Theta:
    """θ + factor · direction, rounded once."""
    cuts = np.cumsum([theta[name].size for name, _ in layout])[:-1]
    parts = np.split(direction, cuts)
    return {
        name: (theta[name] + factor * part.reshape(shape)).astype(np.float32)
        for (name, shape), part in zip(layout, parts, strict=True)
    }


# ---- the state as a file ----


def save(state: Improved, path: Path, origin: tuple[str, int]) -> None:
    """Write a state to one ``.npz`` file, atomically; ``origin``: an event's digest and number."""
    facts = asdict(replace(state, theta={}, last={})) | {"origin": origin}
    arrays: dict[str, Any] = {f"theta/{name}": value for name, value in state.theta.items()}
    arrays |= {f"last/{name}": value for name, value in state.last.items()}
    with replace_whole(path) as draft, open(draft, "wb", opener=private) as file:
        np.savez(file, **arrays, facts=np.array(json.dumps(facts)))


def load(path: Path) -> tuple[Improved, tuple[str, int]]:
    """Read what `save` wrote: the state and its origin; for `cache.read_stored`."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        head, event = facts.pop("origin")
        tensors = {name: file[name] for name in file.files if name != "facts"}
    steps = tuple(
        Step(**{
            **each, "checked": _checked(each["checked"]),
            "guards": tuple(Guard(**guard) for guard in each["guards"]),
            "coefs": tuple(each["coefs"]),
        })
        for each in facts["steps"]
    )  # fmt: skip
    ends = {"base": _checked(facts["base"]), "begun": _checked(facts["begun"])}
    thetas = {
        part: {
            name.removeprefix(f"{part}/"): value
            for name, value in tensors.items()
            if name.startswith(f"{part}/")
        }
        for part in ("theta", "last")
    }
    return Improved(**{**facts, **ends, **thetas, "steps": steps}), (head, event)


def _checked(facts: dict[str, Any]) -> Checked:
    figures, means = TextFigures(**facts["figures"]), tuple(facts.get("by_prompt", ()))
    return Checked(**{**facts, "figures": figures, "by_prompt": means})
