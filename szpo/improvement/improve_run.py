"""Improve a run's policy on the taste of its votes; nobody is asked.

It begins at the run's recommended point, or part of the way there where that has spent more than
half of the budget, moves every B of the adapter by `szpo.improvement.loop` (without gradients the
adapters' weights, where these are the run's coordinates), and adopts the best policy found: its
weights join the record (`szpo.ledger.adopted`). Prompts for measuring and those of check rows are
split off from the training prompts; held-out ones are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Final

from szpo import seeds
from szpo.analysis import run_taste, taught
from szpo.config.schema import Config
from szpo.errors import RunError, UsageError
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
from szpo.runs.setup_progress import telling
from szpo.taste import Taste
from szpo.training import held_out
from szpo.training.services import set_aside
from szpo.training.step_report import Outcome
from szpo.types import Answer, Floats, Prompt, Say
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

    Args:
        ledger: The run, opened for writing, with its lease held.
        parts: Its parts; the policy is where it was afterwards.
        nats: Most KL to the run's start, nats an answer. Half a nat until the cautious score has
            risen.
        given: The user's own features that are code, anew.
        way: One of `WAYS`; None: as the run's settings say.
        report: Called with the state at the beginning and after each step.

    Raises:
        RunError: the votes show no taste that has a name; after a return to the start, those now;
            or some of them were withdrawn meanwhile.
        LeaseError: another controller has taken the run over.
        UsageError: another run than one of a language model whose B move.
    """
    epoch, withdrawn = lease.controller(ledger)["epoch"], withdrawals.withdrawals(ledger)
    earlier = adopted.last(ledger)
    back = earlier is not None and adopted.went_back(earlier)
    taste = run_taste.read(ledger, given, present=back)
    policy, steps = parts.language, len(theta_digests(ledger)) - 1
    if parts.config.adapter.train != "B":
        raise UsageError("improving moves every B of an adapter; set adapter.train to B")
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=steps))
    begun = policy.subspace
    conv1d = any(body.get("conv1d") for body in adopted.bodies(ledger))
    if not begun.sites:
        policy.subspace, conv1d = _with_sites(parts)
    way, asked = (
        way or choose_way(parts.config),
        set_aside(parts.prompts.train, ledger.root_seed)[0],
    )
    try:
        whole, by = _mover(parts, way, seed), WAYS[way]()
        now, start = replay.improved_from(ledger, policy.subspace)
        score = scorer(taste, whole, asked, seed, given)
        keep = text_guards.keeper(whole, held_out.read_questions(parts.config.guards.keep))
        plan = Plan(nats=nats, waived=waived_by(taste))
        aside = split_prompts(asked, plan.checked, seed)[1]
        with moved(whole, now):
            before = measure(whole, score, aside, plan.each, seed=seed)
        share = math.sqrt(min(1.0, MIXED * nats / max(before.nats, 1e-9)))
        begin = parameters.between(start, now, share)
        whole.move_to(begin)
        plan = replace(plan, nats=min(nats, before.nats * share * share + FIRST_NATS))
        state = improve(whole, score, asked, by, plan, seed=seed, report=report, keep=keep)
        last = state.steps[-1] if state.steps else None
        spent = last is not None and last.kept and last.checked.nats >= SPENT * plan.nats
        if spent and nats > plan.nats and state.checked.score > state.base.score:
            state = replace(state, stopped="")
            plan = replace(plan, nats=nats)
            state = improve(
                whole, score, asked, by, plan, seed=seed, since=state, report=report, keep=keep
            )
    except BaseException:
        policy.subspace = begun
        raise
    finally:
        assert parts.base is not None
        policy.answerer = parts.base.host.at(policy.subspace, policy.space, run=True)
    if state.best and before.nats <= nats and before.score >= state.checked.score:
        kept = f"where it began, it scores {before.score:+.2f} at {before.nats:.1f} nats"
        state = replace(state, best=0, stopped=kept)
    if state.best:
        body, others = _describe(state, taste, steps, nats), None
        body |= {"way": way, "began_sha256": adopted.digest(begin)}
        if way == "zeroth":
            body["moves"] = {
                "law": asdict(whole.space.law), "in_z": whole.subspace.in_z, "share": share,
                "coefs": [step.coefs for step in state.steps[: state.best]],
            }  # fmt: skip
        if not ledger.spec["space"]["sites"]:
            facts, others = recorded_subspace.describe(policy.subspace)
            body |= {**facts, "conv1d": conv1d}
        policy_checks.adopt(ledger, epoch, withdrawn, state.theta, body, others)
    return state


def is_due(ledger: Ledger) -> bool:
    """Whether a taste first showed in the last step, or its votes passed a doubling since then.

    >>> [_passes(64, votes) for votes in ([64], [64, 120], [64, 120, 128], [64, 300])]
    [True, False, True, True]
    """
    votes = taught.shown_from(ledger)
    return bool(votes) and _passes(votes[0], votes)


def _passes(first: float, votes: Sequence[float]) -> bool:
    doublings = [math.floor(math.log2(each / first)) for each in votes]
    return len(doublings) == 1 or doublings[-1] > doublings[-2]


def after_step(ledger: Ledger, parts: RunParts, say: Say) -> None:
    """Improve a run on which no people vote, where `is_due` says so; once, also if resumed."""
    if _in_rounds(parts) and is_due(ledger):
        _improve(ledger, parts, len(theta_digests(ledger)) - 1, say)


def _in_rounds(parts: RunParts) -> bool:
    config = parts.config
    asked = config.improve.nats is not None and config.improve.when == "doubling"
    return asked and config.panel.kind != "people"


def at_end(ledger: Ledger, parts: RunParts, outcome: Outcome, say: Say) -> None:
    """Improve a run whose votes are spent, once, where ``improve.nats`` says so."""
    if outcome.status == "finished" and not (_in_rounds(parts) and is_due(ledger)):
        _improve(ledger, parts, outcome.steps, say)


def _improve(ledger: Ledger, parts: RunParts, steps: int, say: Say) -> None:
    nats, last = parts.config.improve.nats, adopted.last(ledger)
    if nats is None or (last is not None and last["steps"] == steps):
        return
    try:
        with telling(say) as note:
            state = improve_run(
                ledger, parts, nats=nats, given=parts.config.features.add,
                report=reporter(say, note, nats),
            )  # fmt: skip
        say(describe(state))
    except (RunError, UsageError) as error:
        say(f"not improved: {error}")


def reporter(say: Say, note: Callable[[str], None], nats: float) -> Callable[[Improved], None]:
    """Begin to say how an improvement goes: the ``report`` of `improve_run`.

    ``note``: of `telling`; so nothing is silent for long.
    """
    say(
        "improving: the model moves by its own answers to what the votes liked, at most "
        f"{nats:g} nats away from its start; nobody is asked"
    )
    note("improving: the start's answers, to compare with")

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


def describe(state: Improved) -> str:
    """What came of an improvement."""
    end = f"{len(state.steps)} steps, {state.answers:,} own answers; it stopped: {state.stopped}"
    if not state.best:
        return f"no step scored higher than where it began; {end}"
    failed = [guard.name for guard in state.steps[state.best - 1].guards if not guard.ok]
    guards = f"; changed with the taste: {', '.join(failed)}" if failed else "; guards hold"
    return (
        f"improved: by what the votes liked, answers score {state.checked.score:+.2f} (start "
        f"{state.base.score:+.2f}), {state.checked.nats:.1f} nats away{guards} ({end})"
    )


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


def choose_way(config: Config) -> str:
    """The way of a run's settings; without gradients where the engine is there to generate."""
    if config.improve.way != "auto":
        return config.improve.way
    generates = config.engine.kind != "local" or config.model.quantization is not None
    return "zeroth" if generates else "natural"


def _mover(parts: RunParts, way: str, seed: int) -> LoraPolicy:
    """The run's policy in the coordinates of a way, measured against the same start."""
    assert parts.base is not None
    base, held, sampling, law = parts.base, parts.language.subspace, parts.language.sampling, Law()
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


def _describe(state: Improved, taste: Taste, steps: int, nats: float) -> dict[str, object]:
    best = state.checked
    guards = state.steps[state.best - 1].guards
    return {
        "steps": steps,
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
