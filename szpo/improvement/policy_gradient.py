"""Improve a policy on a score by its own answers: a leave-one-out policy gradient on a rein.

A step draws groups of answers to a few prompts. An answer's advantage is its score less the mean
of its group's other answers (Kool et al. 2019; Ahmadian et al. 2024, RLOO), in standard deviations
of the step. Adam (Kingma and Ba 2015) on the weights that move, A and B of a LoRA, makes of the
gradient Σ advantage · log π a direction, in which A counts by the size of its own entries.

Where beginnings of answers can be scored too, each token of an answer has an advantage of its own:
what the score grew by from there on (`szpo.policies.basis.assign_credit`). So 32 answers point as
well uphill as some 150 whose tokens share one advantage.

The rein: a step goes as far as costs its share of nats, KL(new ‖ old) an answer. That is measured
on the step's own answers, and a step that cost more is shortened; the next one begins with a
length by what this one cost. So the beginning, where B is 0, is as quick as the rest, and the end
does not run away. KL to the start is measured on the same answers. Nothing is drawn twice.

All random numbers follow from one seed, so a resumed improvement ends like an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from szpo import cache, seeds
from szpo.errors import ResourceError, RunError, UsageError
from szpo.files import private, replace_whole
from szpo.models.forced_answers import Forced
from szpo.models.logprobs import Sample
from szpo.models.out_of_memory import is_out_of_memory
from szpo.policies.backend import Tokens
from szpo.policies.basis import assign_credit
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.types import Answer, Floats, Prompt, Theta

BETAS: Final = (0.9, 0.95)
"""Adam's decay of the mean and of the mean square of gradients."""
SMALL: Final = 1e-8
"""Added to the root of Adam's mean square; also the least cost of a step that moved."""
WITHIN: Final = 1.2
"""A step may cost this many of its shares before it is shortened."""
MOST_SHORTENED: Final = 4
"""Times a step is shortened at most."""
LONGER: Final = 2.0
"""Most by which a step is longer than the one before."""
FIRST_RATE: Final = 0.03
"""Length of the first step before it is measured: Adam's learning rate."""
PARTS: Final = 48
"""Most parts of an answer that have advantages of their own; up to so many tokens, each token."""
DECAY: Final = 0.7
"""λ for one token of a score that counts words. Set on slopes of three scores at the start."""
TINY: Final = 1e-3
"""Share of a step whose KL is that of rounding: in bf16 two passes of nearly equal weights differ
by some .001 nats a token."""


Worth: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer], Floats | None], Floats]


@dataclass(frozen=True)
class Score:
    """What answers to their prompts are worth, (answers,).

    >>> Score(lambda prompts, answers, states: np.ones(len(answers)))([], []).shape
    (0,)
    """

    of: Worth
    """Of prompts and answers, and their states at the start where these are known already."""
    layer: int | None = None
    """The layer whose `szpo.models.states` it reads; None: it reads texts alone."""
    decay: float | None = None
    """λ for one token: how much of the growth after it is its own. None: beginnings of answers
    cannot be scored, or not quickly, and all tokens have one advantage."""

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], states: Floats | None = None
    ) -> Floats:
        """What each answer to its prompt is worth."""
        return np.asarray(self.of(prompts, answers, states), np.float64)


@dataclass(frozen=True, slots=True)
class Pace:
    """How large steps are."""

    prompts: int = 8
    group: int = 4
    """Answers to each prompt."""
    step_nats: float = 0.05
    """What a step may cost, KL(new ‖ old) in nats an answer."""
    steps: int = 80
    """Most steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step's answers told, and what it cost."""

    answers: int
    score: float
    """Their mean."""
    nats: float
    """Their KL to the start, nats an answer, before the step."""
    stderr: float
    """Of these nats, over prompts."""
    cost: float
    """KL(new ‖ old), nats an answer, without that of rounding."""


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where an improvement is: what it needs to go on."""

    theta: Theta
    """The weights that move."""
    mean: Mapping[str, Floats] = field(default_factory=dict)
    """Adam's mean of gradients; empty before the first."""
    square: Mapping[str, Floats] = field(default_factory=dict)
    """The same of their squares."""
    rate: float = FIRST_RATE
    """Length of the next step before it is measured."""
    floor: float = 0.0
    """KL of rounding alone, nats an answer: no step is charged for it."""
    steps: tuple[Step, ...] = ()

    @property
    def answers(self) -> int:
        """Answers drawn so far."""
        return sum(step.answers for step in self.steps)


def advantages(scores: Floats) -> Floats:
    """Leave-one-out advantages of scores (prompts, group), in standard deviations of them all.

    >>> advantages(np.array([[1.0, 3.0], [0.0, 0.0]])).round(3).tolist()
    [[-1.414, 1.414], [0.0, 0.0]]
    """
    group = scores.shape[1]
    apart = (scores - scores.mean(1, keepdims=True)) * (group / (group - 1))
    spread = apart.std()
    return np.asarray(apart / spread if spread > 0 else apart)


def follow(
    here: Ascent, gradient: Theta, sizes: Mapping[str, float]
) -> tuple[Ascent, dict[str, Floats]]:
    """Adam's direction up a gradient, each tensor in units of its size; the moments after it."""
    first, second = BETAS
    count = len(here.steps) + 1
    mean, square, way = {}, {}, {}
    for name, value in gradient.items():
        g = value.astype(np.float64)
        m = first * here.mean.get(name, 0.0) + (1 - first) * g
        v = second * here.square.get(name, 0.0) + (1 - second) * g * g
        mean[name], square[name] = m, v
        root = np.sqrt(v / (1 - second**count)) + SMALL
        way[name] = sizes[name] * (m / (1 - first**count)) / root
    return replace(here, mean=mean, square=square), way


def climb(
    policy: LoraPolicy,
    score: Score,
    prompts: Sequence[Prompt],
    pace: Pace = Pace(),
    *,
    seed: int,
    since: Ascent | None = None,
    until: Callable[[Ascent], bool] = lambda here: False,
) -> Ascent:
    """Move a policy step by step so that its own answers score higher; nobody is asked.

    It begins where the policy is, and stays, or at the state ``since`` of a call with the same
    arguments. ``until`` is asked before each step, and ends it.

    Raises:
        UsageError: its weights are not factors of an adapter, or it has no gradient.
        RunError: an answer's score is not finite.
    """
    require_gradients(policy)
    here = since or Ascent({name: np.array(policy.theta()[name]) for name, _ in policy.layout})
    while len(here.steps) < pace.steps and not until(here):
        here = take_step(policy, score, prompts, pace, here, seed=seed)
    return here


def propose(
    policy: LoraPolicy,
    score: Score,
    prompts: Sequence[Prompt],
    pace: Pace = Pace(),
    *,
    seed: int,
    nats: float = math.inf,
) -> tuple[Theta, Ascent]:
    """What `climb` changes until its next step would leave a budget, and where that ended.

    A difference of weights, by name of a factor A or B. ``nats`` are those of its steps, KL(new ‖
    old) added up as lengths √(2 · KL).
    """

    def spent(here: Ascent) -> bool:
        lengths = sum(math.sqrt(step.cost) for step in here.steps)
        return lengths + math.sqrt(pace.step_nats) > math.sqrt(nats)

    begun = policy.theta()
    end = climb(policy, score, prompts, pace, seed=seed, until=spent)
    return {name: value - begun[name] for name, value in end.theta.items()}, end


@contextmanager
def in_memory() -> Iterator[None]:
    """Say in one line that memory does not hold a gradient.

    Raises:
        ResourceError: it does not.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "memory does not hold a gradient of this model; take the best of several answers "
            "(--best-of), or let votes mix adapters (subspace.adapters)"
        ) from None


def require_gradients(policy: LoraPolicy) -> None:
    """Refuse a policy that moves in other coordinates than A and B, or has no gradient."""
    if policy.subspace.in_z:
        raise UsageError("a gradient moves A and B of an adapter; these coordinates are others")
    if policy.sampling.temperature == 0:
        raise UsageError("temperature 0 has no policy gradient; set generation.temperature")


def take_step(
    policy: LoraPolicy,
    score: Score,
    prompts: Sequence[Prompt],
    pace: Pace,
    here: Ascent,
    *,
    seed: int,
) -> Ascent:
    """One step from a state: the state after it."""
    number, many = len(here.steps), min(pace.prompts, len(prompts))
    order = seeds.endless_order(
        len(prompts), many, lambda lap: seeds.derive(seed, "improve order", step=lap),
        first=number * many,
    )  # fmt: skip
    asked = [prompts[i] for i in order]
    with moved(policy, here.theta):
        rows = policy.sample_tokens(
            asked, pace.group, seed=seeds.child_seed(seed, number, "improve answers")
        )
        whole = policy.factors()
    ids = [policy.encode(prompt) for prompt in asked]
    every = [prompt for prompt in asked for _ in range(pace.group)]
    forced = Forced(
        policy.local.adapted,
        [Sample(ids[i // pace.group], row) for i, row in enumerate(rows)],
        policy.local.start_deltas(),
        temperature=policy.sampling.temperature,
        layer=score.layer,
    )
    values = score(every, [policy.answer(row) for row in rows], forced.states)
    if not np.isfinite(values).all():
        raise RunError("an answer's score is not finite; check what scores answers")
    worth = advantages(values.reshape(many, pace.group)).ravel()
    moving = [name for name, _ in policy.layout]
    credit, cuts = worth[:, None], tuple[int, ...]()
    if score.decay is not None and (cuts := _cut(rows)):
        begun = np.stack([
            score(every, [policy.answer(row[:cut]) for row in rows]) for cut in cuts
        ])[..., None]  # fmt: skip
        groups = np.repeat(np.arange(many), pace.group)
        credit = assign_credit(values[:, None], begun, groups, score.decay ** cuts[0])[..., 0]
    gradient, kl = forced.gradient(whole, moving, credit / len(rows), cuts)
    means = kl.reshape(many, pace.group).mean(1)
    nats, stderr = float(kl.mean()), float(means.std(ddof=1) / math.sqrt(many))
    step = Step(len(rows), float(values.mean()), max(0.0, nats), stderr, 0.0)
    if not worth.any():
        return replace(here, steps=(*here.steps, step))
    after, way = follow(here, gradient, {name: _size(name, whole[name]) for name in moving})
    along = _Way(forced, whole, here.theta, way)
    floor = here.floor if here.mean else along.cost(TINY * here.rate)
    rate, cost = _shorten(lambda rate: along.cost(rate) - floor, here.rate, pace.step_nats)
    grown = math.sqrt(pace.step_nats / cost) if cost > 0 else LONGER
    return replace(
        after, theta=along.at(rate), rate=rate * min(LONGER, grown), floor=floor,
        steps=(*here.steps, replace(step, cost=max(SMALL, cost))),
    )  # fmt: skip


def _cut(rows: Tokens) -> tuple[int, ...]:
    """Where parts of answers begin, in tokens, without the first."""
    longest = max(map(len, rows))
    step = -(-longest // PARTS)
    return tuple(range(step, longest, step))


def _size(name: str, value: Floats) -> float:
    """What an entry counts as 1 in: those of A are small, B begins at 0 and reads unit values."""
    return 1.0 if name.endswith(".lora_B") else math.sqrt(float((value**2).mean()))


@dataclass(frozen=True, eq=False)
class _Way:
    """A direction at the policy whose gradient was read."""

    forced: Forced
    whole: Theta
    theta: Theta
    way: Mapping[str, Floats]

    def at(self, rate: float) -> Theta:
        return {n: (self.theta[n] + rate * d).astype(np.float32) for n, d in self.way.items()}

    def cost(self, rate: float) -> float:
        return float(self.forced.cost({**self.whole, **self.at(rate)}).mean())


def _shorten(cost: Callable[[float], float], rate: float, share: float) -> tuple[float, float]:
    """Shorten a step that costs more than its share of nats: its length, and what it costs."""
    for _ in range(MOST_SHORTENED):
        spent = cost(rate)
        if not math.isfinite(spent):
            raise RunError("the KL of a step is not finite; lower improve.nats, or leave it out")
        if spent <= WITHIN * share:
            return rate, spent
        rate *= math.sqrt(share / spent)
    return rate, cost(rate)


# ---- the state as a file ----


def save(here: Ascent, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a state, Adam's moments included, to one ``.npz`` file, atomically; with ``facts``."""
    parts = {"theta": here.theta, "mean": here.mean, "square": here.square}
    arrays: dict[str, Any] = {
        f"{part}/{name}": value for part, each in parts.items() for name, value in each.items()
    }
    own = {"rate": here.rate, "floor": here.floor, "steps": [asdict(s) for s in here.steps]}
    with replace_whole(path) as draft, open(draft, "wb", opener=private) as file:
        np.savez(file, **arrays, facts=np.array(json.dumps({**facts, **own})))


def load(path: Path) -> tuple[Ascent, dict[str, Any]]:
    """Read what `save` wrote: the state and the facts; for `cache.read_stored`."""
    cache.require_plain(path)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        parts: dict[str, dict[str, Any]] = {"theta": {}, "mean": {}, "square": {}}
        for name in file.files:
            part, _, tensor = name.partition("/")
            if tensor:
                parts[part][tensor] = file[name]
    steps = tuple(Step(**each) for each in facts.pop("steps"))
    rate, floor = facts.pop("rate"), facts.pop("floor")
    return Ascent(**parts, rate=rate, floor=floor, steps=steps), facts
