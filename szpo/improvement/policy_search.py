"""Search for a policy that scores higher on the taste of a run's votes; nothing is written.

It begins at the run's recommended point, or, where that is an adopted policy, at the votes' own
mix if that scores higher by now; part of the way there where that has spent more than half of the
budget, or at the start where its own line rises more steeply. It moves every B of the adapter
(`szpo.improvement.score_ascent`: along the natural gradient that a thousand answers of the start
show, which a process draws once; without gradients the adapters' weights, where these are the
run's coordinates).

The best policy found is drawn back towards the start until fresh answers keep budget and guards. A
run adopts it where it scores higher on these than where it began, or else the votes' mix.
Prompts for measuring and those of check rows are split off from the training prompts; held-out
ones are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from szpo import seeds, turns
from szpo.analysis import run_taste
from szpo.config.schema import FEATURE_SAMPLES
from szpo.errors import UsageError
from szpo.improvement import score_ascent
from szpo.improvement.aims import waived_by
from szpo.improvement.draw_back import draw_back
from szpo.improvement.score_ascent import (
    SPENT,
    Checked,
    Improved,
    Plan,
    Pool,
    Proposal,
    Task,
    Way,
    along,
    draw_pool,
    improve,
    measure,
    natural_gradient,
    policy_gradient,
    split_prompts,
    zeroth_order,
)
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import RECOMMENDED, START, UPDATED
from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.policies import subspaces, text_guards
from szpo.policies.basis import PARTS
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspaces import Subspace, every_b
from szpo.policies.text_guards import Guard
from szpo.replay import replay
from szpo.runs import guards
from szpo.runs.assemble import RunParts
from szpo.runs.services import set_aside
from szpo.taste import Taste
from szpo.types import Answer, Floats, Progress, Prompt, Theta, unseen

FIRST_NATS: Final = 0.5
"""How much further a policy may go before the lower value of its gain is above 0."""
COMPARED: Final = 64
"""Fresh answers at least by which policies are compared: to begin at one, and to adopt one."""
MOST_READ: Final = 3
"""Times that as many are drawn, while two policies score within two standard errors."""
MIXED: Final = 0.5
"""It begins at most this share of the budget away from the start, towards where the run is."""
START_ANSWERS: Final = 4
"""Answers of the start to each prompt, with which answers of the improved policy are compared."""
LINE_NATS: Final = 0.3
"""A step's by itself where it follows the line of many answers."""
POOL_BYTES: Final = 2**28
"""Most memory for the score functions of the start's answers."""
WAYS: Final[dict[str, Way]] = {
    "policy": policy_gradient, "natural": natural_gradient, "zeroth": zeroth_order,
}  # fmt: skip
"""By their name in ``improve.way``."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What an improvement begins from: a run as it is on record before an event."""

    event: int
    head: str
    """Digest of the event before it, which no other run or later history has."""
    steps: int
    """Steps applied by then."""
    adopted: int
    """How many improvements were adopted by then."""
    taken_back: bool
    """The policy had gone back to its start, or verdicts were withdrawn: the votes' own mix may be
    what checks were against, or have learned from these."""
    epoch: int
    """The controller's."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of an improvement, before a run adopts it."""

    state: Improved
    adopts: Theta | None
    """Every moving factor of what the run adopts; None: it stays as it is."""
    body: Mapping[str, Any]
    """Of the event that says so."""
    sites: tuple[Subspace, bool] | None
    """The layers that a run without coordinates adapts from then on, as from `_with_sites`."""
    pool: Pool | None
    """The start's answers, for the next improvement of the same process."""


@dataclass(frozen=True, eq=False)
class Search:
    """What the stages of a search share."""

    policy: LoraPolicy
    """In the coordinates of the way."""
    way: Way
    pool: Pool | None
    """Answers of the start, where the way learns from these."""
    line: Proposal | None
    """Which it then goes along at every step."""
    plan: Plan
    seed: int
    split: int
    """The seed by which prompts are split."""
    asked: Sequence[Prompt]
    aside: tuple[Prompt, ...]
    """Those of the prompts that are only measured on."""
    score: score_ascent.Score
    gain: Callable[[Sequence[Prompt], Sequence[Answer]], float]
    keep: Callable[[], tuple[Guard, ...]]
    fresh: int
    """The seed of answers with which no step is chosen."""
    start: Theta
    base: Checked
    """The start by fresh answers."""
    drawn: list[int]
    """How many fresh answers each reading drew."""
    progress: Progress

    def measure(self, theta: Theta, what: str, number: int = 0) -> Checked:
        """Read a policy by fresh answers; ``what``: its name for people.

        ``number``: from 1 on other answers than those that the start is compared by.
        """
        self.progress(f"answers of {what}", 0, 0)
        seed = seeds.child_seed(self.fresh, number, "drawn back") if number else self.fresh
        with moved(self.policy, theta):
            found = _read(self.policy, self.score, self.aside, seed)
        self.drawn.append(found.answers)
        return found

    def tell_apart(
        self, one: Theta, there: Checked, other: Theta, here: Checked
    ) -> tuple[Checked, Checked]:
        """Score two policies by more answers while they are within two standard errors."""
        while _are_close(there, here):
            fewer = min(there.answers, here.answers)
            if fewer >= MOST_READ * COMPARED:
                break
            self.progress("answers of two policies that score alike", 0, 0)
            seed = seeds.child_seed(self.fresh, len(self.drawn), "again")
            first, second = there.answers == fewer, here.answers == fewer
            there = self._again(one, there, seed) if first else there
            here = self._again(other, here, seed) if second else here
        return there, here

    def _again(self, theta: Theta, found: Checked, seed: int) -> Checked:
        """The policy's score by the answers to the same prompts and new ones; all else stays."""
        each = _answers_each(self.aside)
        asked, answers = self.answers(theta, each, seed)
        self.drawn.append(len(answers))
        return _add(found, self.score(asked, answers).reshape(-1, each).mean(1), len(answers))

    def answers(self, theta: Theta, each: int, seed: int) -> tuple[list[Prompt], list[Answer]]:
        """A policy's answers on the prompts to measure on, each with its prompt."""
        with moved(self.policy, theta):
            drawn = self.policy.sample(self.aside, each, seed=seed)
        pairs = [(p, a) for p, row in zip(self.aside, drawn, strict=True) for a in row]
        return [p for p, _ in pairs], [a for _, a in pairs]

    def guards(self, theta: Theta, there: Checked) -> tuple[Guard, ...]:
        """The guards of a policy that was read."""
        with moved(self.policy, theta):
            return (*text_guards.guards(self.base.figures, there.figures), *self.keep())


def search_move(
    ledger: Ledger,
    parts: RunParts,
    begun: Begun,
    *,
    nats: float,
    given: Sequence[str] = (),
    way: str | None = None,
    since: Improved | None = None,
    pool: Pool | None = None,
    starts: Callable[[], object] = lambda: None,
    report: Callable[[Improved], object] = lambda state: None,
    progress: Progress = unseen,
) -> Found:
    """Look for a policy that scores higher on the taste of a run's votes; it writes nothing.

    What the run has recorded since ``begun`` makes no difference; the policy is where it was
    afterwards. It goes at most ``nats`` an answer from the run's start, and half a nat until the
    lower value of what its answers gain on the taste, by `Taste.gain`, is above 0. ``given``: the
    user's own features that are code, anew. ``way``: one of `WAYS`; None: as the run's settings
    say. It goes on from the state ``since``, which an earlier call told ``report`` at its
    beginning or after a step, with the ``pool`` of answers that one returned; ``progress`` is
    called while these are drawn, and ``starts`` once it is known that the votes show a taste.

    Raises:
        RunError: the votes show no taste that has a name, or none any more.
        UsageError: another run than one of a language model whose B move.
    """
    taste = run_taste.read(ledger, given, present=True, before=begun.event)
    starts()
    policy, way = parts.language, way or parts.config.way
    if parts.config.coordinates == "full":
        raise UsageError("improving moves every B of an adapter, and subspace.kind full A as well")
    sites = None if policy.subspace.sites else _with_sites(parts)
    held = policy.subspace if sites is None else sites[0]
    places = replay.improved_from(ledger, held, begun.steps, begun.adopted)
    if begun.taken_back:
        places.pop(UPDATED, None)
    try:
        search = _set_up(
            ledger, parts, begun, taste, held, places[START],
            nats=nats, way=way, given=given, pool=pool, progress=progress,
        )  # fmt: skip
        began = _find_beginning(search, places)
        state, limit = _climb(search, began, since, report)
        best, why_not = None, ""
        if state.best:
            best = _draw_back(search, state, limit)
            began, best, why_not = _compare(search, places[began.place], began, best, limit)
    finally:
        assert parts.base is not None
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)
    if why_not:
        state, best = replace(state, best=0, stopped=why_not), None
    adopts, there, passed, share, scale = None, began.there, began.guards, began.share, 1.0
    if best is not None:
        adopts, there, passed, scale = best.theta, best.there, best.guards, best.scale
    elif began.place == UPDATED:  # by the same sum as verify, which writes no -0.0
        share = 1.0
        adopts = parameters.between(places[START], places[UPDATED], share)
    at_start = score_ascent.are_equal(places[began.place], places[START])
    before = began.there.score if at_start else search.base.score
    body = {
        "taste": taste.to_json(),
        "taste_sha256": taste.sha256,
        "seed": state.seed,
        "nats_allowed": nats,
        "score_before": before,
        "score": there.score,
        "nats": there.nats,
        "nats_stderr": there.stderr,
        "scale": scale,
        "answers": state.answers + sum(search.drawn),
        "guards": [asdict(guard) for guard in passed],
        "stopped": state.stopped,
        "taken": len(state.steps),
        "best": state.best,
        "way": way,
        "began_sha256": theta.adopted_digest(began.first),
        "begun": {
            "steps": begun.steps,
            "event": begun.event,
            "from": began.place if share else START,
        },
    }
    if way == "zeroth" or (adopts is not None and not state.best):
        body["moves"] = {
            "law": asdict(search.policy.space.law), "in_z": search.policy.subspace.in_z,
            "share": share,
            "coefs": [step.coefs for step in state.steps[: state.best]],
        }  # fmt: skip
    return Found(state, adopts, body, sites, search.pool)


def _set_up(
    ledger: Ledger,
    parts: RunParts,
    begun: Begun,
    taste: Taste,
    held: Subspace,
    start: Theta,
    *,
    nats: float,
    way: str,
    given: Sequence[str],
    pool: Pool | None,
    progress: Progress,
) -> Search:
    """Draw what a search needs once: answers of the start, to learn from and to compare with."""
    root = ledger.root_seed
    seed = seeds.as_seed(seeds.derive(root, "improve", step=begun.steps))
    asked = set_aside(parts.prompts.train, root)[0]
    plan = Plan(nats=nats, waived=waived_by(taste))
    if taste.direction is not None:  # each part's score would be a pass of its own
        plan = replace(plan, parts=1)
    taught, aside = split_prompts(asked, plan.checked, root)
    if way == "natural":
        pool = pool or _draw_pool(parts, held, taught, root, progress)
    policy, by, line = _mover(parts, held, way, seed), WAYS[way], None
    progress("the start's answers to compare with", 0, 0)
    score, gain = scorer(taste, policy, asked, seed, given)
    keep = text_guards.keeper(policy, guards.read_questions(parts.config.guards.keep))
    if pool is not None:
        plan = replace(plan, step_nats=LINE_NATS)
        distinct = subspaces.every_distinct_b(held.sites, held.factors())[1]
        by = along(
            pool, score, lambda line: subspaces.widen(line, held.sites, distinct),
            drawn=0 if begun.adopted else len(pool.rows),
        )  # fmt: skip
        line = by(policy, Task(score, taught, 1, seed, step=2))
    fresh = seeds.child_seed(seed, begun.adopted, "compared")
    base = _read(policy, score, aside, fresh, base=True)
    return Search(
        policy, by, pool, line, plan, seed, root, asked, aside, score, gain, keep, fresh, start,
        base, [base.answers], progress,
    )  # fmt: skip


def _read(
    policy: LoraPolicy,
    score: score_ascent.Score,
    aside: Sequence[Prompt],
    seed: int,
    *,
    base: bool = False,
) -> Checked:
    return measure(policy, score, aside, _answers_each(aside), seed=seed, base=base)


def _answers_each(aside: Sequence[Prompt]) -> int:
    return math.ceil(COMPARED / len(aside))


def _are_close(one: Checked, other: Checked) -> bool:
    """Whether the scores differ by less than two standard errors of their difference.

    Over prompts: both answered the same ones.
    """
    apart = np.subtract(one.by_prompt, other.by_prompt)
    return bool(abs(apart.mean()) < 2 * apart.std(ddof=1) / math.sqrt(len(apart)))


def _add(found: Checked, means: Floats, answers: int) -> Checked:
    """The score with that of more answers, whose mean for each prompt is given."""
    share = answers / (found.answers + answers)
    pooled = (1 - share) * np.asarray(found.by_prompt) + share * means
    return replace(
        found, score=float(pooled.mean()), by_prompt=tuple(pooled.tolist()),
        answers=found.answers + answers,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Beginning:
    """Where an improvement begins, by fresh answers."""

    place: str
    """`RECOMMENDED` or `UPDATED`."""
    there: Checked
    """The policy at this place."""
    guards: tuple[Guard, ...]
    """Of the votes' own mix, where it is this place."""
    share: float
    """How much of the way to this place is gone at once; 0: it begins at the start."""
    first: Theta
    nats: float
    """What is spent of the budget there."""


def _find_beginning(search: Search, places: Mapping[str, Theta]) -> Beginning:
    plan, base, start = search.plan, search.base, places[START]
    now, place, mixed = places[RECOMMENDED], RECOMMENDED, tuple[Guard, ...]()
    there = base
    if not score_ascent.are_equal(now, start):
        there = search.measure(now, "the run's policy")
    if UPDATED in places:
        mix = search.measure(places[UPDATED], "the votes' mix")
        if _fits(there, plan.nats) and mix.nats <= plan.nats:
            there, mix = search.tell_apart(now, there, places[UPDATED], mix)
        least = max(base.score, there.score) if _fits(there, plan.nats) else base.score
        if mix.score > least and mix.nats <= plan.nats:
            passed = search.guards(places[UPDATED], mix)
            if not plan.failed(passed):
                place, there, mixed = UPDATED, mix, passed
    share = math.sqrt(min(1.0, MIXED * plan.nats / max(there.nats, 1e-9)))
    first: Theta = parameters.between(start, places[place], share)
    here = search.measure(first, "where it may begin") if share < 1 else there
    if search.line is not None and here.nats > 0:
        factor = math.sqrt(here.nats / search.line.nats)
        equal = score_ascent.add(start, search.policy.layout, search.line.direction, factor)
        by_line = search.measure(equal, "the line")
        steeper = _rise(by_line, base.score) >= _rise(here, base.score)
        if steeper and not plan.failed(search.guards(equal, by_line)):
            return Beginning(place, there, mixed, 0.0, start, 0.0)
    return Beginning(place, there, mixed, share, first, here.nats)


def _climb(
    search: Search,
    began: Beginning,
    state: Improved | None,
    report: Callable[[Improved], object],
) -> tuple[Improved, float]:
    """Go half a nat beyond what was spent, and the rest once the policy has gained.

    ``state``: of an earlier call, which is left where that began elsewhere.

    Returns:
        Where it ended, and how many nats it was allowed by then.
    """
    policy, plan = search.policy, search.plan
    policy.move_to(began.first)
    if state is not None and state.first != theta.adopted_digest(began.first):
        state = None

    def go(plan: Plan, since: Improved | None) -> Improved:
        return improve(
            policy, search.score, search.asked, search.way, plan, seed=search.seed,
            split=search.split, since=since, report=report, keep=search.keep,
        )  # fmt: skip

    near = min(plan.nats, began.nats + FIRST_NATS)

    def spends(state: Improved) -> list[bool]:
        return [each.kept and each.checked.nats >= SPENT * near for each in state.steps]

    if state is None or not any(spends(state)):
        state = go(replace(plan, nats=near), state)
    # Where it begins may be told farther by its steps' answers: then no step was taken.
    passed = spends(state) or [state.begun.nats >= near]
    if any(passed) and plan.nats > near:
        ends = passed.index(True) + 1 == len(passed) and bool(state.stopped)
        if ends and _gained(search, state.theta):
            state = replace(state, stopped="")
        if not ends or not state.stopped:
            near = plan.nats
        if not state.stopped:
            state = go(plan, state)
    return state, near


def _gained(search: Search, theta: Theta) -> bool:
    """Whether the lower value of what a policy's answers gain is above 0."""
    return search.gain(*search.answers(theta, search.plan.each, search.seed)) > 0


@dataclass(frozen=True, eq=False)
class Best:
    """The best policy found, drawn back until fresh answers keep budget and guards."""

    theta: Theta
    there: Checked
    guards: tuple[Guard, ...]
    scale: float
    """How much of the way from the start to this policy is gone, in (0, 1]."""

    @property
    def nats(self) -> float:
        """Those of its fresh answers."""
        return self.there.nats

    @property
    def stderr(self) -> float:
        """Of these nats."""
        return self.there.stderr


def _draw_back(search: Search, state: Improved, nats: float) -> Best:
    """The best policy found, where fresh answers tell it within these nats and its guards hold."""

    def read(scale: float, number: int) -> Best:
        here = state.theta if scale == 1 else parameters.between(search.start, state.theta, scale)
        return Best(here, search.measure(here, "the best step", number), (), scale)

    def guard(found: Best) -> tuple[Best, bool]:
        held = search.guards(found.theta, found.there)
        return replace(found, guards=held), not search.plan.failed(held)

    return draw_back(read, guard, nats)


def _compare(
    search: Search, now: Theta, began: Beginning, best: Best, nats: float
) -> tuple[Beginning, Best, str]:
    """Both as they are told apart, and why the best policy found is not adopted; "": it is.

    ``now``: the policy that the improvement began from.
    """
    failed = search.plan.failed(best.guards)
    if failed:
        return began, best, f"guard by fresh answers: {failed[0]}"
    if best.there.nats > nats:
        far, most = f"{best.there.nats:.2f} nats", f"{nats:.2f} are allowed"
        return began, best, f"fresh answers are {far} away where {most}"
    if not _fits(began.there, search.plan.nats):
        return began, best, ""
    before, after = search.tell_apart(now, began.there, best.theta, best.there)
    began, best = replace(began, there=before), replace(best, there=after)
    if after.score > before.score:
        return began, best, ""
    which = "the votes' mix" if began.place == UPDATED else "the run's policy"
    here = f"{which} scores {before.score:+.2f} at {before.nats:.1f} nats"
    return began, best, f"{here}, and the best step {after.score:+.2f}"


def scorer(
    taste: Taste,
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    seed: int,
    given: Sequence[str] = (),
) -> tuple[score_ascent.Score, Callable[[Sequence[Prompt], Sequence[Answer]], float]]:
    """The taste's score of each answer, and its lower value of what all of them gain.

    Both against what the start answers to their prompts.
    """

    def read(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Any]:
        turns.pause()
        return taste.read(policy, prompts, answers, given)

    asked = list(dict.fromkeys(prompts))
    drawn = policy.sample(asked, START_ANSWERS, seed=seed, base=True)
    pairs = [(prompt, a) for prompt, row in zip(asked, drawn, strict=True) for a in row]
    starts = taste.starts(**read([prompt for prompt, _ in pairs], [a for _, a in pairs]))

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        return taste.score(**read(prompts, answers), starts=starts)

    def gain(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
        return taste.gain(**read(prompts, answers), starts=starts)

    return score, gain


def _with_sites(parts: RunParts) -> tuple[Subspace, bool]:
    """The layers that a run without coordinates would adapt, with their A and B = 0."""
    from szpo.policies import subspace_setup

    assert parts.base is not None
    host, asked = parts.base.host, parts.prompts.train
    sites, conv1d = host.places(parts.config.adapter, None)
    factors = subspace_setup.read_factors(host, sites, asked, parts.config)
    return subspaces.without_coordinates(sites, factors), conv1d


def _mover(parts: RunParts, held: Subspace, way: str, seed: int) -> LoraPolicy:
    """The run's policy in the coordinates of a way, measured against the same start."""
    assert parts.base is not None
    base, sampling, law = parts.base, parts.language.sampling, Law()
    if held.blocks is not None and way == "zeroth":
        where, law = held, Law("orthonormal")
    else:
        where = every_b(held.sites, held.factors())
        if way == "zeroth":
            where = _scaled(parts, where)
    return LoraPolicy(
        base.loaded, where, root_seed=seed, law=law, sampling=sampling, host=base.host
    )


def _fits(there: Checked, nats: float) -> bool:
    """Whether a policy in force is within the budget, as far as the KL is known."""
    return there.nats - 2 * there.stderr <= nats


def _rise(there: Checked, base: float) -> float:
    """How much a policy scores above the start, in its distance √(2 · KL) from it."""
    return (there.score - base) / math.sqrt(2 * max(there.nats, 1e-9))


def _draw_pool(
    parts: RunParts, held: Subspace, prompts: Sequence[Prompt], seed: int, progress: Progress
) -> Pool | None:
    """Answers of the start for `along`; None: their score functions would take too much memory."""
    assert parts.base is not None
    base, lean = parts.base, subspaces.every_distinct_b(held.sites, held.factors())[0]
    policy = LoraPolicy(
        base.loaded, lean, root_seed=seed, law=Law(), sampling=parts.language.sampling,
        host=base.host,
    )  # fmt: skip
    asked = parts.config.subspace.samples or FEATURE_SAMPLES
    each = min(asked, POOL_BYTES // (4 * PARTS * policy.dim)) // len(prompts)
    if each < 2:
        return None
    return draw_pool(policy, prompts, each, seed=seed, progress=progress)


def _scaled(parts: RunParts, whole: Subspace) -> Subspace:
    """Every B with a scale by which KL is told as far as a step goes."""
    from szpo.policies import subspace_setup
    from szpo.policies.probe import full_subspace

    assert parts.base is not None
    config, asked = parts.config, parts.prompts.train
    near = config.optimizer.model_copy(update={"kl_radius": Plan().step_nats})
    config = config.model_copy(update={"optimizer": near})
    seed, sampling = config.subspace.setup_seed, parts.language.sampling
    probe = subspace_setup.probe_of(parts.base.host, whole, asked, sampling, seed)
    return full_subspace(probe, whole, config)
