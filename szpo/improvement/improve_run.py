"""Improve a run's policy on the taste of its votes; nobody is asked.

It begins at the run's recommended point, or part of the way there where that has spent more than
half of the budget, moves every B of the adapter by `szpo.improvement.loop` (without gradients the
adapters' weights, where these are the run's coordinates), and adopts the best policy found: its
weights join the record (`szpo.ledger.adopted`). Prompts for measuring and those of check rows are
split off from the training prompts; held-out ones are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from szpo import seeds, turns
from szpo.analysis import run_taste
from szpo.errors import UsageError
from szpo.improvement.aims import waived_by
from szpo.improvement.loop import SPENT, Improved, Plan, improve, measure, split_prompts
from szpo.improvement.ways import NaturalGradient, PolicyGradient, Way, ZerothOrder
from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.policies import recorded_subspace, text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspaces import Subspace, every_b
from szpo.replay import replay
from szpo.runs.assemble import RunParts
from szpo.taste import Taste
from szpo.training import held_out
from szpo.training.services import set_aside
from szpo.types import Answer, Floats, Prompt
from szpo.voting import lease, policy_checks, withdrawals

FIRST_NATS: Final = 0.5
"""How much further a policy may go before its cautious score has risen above the start's."""
MIXED: Final = 0.5
"""It begins at most this share of the budget away from the start, towards where the run is."""
START_ANSWERS: Final = 4
"""Answers of the start to each prompt, with which answers of the improved policy are compared."""
WAYS: Final[dict[str, Callable[[], Way]]] = {
    "policy": PolicyGradient, "natural": NaturalGradient, "zeroth": ZerothOrder,
}  # fmt: skip
"""By their name in ``improve.way``."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What an improvement begins from: a run as it is on record before an event."""

    event: int
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
    body: Mapping[str, Any]
    """Of the event that adopts it."""
    sites: tuple[Subspace, bool] | None
    """The layers that a run without coordinates adapts from then on, as from `_with_sites`."""


def begin(ledger: Ledger, event: int | None = None) -> Begun:
    """What an improvement begins from that begins now, or began when ``event`` was the next."""
    sql = "SELECT max(event) + 1 AS next FROM events"
    event = event or ledger.query(sql)[0]["next"]
    sql = "SELECT count(*) AS n FROM events WHERE kind = ? AND event < ?"
    steps, made = (ledger.query(sql, (kind, event))[0]["n"] for kind in ("step", adopted.KIND))
    last = adopted.last(ledger)
    back, epoch = last is not None and adopted.went_back(last), lease.controller(ledger)["epoch"]
    return Begun(event, steps, made, back, epoch)


def improve_run(
    ledger: Ledger,
    parts: RunParts,
    *,
    nats: float,
    given: Sequence[str] = (),
    way: str | None = None,
    report: Callable[[Improved], object] = lambda state: None,
) -> Improved:
    """Improve the run's policy on the taste of its votes, and adopt what scores higher.

    The run's lease is held; for arguments and errors see `search` and `adopt`.
    """
    begun = begin(ledger)
    found = search(ledger, parts, begun, nats=nats, given=given, way=way, report=report)
    adopt(ledger, parts, begun, found)
    return found.state


def search(
    ledger: Ledger,
    parts: RunParts,
    begun: Begun,
    *,
    nats: float,
    given: Sequence[str] = (),
    way: str | None = None,
    since: Improved | None = None,
    report: Callable[[Improved], object] = lambda state: None,
) -> Found:
    """Look for a policy that scores higher on the taste of a run's votes; it writes nothing.

    Args:
        ledger: The run.
        parts: Its parts; the policy is where it was afterwards.
        begun: What it begins from; what the run has recorded since makes no difference.
        nats: Most KL to the run's start, nats an answer. Half a nat until the cautious score has
            risen.
        given: The user's own features that are code, anew.
        way: One of `WAYS`; None: as the run's settings say.
        since: Goes on from this state, which an earlier call reported.
        report: Called with the state at the beginning and after each step.

    Raises:
        RunError: the votes show no taste that has a name; after a return to the start, those now.
        UsageError: another run than one of a language model whose B move.
    """
    taste = run_taste.read(ledger, given, present=begun.back, before=begun.event)
    policy = parts.language
    if parts.config.adapter.train != "B":
        raise UsageError("improving moves every B of an adapter; set adapter.train to B")
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=begun.steps))
    sites = None if policy.subspace.sites else _with_sites(parts)
    held = policy.subspace if sites is None else sites[0]
    way = way or parts.config.way
    asked = set_aside(parts.prompts.train, ledger.root_seed)[0]
    try:
        whole, by = _mover(parts, held, way, seed), WAYS[way]()
        now, start = replay.improved_from(ledger, held, begun.steps, begun.adopted)
        score = scorer(taste, whole, asked, seed, given)
        keep = text_guards.keeper(whole, held_out.read_questions(parts.config.guards.keep))
        plan = Plan(nats=nats, waived=waived_by(taste))
        aside = split_prompts(asked, plan.checked, seed)[1]
        with moved(whole, now):
            before = measure(whole, score, aside, plan.each, seed=seed)
        share = math.sqrt(min(1.0, MIXED * nats / max(before.nats, 1e-9)))
        first = parameters.between(start, now, share)
        whole.move_to(first)
        near = min(nats, before.nats * share * share + FIRST_NATS)

        def go(plan: Plan, since: Improved | None) -> Improved:
            return improve(
                whole, score, asked, by, plan, seed=seed, since=since, report=report, keep=keep
            )

        def spends(state: Improved) -> list[bool]:
            return [each.kept and each.checked.nats >= SPENT * near for each in state.steps]

        state = since
        if state is None or not any(spends(state)):
            state = go(replace(plan, nats=near), state)
        spent = spends(state)
        if any(spent) and nats > near:
            ends = spent.index(True) + 1 == len(spent) and bool(state.stopped)
            if ends and state.checked.score > state.base.score:
                state = replace(state, stopped="")
            if not state.stopped:
                state = go(plan, state)
    finally:
        assert parts.base is not None
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)
    if state.best and before.nats <= nats and before.score >= state.checked.score:
        kept = f"where it began, it scores {before.score:+.2f} at {before.nats:.1f} nats"
        state = replace(state, best=0, stopped=kept)
    body = _describe(state, taste, nats) if state.best else {}
    body |= {"way": way, "began_sha256": adopted.digest(first)}
    body["begun"] = {"steps": begun.steps, "event": begun.event}
    if way == "zeroth":
        body["moves"] = {
            "law": asdict(whole.space.law), "in_z": whole.subspace.in_z, "share": share,
            "coefs": [step.coefs for step in state.steps[: state.best]],
        }  # fmt: skip
    return Found(state, body, sites)


def adopt(ledger: Ledger, parts: RunParts, begun: Begun, found: Found) -> None:
    """Let a run adopt what an improvement found, if it scored higher than where it began.

    Raises:
        LeaseError: another controller has taken the run over.
        RunError: verdicts were withdrawn meanwhile.
    """
    if not found.state.best:
        return
    body, others, policy = dict(found.body), None, parts.language
    body["steps"] = len(theta_digests(ledger)) - 1
    if not ledger.spec["space"]["sites"]:
        earlier = any(each.get("conv1d") for each in adopted.bodies(ledger))
        held, conv1d = found.sites or (policy.subspace, earlier)
        facts, others = recorded_subspace.describe(held)
        body |= {**facts, "conv1d": conv1d}
    out = withdrawals.withdrawals(ledger, begun.event)
    policy_checks.adopt(ledger, begun.epoch, out, found.state.theta, body, others)
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
) -> Callable[[Sequence[Prompt], Sequence[Answer]], Floats]:
    """The taste's cautious score of answers, against what the start answers to their prompts."""
    asked = list(dict.fromkeys(prompts))
    drawn = policy.sample(asked, START_ANSWERS, seed=seed, base=True)
    pairs = [(p.text, a.text) for p, row in zip(asked, drawn, strict=True) for a in row]
    texts = [a for a, _ in pairs], [b for _, b in pairs]
    starts = taste.starts(*texts, given=given)

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        turns.pause()
        texts = [answer.text for answer in answers]
        return taste.score([p.text for p in prompts], texts, starts=starts, given=given)

    return score


def _with_sites(parts: RunParts) -> tuple[Subspace, bool]:
    """The layers that a run without coordinates would adapt, with their A and B = 0."""
    from szpo.policies import subspace_setup

    assert parts.base is not None
    host, asked = parts.base.host, parts.prompts.train
    sites, conv1d = host.places(parts.config.adapter, None)
    factors = subspace_setup.read_factors(host, sites, asked, parts.config)
    return recorded_subspace.without_coordinates(sites, factors), conv1d


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


def _scaled(parts: RunParts, whole: Subspace) -> Subspace:
    """Every B with a scale by which KL is told as far as a step goes."""
    from szpo.policies import kl_calibration, subspace_setup

    assert parts.base is not None
    config, asked = parts.config, parts.prompts.train
    near = config.optimizer.model_copy(update={"kl_radius": Plan().step_nats})
    config = config.model_copy(update={"optimizer": near})
    seed, sampling = config.subspace.setup_seed, parts.language.sampling
    probe = subspace_setup.probe_of(parts.base.host, whole, asked, sampling, seed)
    return kl_calibration.full_subspace(probe, whole, config)


def _describe(state: Improved, taste: Taste, nats: float) -> dict[str, Any]:
    best = state.checked
    guards = state.steps[state.best - 1].guards
    return {
        "taste": taste.to_json(),
        "taste_sha256": taste.sha256,
        "seed": state.seed,
        "nats_allowed": nats,
        "nats": best.nats,
        "nats_stderr": best.stderr,
        "score_before": state.base.score,
        "score": best.score,
        "answers": state.answers,
        "guards": [asdict(guard) for guard in guards],
        "stopped": state.stopped,
    }
