"""Improve a run's policy on the taste of its votes: when it is due, and what a run adopts.

It is due after the step in which the votes first show a taste, at each doubling of them, and when
they are spent. Where no people vote, a run waits for it. Where they do, it moves while the run
waits for them, in turns of half a second or a pass of the model (`szpo.turns`): it keeps no vote
and no sheet waiting. What it finds is adopted between two rounds of votes.

It begins at the run's recommended point, or, where that is an adopted policy, at the votes' own
mix if that scores higher by now; part of the way there where that has spent more than half of the
budget, or at the start where its own line rises more steeply. It moves every B of the
adapter (`szpo.improvement.score_ascent`: along the natural gradient that a thousand answers of the
start show, which a process draws once; without gradients the adapters' weights, where these are
the run's coordinates), and adopts the best policy found where other answers than those that it was
chosen by score higher than where it began, drawn back towards the start until these answers keep
budget and guards, or else the mix: the weights join the record (`szpo.ledger.theta`). Prompts for
measuring and those of check rows are split off from the training prompts; held-out ones are never
read.

After each step its state is written beside the run's file. So a killed process loses at most a
step and those answers, and ends like one that was not killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

from szpo import cache, seeds, turns
from szpo.analysis import run_taste, taught
from szpo.config.schema import FEATURE_SAMPLES, Config
from szpo.errors import IntegrityError, LeaseError, RunError, StorageError, UsageError
from szpo.improvement import score_ascent
from szpo.improvement.aims import waived_by
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
from szpo.ledger.theta import RECOMMENDED, START, UPDATED, theta_digests
from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.policies import subspaces, text_guards
from szpo.policies.basis import PARTS
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspaces import Subspace, every_b
from szpo.policies.text_guards import Guard
from szpo.replay import replay
from szpo.runs import guards, setup_progress
from szpo.runs.assemble import RunParts
from szpo.runs.services import set_aside
from szpo.runs.setup_progress import IMPROVING
from szpo.taste import Taste
from szpo.turns import Turns
from szpo.types import Answer, Floats, Progress, Prompt, Say, Theta, unseen
from szpo.voting import lease, policy_checks, withdrawals
from szpo.voting.panel_factory import PEOPLE
from szpo.voting.step_record import Outcome

FIRST_NATS: Final = 0.5
"""How much further a policy may go before the lower value of its gain is above 0."""
COMPARED: Final = 64
"""Answers at least by which policies are compared: to begin at one, and to adopt one."""
MIXED: Final = 0.5
"""It begins at most this share of the budget away from the start, towards where the run is."""
START_ANSWERS: Final = 4
"""Answers of the start to each prompt, with which answers of the improved policy are compared."""
WITHIN: Final = 0.98
"""A policy that goes beyond the budget is drawn back to this share of its distance."""
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
    back: bool
    """The policy had gone back to its start."""
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


def begin(ledger: Ledger, event: int | None = None) -> Begun:
    """What an improvement begins from that begins now, or began when ``event`` was the next."""
    sql = "SELECT max(event) + 1 AS next FROM events"
    event = event or ledger.query(sql)[0]["next"]
    found = ledger.query("SELECT row_sha256 FROM events WHERE event = ?", (event - 1,))
    head = found[0]["row_sha256"] if found else ""
    sql = "SELECT count(*) AS n FROM events WHERE kind = ? AND event < ?"
    steps, made = (ledger.query(sql, (kind, event))[0]["n"] for kind in ("step", theta.ADOPTED))
    last = theta.last_adopted(ledger)
    back, epoch = last is not None and theta.went_back(last), lease.controller(ledger)["epoch"]
    return Begun(event, head, steps, made, back, epoch)


def improve_run(
    ledger: Ledger,
    parts: RunParts,
    *,
    nats: float,
    given: Sequence[str] = (),
    way: str | None = None,
    report: Callable[[Improved], object] = lambda state: None,
    progress: Progress = unseen,
) -> Found:
    """Improve the run's policy on the taste of its votes, and adopt what scores higher.

    The run's lease is held; for arguments and errors see `search_move` and `adopt`.
    """
    begun = begin(ledger)
    found = search_move(
        ledger, parts, begun, nats=nats, given=given, way=way, report=report, progress=progress
    )
    adopt(ledger, parts, begun, found)
    return found


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
        RunError: the votes show no taste that has a name; after a return to the start, those now.
        UsageError: another run than one of a language model whose B move.
    """
    taste = run_taste.read(ledger, given, present=begun.back, before=begun.event)
    starts()
    policy = parts.language
    if parts.config.adapter.train != "B":
        raise UsageError("improving moves every B of an adapter; set adapter.train to B")
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=begun.steps))
    sites = None if policy.subspace.sites else _with_sites(parts)
    held = policy.subspace if sites is None else sites[0]
    way = way or parts.config.way
    asked = set_aside(parts.prompts.train, ledger.root_seed)[0]
    try:
        plan, split = Plan(nats=nats, waived=waived_by(taste)), ledger.root_seed
        taught, aside = split_prompts(asked, plan.checked, split)
        if way == "natural":
            pool = pool or _draw_pool(parts, held, taught, split, progress)
        whole, by = _mover(parts, held, way, seed), WAYS[way]
        places = replay.improved_from(ledger, held, begun.steps, begun.adopted)
        score, gain = scorer(taste, whole, asked, seed, given)
        keep = text_guards.keeper(whole, guards.read_questions(parts.config.guards.keep))
        if pool is not None:
            plan = replace(plan, step_nats=LINE_NATS)
            distinct = subspaces.every_distinct_b(held.sites, held.factors())[1]
            by = along(
                pool, score, lambda line: subspaces.widen(line, held.sites, distinct),
                drawn=0 if begun.adopted else len(pool.rows),
            )  # fmt: skip
        fresh = seeds.child_seed(seed, begun.adopted, "compared")
        many, compared = math.ceil(COMPARED / len(aside)), list[Checked]()

        def read(theta: Theta, *, base: bool = False) -> Checked:
            with moved(whole, theta):
                found = measure(whole, score, aside, many, seed=fresh, base=base)
            compared.append(found)
            return found

        if was_taken_back(ledger, begun.event):
            places.pop(UPDATED, None)
        line = by(whole, Task(score, taught, 1, seed, step=2)) if pool else None
        base = read(places[START], base=True)
        began = _find_beginning(whole, places, line, plan, base, read, keep)
        whole.move_to(began.first)
        first = theta.adopted_digest(began.first)
        since = since if since is not None and since.first == first else None

        def go(plan: Plan, since: Improved | None) -> Improved:
            return improve(
                whole, score, asked, by, plan, seed=seed, split=split, since=since,
                report=report, keep=keep,
            )  # fmt: skip

        def gained(state: Improved) -> bool:
            with moved(whole, state.theta):
                drawn = whole.sample(aside, plan.each, seed=seed)
            pairs = [(p, a) for p, row in zip(aside, drawn, strict=True) for a in row]
            return gain([p for p, _ in pairs], [a for _, a in pairs]) > 0

        state = _go_in_two(go, gained, plan, began.nats, since)
        candidate = (
            _draw_back(whole, places[START], state, plan, base, read, keep) if state.best else None
        )
    finally:
        assert parts.base is not None
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)
    why_not = "" if candidate is None else _why_not(candidate, began, plan)
    if why_not:
        state, candidate = replace(state, best=0, stopped=why_not), None
    adopts, passed, there, share, scale = None, tuple[Guard, ...](), began.there, began.share, 1.0
    if candidate is not None:
        adopts, passed = candidate.theta, candidate.guards
        there, scale = candidate.there, candidate.scale
    elif began.place == UPDATED:  # by the same sum as verify, which writes no -0.0
        share, passed = 1.0, began.guards
        adopts = parameters.between(places[START], places[UPDATED], share)
    body = {
        "taste": taste.to_json(),
        "taste_sha256": taste.sha256,
        "seed": state.seed,
        "nats_allowed": nats,
        "score_before": base.score,
        "score": there.score,
        "nats": there.nats,
        "nats_stderr": there.stderr,
        "scale": scale,
        "answers": state.answers + sum(each.answers for each in compared),
        "guards": [asdict(guard) for guard in passed],
        "stopped": state.stopped,
        "taken": len(state.steps),
        "best": state.best,
        "way": way,
        "began_sha256": first,
        "begun": {
            "steps": begun.steps,
            "event": begun.event,
            "from": began.place if share else START,
        },
    }
    if way == "zeroth" or (adopts is not None and not state.best):
        body["moves"] = {
            "law": asdict(whole.space.law), "in_z": whole.subspace.in_z,
            "share": share,
            "coefs": [step.coefs for step in state.steps[: state.best]],
        }  # fmt: skip
    return Found(state, adopts, body, sites, pool)


@dataclass(frozen=True, eq=False)
class Beginning:
    """Where an improvement begins, by answers with which no step is chosen."""

    place: str
    """`RECOMMENDED` or `UPDATED`."""
    there: Checked
    """The policy at this place."""
    guards: tuple[Guard, ...]
    """Of the mix, where it was read beside an adopted policy."""
    share: float
    """How much of the way to this place is gone at once; 0: it begins at the start."""
    first: Theta

    @property
    def nats(self) -> float:
        """What was spent of the budget at the first step."""
        return self.there.nats * self.share * self.share


def _find_beginning(
    whole: LoraPolicy,
    places: Mapping[str, Theta],
    line: Proposal | None,
    plan: Plan,
    base: Checked,
    read: Callable[[Theta], Checked],
    keep: Callable[[], tuple[Guard, ...]],
) -> Beginning:
    """Find where an improvement begins; ``line``: which it goes along, ``base``: the start."""

    def guards(found: Checked) -> tuple[Guard, ...]:
        return text_guards.guards(base.figures, found.figures)

    start, now = places[START], places[RECOMMENDED]
    place, mixed = RECOMMENDED, tuple[Guard, ...]()
    still = all((now[name] == value).all() for name, value in start.items())
    there = base if still else read(now)
    if UPDATED in places:
        mix = read(places[UPDATED])
        least = max(base.score, there.score) if _fits(there, plan.nats) else base.score
        if mix.score > least and mix.nats <= plan.nats:
            with moved(whole, places[UPDATED]):
                mixed = (*guards(mix), *keep())
            if not plan.failed(mixed):
                place, there = UPDATED, mix
    share = math.sqrt(min(1.0, MIXED * plan.nats / max(there.nats, 1e-9)))
    first: Theta = parameters.between(start, places[place], share)
    here = read(first) if share < 1 else there
    if line is not None and here.nats > 0:
        factor = math.sqrt(here.nats / line.nats)
        by_line = read(score_ascent.add(start, whole.layout, line.direction, factor))
        steeper = _rise(by_line, base.score) >= _rise(here, base.score)
        if steeper and not plan.failed(guards(by_line)):
            share, first = 0.0, start
    return Beginning(place, there, mixed, share, first)


def _go_in_two(
    go: Callable[[Plan, Improved | None], Improved],
    gained: Callable[[Improved], bool],
    plan: Plan,
    spent: float,
    state: Improved | None,
) -> Improved:
    """Go half a nat beyond what was ``spent``, and the rest once the policy has ``gained``."""
    near = min(plan.nats, spent + FIRST_NATS)

    def spends(state: Improved) -> list[bool]:
        return [each.kept and each.checked.nats >= SPENT * near for each in state.steps]

    if state is None or not any(spends(state)):
        state = go(replace(plan, nats=near), state)
    # Where it begins may be told farther by its steps' answers: then no step was taken.
    passed = spends(state) or [state.begun.nats >= near]
    if any(passed) and plan.nats > near:
        ends = passed.index(True) + 1 == len(passed) and bool(state.stopped)
        if ends and gained(state):
            state = replace(state, stopped="")
        if not state.stopped:
            state = go(plan, state)
    return state


@dataclass(frozen=True, eq=False)
class Candidate:
    """The best policy of an improvement, drawn back until fresh answers keep budget and guards."""

    theta: Theta
    there: Checked
    guards: tuple[Guard, ...]
    scale: float
    """How much of the way from the start to this policy is gone, in (0, 1]."""


def _draw_back(
    whole: LoraPolicy,
    start: Theta,
    state: Improved,
    plan: Plan,
    base: Checked,
    read: Callable[[Theta], Checked],
    keep: Callable[[], tuple[Guard, ...]],
) -> Candidate:
    """Draw the best policy back where fresh answers tell it too far, or a guard fails on them.

    Which of many steps is best, and whether it fits, was read on a few answers: the policy that
    looks best on these is farther than they say.
    """
    found, scale = None, 1.0
    for _ in range(1 + score_ascent.MOST_HALVED):
        theta = state.theta if scale == 1 else parameters.between(start, state.theta, scale)
        there = read(theta)
        with moved(whole, theta):
            passed = (*text_guards.guards(base.figures, there.figures), *keep())
        found = Candidate(theta, there, passed, scale)
        if there.nats > plan.nats:
            scale *= WITHIN * math.sqrt(plan.nats / there.nats)
        elif plan.failed(passed):
            scale *= math.sqrt(0.5)
        else:
            break
    assert found is not None
    return found


def _why_not(candidate: Candidate, began: Beginning, plan: Plan) -> str:
    """Why the best step is not adopted; "": it is."""
    failed, before = plan.failed(candidate.guards), began.there
    if failed:
        return f"guard: {failed[0]}"
    if candidate.there.nats > plan.nats:
        return f"{candidate.there.nats:.1f} nats away where {plan.nats:g} are allowed"
    if candidate.there.score > before.score or not _fits(before, plan.nats):
        return ""
    which = "the votes' mix" if began.place == UPDATED else "the run's policy"
    return (
        f"{which} scores {before.score:+.2f} at {before.nats:.1f} nats, and the best step "
        f"{candidate.there.score:+.2f}"
    )


def adopt(ledger: Ledger, parts: RunParts, begun: Begun, found: Found) -> None:
    """Let a run adopt what an improvement found, or note that nothing scored higher.

    Raises:
        LeaseError: another controller has taken the run over.
        RunError: verdicts were withdrawn meanwhile.
    """
    body, others, policy = dict(found.body), None, parts.language
    body["steps"] = _applied(ledger)
    if found.adopts is None:
        with ledger.transaction("controller"):
            lease.check(ledger, begun.epoch)
            ledger.record_event(theta.KEPT, "controller", body)
        return
    if not ledger.spec["space"]["sites"]:
        earlier = any(each.get("conv1d") for each in theta.adopted_bodies(ledger))
        held, conv1d = found.sites or (policy.subspace, earlier)
        facts, others = subspaces.describe_recorded(held)
        body |= {**facts, "conv1d": conv1d}
    out = withdrawals.withdrawals(ledger, begun.event)
    policy_checks.adopt(ledger, begun.epoch, out, found.adopts, body, others)
    if found.sites is not None:
        assert parts.base is not None
        policy.subspace = found.sites[0]
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)


def scorer(
    taste: Taste,
    policy: LoraPolicy,
    prompts: Sequence[Prompt],
    seed: int,
    given: Sequence[str] = (),
) -> tuple[score_ascent.Score, Callable[[Sequence[Prompt], Sequence[Answer]], float]]:
    """The taste's cautious score of each answer, and its lower value of what all of them gain.

    Both against what the start answers to their prompts.
    """
    asked = list(dict.fromkeys(prompts))
    drawn = policy.sample(asked, START_ANSWERS, seed=seed, base=True)
    pairs = [(p.text, a.text) for p, row in zip(asked, drawn, strict=True) for a in row]
    texts = [a for a, _ in pairs], [b for _, b in pairs]
    starts = taste.starts(*texts, given=given)

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        turns.pause()
        texts = [answer.text for answer in answers]
        return taste.score([p.text for p in prompts], texts, starts=starts, given=given)

    def gain(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
        texts = [answer.text for answer in answers]
        return taste.gain([p.text for p in prompts], texts, starts=starts, given=given)

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


def was_taken_back(ledger: Ledger, event: int) -> bool:
    """Whether before this event the policy went back to its start, or verdicts were withdrawn.

    What the updates lead to may be what checks were against, or have learned from these.
    """
    return _happened(ledger, NO_LONGER, before=event)


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


def allowed(config: Config, nats: float) -> float:
    """The nats that a policy may be improved by, which are no more than those of ``guards.kl``.

    >>> [allowed(Config(guards={"kl": kl}), 3.0) for kl in (None, 1.0, 5.0)]
    [3.0, 1.0, 3.0]
    """
    return min(nats, config.guards.kl or nats)


NO_LONGER: Final = (theta.RETURNED, withdrawals.EVENT, withdrawals.SET_ASIDE)
ENDED_BY: Final = (theta.ADOPTED, *NO_LONGER)
"""Kinds of events after which what an improvement began from no longer holds."""


class Improving:
    """Improves a run whose settings ask for it; close it where the run is left."""

    def __init__(self, ledger: Ledger, parts: RunParts, say: Say, *, waits: bool = False):
        """``waits``: the run waits for an improvement also where people vote."""
        self._ledger, self._parts, self._say = ledger, parts, say
        asked = parts.config.improve
        waits = waits or parts.config.panel.kind != PEOPLE
        most = asked.nats if parts.config.improves else None
        self._nats: Final = None if most is None else allowed(parts.config, most)
        self._beside: Final = not waits and parts.config.engine.is_local
        self._along: Final = asked.when == "doubling" and (waits or self._beside)
        self._file: Final = theta.improving_file(ledger.path)
        self._tried = _applied(ledger) - 1
        """Steps after which it last began; nothing from before is made up for."""
        self._begun: Begun | None = None
        self._turns: Turns[Found] | None = None
        self._found: Found | None = None
        self._pool: Pool | None = None
        self._told = ExitStack()

    def look(self) -> None:
        """Between two rounds: adopt what was found, and begin what is due or was interrupted."""
        if self._nats is None or not self._along:
            return
        self._settle()
        self._resume()
        if self._begun is None and self._last() < last_due(self._ledger):
            self._begin(begin(self._ledger))

    @property
    def at_work(self) -> bool:
        """Whether an improvement goes on beside the rounds."""
        return self._turns is not None and self._found is None

    def wait(self, seconds: float) -> None:
        """Let an improvement move for so long; sleep where none does, or the run is paused."""
        if self._turns is None or not self.at_work or self._is_paused():
            time.sleep(seconds)
            return
        with self._saying_why_not():
            self._found = self._turns.move(seconds)
        if self._found is not None:
            self._told.close()
            self._say(describe_improving(self._found))

    def _is_paused(self) -> bool:
        return lease.controller(self._ledger)["paused_by"] is not None

    def at_end(self, outcome: Outcome, turn: Callable[[], bool]) -> None:
        """Improve a run whose votes are spent, once.

        ``turn`` calls `wait`, and says whether the run is still at its end.
        """
        if self._nats is None or outcome.status != "finished":
            return
        self._settle()
        self._resume()
        if self._begun is not None and self._begun.steps < outcome.steps:
            self._leave()
        if self._begun is None and self._last() < outcome.steps:
            self._begin(begin(self._ledger))
        while self.at_work and turn():
            pass
        self._settle()

    def close(self) -> None:
        """Stop an improvement; the next process goes on with it."""
        if self._turns is not None:
            self._turns.stop()
        self._told.close()

    def _last(self) -> int:
        """Steps after which it last began, here or on record, or went back to the start."""
        last, kept = theta.last_adopted(self._ledger), _last_kept(self._ledger)
        return max(self._tried, kept, 0 if last is None else last.get("begun", last)["steps"])

    def _begin(self, begun: Begun, since: Improved | None = None) -> None:
        assert self._nats is not None
        self._tried, self._begun, nats = begun.steps, begun, self._nats
        path = self._ledger.path
        tell = self._told.enter_context(setup_progress.writing(path, IMPROVING))
        tell("improving", 0 if since is None else len(since.steps), Plan().steps)
        with self._saying_why_not():
            show, told = reporter(self._say), setup_progress.telling(self._say, of="improving")

            def progress(name: str, done: int, of: int) -> None:
                tell(name, done, of)
                told(name, done, of)

            def report(state: Improved) -> None:
                score_ascent.save(state, self._file, (begun.head, begun.event))
                # It may hold what withdrawn verdicts taught.
                if _is_over(self._ledger, begun.event):
                    self._file.unlink(missing_ok=True)
                tell("improving", len(state.steps), Plan().steps)
                show(state)

            search = partial(
                search_move, self._ledger, self._parts, begun, nats=nats,
                given=self._parts.config.features.own, since=since, pool=self._pool,
                starts=lambda: self._say(describe_start(nats)), report=report, progress=progress,
            )  # fmt: skip
            if self._beside:
                self._turns = Turns(search)
                return
            self._found = search()
        self._settle()

    def _resume(self) -> None:
        if self._begun is not None or not self._file.exists():
            return
        found = cache.read_stored(self._file, score_ascent.load)
        if found is None:  # what it held is found again
            return
        since, (head, event) = found
        begun = begin(self._ledger, event)
        if head == begun.head and not _is_over(self._ledger, begun.event):
            self._begin(begun, since)
        else:
            self._leave()

    def _settle(self) -> None:
        begun, found = self._begun, self._found
        if begun is not None and _is_over(self._ledger, begun.event):
            self._tried = begun.steps - 1
            self._leave()
        elif begun is not None and found is not None:
            self._pool = found.pool
            with self._saying_why_not():
                adopt(self._ledger, self._parts, begun, found)
                self._leave()
                if not self._beside:  # else it was said as it ended
                    self._say(describe_improving(found))

    def _leave(self) -> None:
        self.close()
        self._begun = self._turns = self._found = None
        self._file.unlink(missing_ok=True)

    @contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except (LeaseError, StorageError, IntegrityError):
            raise
        except Exception as error:
            if not (self._beside or isinstance(error, RunError | UsageError)):
                raise
            self._leave()  # where people vote, the run goes on
            self._say(f"not improved: {error}")


def last_due(ledger: Ledger) -> int:
    """The number of steps after which an improvement was last due; 0: never.

    >>> [_passes(64, votes) for votes in ([64], [64, 120], [64, 120, 128], [64, 300])]
    [True, False, True, True]
    >>> _passes(0, [0, 1])  # another run's votes showed it, and a round ended without any
    False
    """
    votes, applied = taught.shown_from(ledger), _applied(ledger)
    passed = (back for back in range(len(votes)) if _passes(votes[0], votes[: len(votes) - back]))
    return applied - next(passed, applied)


def _passes(first: float, votes: Sequence[float]) -> bool:
    doublings = [math.floor(math.log2(max(each, 1) / max(first, 1))) for each in votes]
    return len(doublings) == 1 or doublings[-1] > doublings[-2]


def _applied(ledger: Ledger) -> int:
    return len(theta_digests(ledger)) - 1


def _last_kept(ledger: Ledger) -> int:
    """Steps after which the last improvement began that adopted nothing.

    0: there is none, or what it began from no longer holds.
    """
    kept = list(ledger.events(theta.KEPT))
    if not kept or _is_over(ledger, kept[-1]["event"]):
        return 0
    return int(kept[-1]["body"]["begun"]["steps"])


def _is_over(ledger: Ledger, event: int) -> bool:
    """Whether what an improvement began from before this event no longer holds."""
    return _happened(ledger, ENDED_BY, since=event)


def _happened(
    ledger: Ledger, kinds: Sequence[str], *, since: int = 0, before: int = 2**62
) -> bool:
    """Whether there is an event of these kinds from ``since`` on and before ``before``."""
    marks = ", ".join("?" * len(kinds))
    sql = f"SELECT count(*) AS n FROM events WHERE event >= ? AND event < ? AND kind IN ({marks})"
    return bool(ledger.query(sql, (since, before, *kinds))[0]["n"])


def describe_start(nats: float) -> str:
    """What an improvement does, in a line for people."""
    return (
        "improving: the model moves by its own answers to what the votes liked, at most "
        f"{nats:g} nat{'s' * (nats != 1)} away from its start; nobody is asked"
    )


def reporter(
    say: Say, note: Callable[[str], object] = lambda doing: None
) -> Callable[[Improved], None]:
    """The ``report`` of `improve_run` that says how it goes; ``note`` gets what is done now."""

    def report(state: Improved) -> None:
        say(f"improving: {describe_step(state)}")
        step = f"step {len(state.steps) + 1}"
        doing = f"improving: {step}: it answers, learns from its best answers, and is measured"
        note("" if state.stopped else doing)

    return report


def describe_step(state: Improved) -> str:
    """Where an improvement is, in a line for people."""
    if not state.steps:
        return (
            f"by what the votes liked, the start's answers score {state.base.score:+.2f}; higher "
            "is better"
        )
    step = state.steps[-1]
    said = (
        f"step {len(state.steps)}: answers score {step.checked.score:+.2f} (start "
        f"{state.base.score:+.2f}), {step.checked.nats:.2f} nats away"
    )
    return said if step.kept else f"{said}; undone: {state.stopped}"


def describe_improving(found: Found) -> str:
    """What came of an improvement."""
    state, body = found.state, found.body
    taken = len(state.steps)
    end = (
        f"{taken} step{'s' * (taken != 1)}, {body['answers']:,} own answers; it stopped: "
        f"{state.stopped}"
    )
    if found.adopts is None:
        return f"no step scored higher than the run's policy; {end}"
    failed = [guard["name"] for guard in body["guards"] if not guard["ok"]]
    guards = f"; changed with the taste: {', '.join(failed)}" if failed else "; guards hold"
    if body["scale"] < 1:
        end = f"drawn back to {body['scale']:.0%} of its way by fresh answers; {end}"
    by = "improved" if state.best else "the votes' mix again, in place of what was adopted before"
    return (
        f"{by}: by what the votes liked, fresh answers score {body['score']:+.2f} (start "
        f"{body['score_before']:+.2f}), {body['nats']:.1f} nats away{guards} ({end})"
    )
