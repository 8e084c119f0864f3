"""Search for a policy that scores higher on the taste of a run's votes; nothing is written.

It begins at the run's recommended point, or, where that is an adopted policy, at the votes' own
mix if that scores higher by now; part of the way there where that has spent more than half of the
budget. It moves every B of the adapter by its own answers (`szpo.improvement.policy_gradient`), KL
always to the start: half a nat beyond where it begins, and the rest once fresh answers have gained
on the taste by its lower value.

The policy found is drawn back towards the start until fresh answers keep budget and guards. A run
adopts it where it scores higher on these than where it began, or else the votes' mix.
Prompts for measuring and those of check rows are split off from the training prompts; held-out
ones are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import background_work, seeds
from szpo.analysis import run_taste
from szpo.errors import UsageError
from szpo.improvement import policy_gradient
from szpo.improvement.aims import decay_of, waived_by
from szpo.improvement.draw_back import draw_back
from szpo.improvement.policy_gradient import Ascent, Pace, Score
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import RECOMMENDED, START, UPDATED
from szpo.optim import parameters
from szpo.policies import subspaces, text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspaces import Subspace, every_b
from szpo.policies.text_guards import Guard, TextFigures
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
START_ANSWERS: Final = 2
"""Answers of the start to each prompt to measure on, which the taste compares others with."""
SPENT: Final = 0.9
"""Share of the budget at which it counts as spent."""
SPENT_ALL: Final = "by its steps' own answers it is as far away as it may go"
CHECKED: Final = 32
"""Prompts split off for measuring; at most a third of all."""
STUCK: Final = 3
"""After so many steps without a cost in a row a search ends."""
PATIENCE: Final = 12
"""After so many steps the last third of them must score more than the first."""
PACE: Final = Pace()
UNSURE: Final = f"it may have gained nothing by {FIRST_NATS:g} nats"


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


@dataclass(frozen=True, eq=False)
class Improved:
    """Where an improvement is, or where it ended."""

    at: Ascent
    first: str
    """Digest of the policy that the first step began from."""
    nats: float
    """What it may spend by now, KL to the start in nats an answer."""
    stopped: str = ""
    """Why it ended; empty while it goes on."""


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


@dataclass(frozen=True, eq=False)
class Search:
    """What the stages of a search share."""

    policy: LoraPolicy
    """In every B of the adapter."""
    nats: float
    """The budget."""
    waived: tuple[str, ...]
    """Names of guards that are measured but not heeded: those that the taste is about."""
    seed: int
    taught: tuple[Prompt, ...]
    """Prompts that steps learn from."""
    aside: tuple[Prompt, ...]
    """Prompts that are only measured on."""
    score: Score
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

    def failed(self, held: Sequence[Guard]) -> list[str]:
        """Names of the guards that fail and are heeded."""
        return [guard.name for guard in held if not guard.ok and guard.name not in self.waived]

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
    since: Improved | None = None,
    starts: Callable[[], object] = lambda: None,
    report: Callable[[Improved], object] = lambda state: None,
    progress: Progress = unseen,
) -> Found:
    """Look for a policy that scores higher on the taste of a run's votes; it writes nothing.

    What the run has recorded since ``begun`` makes no difference; the policy is where it was
    afterwards. It goes at most ``nats`` an answer from the run's start, and half a nat until the
    lower value of what its answers gain on the taste, by `Taste.gain`, is above 0. ``given``: the
    user's own features that are code, anew. It goes on from the state ``since``, which an earlier
    call told ``report`` at its beginning or after a step; ``progress`` is called while the taste
    is read and answers are drawn, and ``starts`` once it is known that the votes show a taste.

    Raises:
        RunError: the votes show no taste that has a name, or none any more.
        UsageError: another run than one of a language model whose B move, or its model is not in
            this process.
        ResourceError: memory does not hold a gradient.
    """
    require_gradients(parts)
    progress("what the votes liked", 0, 0)
    taste, _ = run_taste.read(ledger, given, present=True, before=begun.event)
    starts()
    policy = parts.language
    sites = None if policy.subspace.sites else _with_sites(parts)
    held = policy.subspace if sites is None else sites[0]
    places = replay.improved_from(ledger, held, begun.steps, begun.adopted)
    if begun.taken_back:
        places.pop(UPDATED, None)
    try:
        with policy_gradient.in_memory():
            search = _set_up(
                ledger, parts, begun, taste, held, places[START],
                nats=nats, given=given, progress=progress,
            )  # fmt: skip
            began = _find_beginning(search, places)
            state = _climb(search, began, since, report)
            best, why_not = None, ""
            if any(step.cost for step in state.at.steps):
                best = _draw_back(search, state)
                began, best, why_not = _compare(
                    search, places[began.place], began, best, state.nats
                )
    finally:
        assert parts.base is not None
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)
    if why_not:
        state, best = replace(state, stopped=why_not), None
    adopts, there, passed, scale, mixed = None, began.there, began.guards, 1.0, False
    if best is not None:
        adopts, there, passed, scale = best.theta, best.there, best.guards, best.scale
    elif began.place == UPDATED:  # by the same sum as verify, which writes no -0.0
        adopts, mixed = parameters.between(places[START], places[UPDATED], 1.0), True
    at_start = are_equal(places[began.place], places[START])
    before = began.there.score if at_start else search.base.score
    body = {
        "taste": taste.to_json(),
        "taste_sha256": taste.sha256,
        "seed": search.seed,
        "nats_allowed": nats,
        "score_before": before,
        "score": there.score,
        "nats": there.nats,
        "nats_stderr": there.stderr,
        "scale": scale,
        "answers": state.at.answers + sum(search.drawn),
        "guards": [asdict(guard) for guard in passed],
        "stopped": state.stopped,
        "taken": len(state.at.steps),
        "mix": mixed,
        "began_sha256": state.first,
        "begun": {
            "steps": begun.steps,
            "event": begun.event,
            "from": START if are_equal(began.first, places[START]) else began.place,
        },
    }
    return Found(state, adopts, body, sites)


def require_gradients(parts: RunParts) -> None:
    """Refuse a run whose policy cannot be improved by gradients.

    Raises:
        UsageError: every factor of it moves already, or workers hold its model.
    """
    if parts.config.coordinates == "full":
        raise UsageError("improving moves every B of an adapter, and subspace.kind full A as well")
    if parts.config.engine.kind != "local":
        raise UsageError(
            f"improving reads gradients, which engine.kind {parts.config.engine.kind} has none "
            "of; take the best of several answers (--best-of), or let votes mix adapters "
            "(subspace.adapters)"
        )


def _set_up(
    ledger: Ledger,
    parts: RunParts,
    begun: Begun,
    taste: Taste,
    held: Subspace,
    start: Theta,
    *,
    nats: float,
    given: Sequence[str],
    progress: Progress,
) -> Search:
    """Draw what a search needs once: answers of the start, to compare with."""
    root, base = ledger.root_seed, parts.base
    assert base is not None
    seed = seeds.as_seed(seeds.derive(root, "improve", step=begun.steps))
    asked = set_aside(parts.prompts.train, root)[0]
    taught, aside = split_prompts(asked, root)
    policy = LoraPolicy(
        base.loaded, every_b(held.sites, held.factors()), root_seed=seed,
        sampling=parts.language.sampling, host=base.host,
    )  # fmt: skip
    progress("the start's answers to compare with", 0, 0)
    score, gain = scorer(taste, policy, aside, seed, given)
    keep = text_guards.keeper(policy, guards.read_questions(parts.config.guards.keep))
    fresh = seeds.child_seed(seed, begun.adopted, "compared")
    measured = _read(policy, score, aside, fresh, base=True)
    return Search(
        policy, nats, waived_by(taste), seed, taught, aside, score, gain, keep, fresh, start,
        measured, [measured.answers], progress,
    )  # fmt: skip


def split_prompts(prompts: Sequence[Prompt], seed: int) -> tuple[tuple[Prompt, ...], ...]:
    """Split prompts into those that steps learn from and at most a third to measure on."""
    if (found := len(set(prompts))) < 6:
        raise UsageError(f"improving needs 6 different prompts or more; got {found}")
    return seeds.split(prompts, seeds.derive(seed, "improve prompts"), CHECKED, 3)


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
    scores = score(asked, answers)
    return Checked(
        float(scores.mean()), nats, stderr,
        text_guards.measure(policy, prompts, grouped, seed=seed, topic=False), len(answers),
        tuple(scores.reshape(-1, each).mean(1).tolist()),
    )  # fmt: skip


def are_equal(one: Theta, other: Theta) -> bool:
    """Whether two policies have the same moving factors, which makes them the same policy."""
    return all((one[name] == value).all() for name, value in other.items())


def _read(
    policy: LoraPolicy,
    score: Score,
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
    first: Theta
    """The policy itself, part of the way to it, or the start where it scores less than that."""
    nats: float
    """What is spent of the budget there."""


def _find_beginning(search: Search, places: Mapping[str, Theta]) -> Beginning:
    nats, base, start = search.nats, search.base, places[START]
    now, place, mixed = places[RECOMMENDED], RECOMMENDED, tuple[Guard, ...]()
    there = base
    if not are_equal(now, start):
        there = search.measure(now, "the run's policy")
    if UPDATED in places:
        mix = search.measure(places[UPDATED], "the votes' mix")
        if _fits(there, nats) and mix.nats <= nats:
            there, mix = search.tell_apart(now, there, places[UPDATED], mix)
        least = max(base.score, there.score) if _fits(there, nats) else base.score
        if mix.score > least and mix.nats <= nats:
            passed = search.guards(places[UPDATED], mix)
            if not search.failed(passed):
                place, there, mixed = UPDATED, mix, passed
    if there.score < base.score:
        return Beginning(place, there, mixed, start, 0.0)
    share = math.sqrt(min(1.0, MIXED * nats / max(there.nats, 1e-9)))
    first: Theta = parameters.between(start, places[place], share)
    here = search.measure(first, "where it may begin") if share < 1 else there
    return Beginning(place, there, mixed, first, here.nats)


def _climb(
    search: Search,
    began: Beginning,
    state: Improved | None,
    report: Callable[[Improved], object],
) -> Improved:
    """Go half a nat beyond what was spent, and the rest once the policy has gained.

    ``state``: of an earlier call, which is left where that began elsewhere.
    """
    first = theta.adopted_digest(began.first)
    if state is None or state.first != first or not _fits_weights(state.at, began.first):
        near = min(search.nats, began.nats + FIRST_NATS)
        state = Improved(Ascent(began.first), first, near)
        report(state)
    while not state.stopped:
        state = replace(state, stopped=_why_stopped(state))
        if state.stopped == SPENT_ALL and state.nats < search.nats:
            if search.gain(*search.answers(state.at.theta, 2, search.seed)) > 0:
                state = replace(state, nats=search.nats, stopped="")
                continue
            state = replace(state, stopped=UNSURE)
        if not state.stopped:
            state = replace(state, at=policy_gradient.take_step(
                search.policy, search.score, search.taught, PACE, state.at, seed=search.seed
            ))  # fmt: skip
        report(state)
    return state


def _why_stopped(state: Improved) -> str:
    """Why no further step is taken; "": one is."""
    steps = state.at.steps
    if len(steps) >= PACE.steps:
        return f"{PACE.steps} steps were taken"
    if not steps:
        return ""
    last = steps[-1]
    if not any(step.cost for step in steps[-STUCK:]) and len(steps) >= STUCK:
        return "no answer scores more than another to the same prompt"
    if (math.sqrt(last.nats) + math.sqrt(last.cost)) ** 2 >= SPENT * state.nats:
        return SPENT_ALL
    third = len(steps) // 3
    scores = [step.score for step in steps]
    if len(steps) >= PATIENCE and sum(scores[-third:]) <= sum(scores[:third]):
        return "the score does not rise"
    return ""


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


def _draw_back(search: Search, state: Improved) -> Best:
    """The policy found, where fresh answers tell it within its nats and its guards hold."""

    def read(scale: float, number: int) -> Best:
        end = state.at.theta
        here = end if scale == 1 else parameters.between(search.start, end, scale)
        return Best(here, search.measure(here, "the last step", number), (), scale)

    def guard(found: Best) -> tuple[Best, bool]:
        held = search.guards(found.theta, found.there)
        return replace(found, guards=held), not search.failed(held)

    return draw_back(read, guard, state.nats)


def _compare(
    search: Search, now: Theta, began: Beginning, best: Best, nats: float
) -> tuple[Beginning, Best, str]:
    """Both as they are told apart, and why the best policy found is not adopted; "": it is.

    ``now``: the policy that the improvement began from.
    """
    failed = search.failed(best.guards)
    if failed:
        return began, best, f"guard by fresh answers: {failed[0]}"
    if best.there.nats > nats:
        far, most = f"{best.there.nats:.2f} nats", f"{nats:.2f} are allowed"
        return began, best, f"fresh answers are {far} away where {most}"
    if not _fits(began.there, search.nats):
        return began, best, ""
    before, after = search.tell_apart(now, began.there, best.theta, best.there)
    began, best = replace(began, there=before), replace(best, there=after)
    if after.score > before.score:
        return began, best, ""
    which = "the votes' mix" if began.place == UPDATED else "the run's policy"
    here = f"{which} scores {before.score:+.2f} at {before.nats:.1f} nats"
    return began, best, f"{here}, and the last step {after.score:+.2f}"


def scorer(
    taste: Taste,
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    seed: int,
    given: Sequence[str] = (),
) -> tuple[Score, Callable[[Sequence[Prompt], Sequence[Answer]], float]]:
    """The taste's score of each answer, and its lower value of what all of them gain.

    Both against what the start answers to their prompts.
    """
    layer = None if taste.direction is None else taste.direction.layer

    def read(
        prompts: Sequence[Prompt], answers: Sequence[Answer], states: Floats | None = None
    ) -> dict[str, Any]:
        background_work.pause()
        return taste.read(policy, prompts, answers, given, states)

    drawn = policy.sample(prompts, START_ANSWERS, seed=seed, base=True)
    pairs = [(prompt, a) for prompt, row in zip(prompts, drawn, strict=True) for a in row]
    starts = taste.starts(**read([prompt for prompt, _ in pairs], [a for _, a in pairs]))

    def score(
        prompts: Sequence[Prompt], answers: Sequence[Answer], states: Floats | None
    ) -> Floats:
        return taste.score(**read(prompts, answers, states), starts=starts)

    def gain(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
        return taste.gain(**read(prompts, answers), starts=starts)

    return Score(score, layer, decay_of(taste)), gain


def _with_sites(parts: RunParts) -> tuple[Subspace, bool]:
    """The layers that a run without coordinates would adapt, with their A and B = 0."""
    from szpo.policies import subspace_setup

    assert parts.base is not None
    host, asked = parts.base.host, parts.prompts.train
    sites, conv1d = host.places(parts.config.adapter, None)
    factors = subspace_setup.read_factors(host, sites, asked, parts.config)
    return subspaces.without_coordinates(sites, factors), conv1d


def _fits_weights(at: Ascent, weights: Theta) -> bool:
    """Whether a state's arrays are of these weights, and finite."""
    parts = (at.theta, at.mean or weights, at.square or weights)
    return all(
        part.keys() == weights.keys()
        and all(part[name].shape == value.shape for name, value in weights.items())
        and all(each.dtype.kind == "f" and np.isfinite(each).all() for each in part.values())
        for part in parts
    ) and all(at.theta[name].dtype == value.dtype for name, value in weights.items())


def _fits(there: Checked, nats: float) -> bool:
    """Whether a policy in force is within the budget, as far as the KL is known."""
    return there.nats - 2 * there.stderr <= nats


# ---- the state as a file ----


def save(state: Improved, path: Path, origin: tuple[str, int]) -> None:
    """Write a state to one ``.npz`` file, atomically; ``origin``: an event's digest and number."""
    facts = {"first": state.first, "nats": state.nats, "stopped": state.stopped, "origin": origin}
    policy_gradient.save(state.at, path, facts)


def load(path: Path) -> tuple[Improved, tuple[str, int]]:
    """Read what `save` wrote: the state and its origin; for `cache.read_stored`."""
    at, facts = policy_gradient.load(path)
    head, event = facts.pop("origin")
    return Improved(at, **facts), (head, event)
