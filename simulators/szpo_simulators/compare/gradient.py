"""The gradient methods as arms: who is asked what, and when. The methods are `szpo.baselines`.

Offline methods ask for all their votes on answers of the base model before their first step;
the others ask in rounds about what the policy answers by then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from szpo import seeds
from szpo.baselines import dpo, reward_model
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Survey, ask_round
from szpo.baselines.costs import Meter, Moment, OnStep
from szpo.baselines.questions import Preferences, Task
from szpo.baselines.reward_scaling import SCALE_PAIRS, scale_reward
from szpo.data.pairs import Pair
from szpo.errors import UsageError
from szpo.seeds import as_seed
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.checkpoints import Course

OF_REWARD: Final = "rm_"
"""Settings that begin so are the reward model's."""
REWARDED: Final = (
    "rounds",
    *(f"{OF_REWARD}{field.name}" for field in fields(reward_model.Recipe)),
)
"""What a method with a reward model can be set beside its own recipe."""


def recipe(kind: Any, settings: Mapping[str, Any], **more: Any) -> Any:
    """A recipe from the settings that are its own.

    Raises:
        UsageError: a value is out of range.
    """
    own = {field.name for field in fields(kind)}
    return kind(**{**{k: v for k, v in settings.items() if k in own}, **more})


def known(spec: Mapping[str, Any], *kinds: Any, more: Collection[str] = ()) -> None:
    """Refuse a setting that no recipe of the method has: it would change nothing.

    Raises:
        UsageError: names it.
    """
    own = {field.name for kind in kinds for field in fields(kind)} | set(more)
    for name in spec["settings"]:
        if name not in own:
            raise UsageError(f"compare: {spec['method']} has no setting {name}")


def questions(spec: Mapping[str, Any]) -> tuple[int, int | None]:
    """How many votes there are, and on how many rows each; None: on a single pair."""
    if spec["ask"] == "pair":
        return spec["votes"] * spec["D"], None
    return spec["votes"], spec["D"]


def survey(spec: Mapping[str, Any], rounds: int = 1) -> Survey:
    """The questions of a cell, in equal rounds."""
    votes, rows = questions(spec)
    return Survey(
        shared_setup.prompts(spec).train, shared_setup.ask(spec), votes // rounds, rows,
        spec["seed"], purpose="compare",
    )  # fmt: skip


def noted(way: Course, actor: Actor, first: float = 0.0, share: float = 1.0) -> OnStep:
    """Notes the steps of a training that covers ``share`` of the way from ``first`` on."""

    def note(moment: Moment) -> None:
        way.reached(
            actor, first + share * moment.step / moment.of, spent(moment.cost), moment.figures
        )

    return note


def spent(cost: Any) -> dict[str, float]:
    """Votes, answers read and tokens."""
    return {"votes": cost.votes, "answers_read": cost.answers_read,
            "tokens": cost.tokens_generated}  # fmt: skip


def offline(train: Callable[..., Any], kind: Any) -> Callable[..., dict[str, Any]]:
    """An arm that asks once, about the base model's answers, and then trains on the pairs."""

    def arm(spec: Mapping[str, Any], way: Course) -> dict[str, Any]:
        known(spec, kind)
        actor, meter = shared_setup.actor(spec), Meter()
        with meter:
            found = ask_round(survey(spec), actor, meter)
        way.still(spent(meter.cost()))
        train(
            actor, found, recipe(kind, spec["settings"]), seed=spec["seed"],
            on_step=noted(way, actor), meter=meter,
        )  # fmt: skip
        return {"pairs": len(found.pairs), "ties": found.ties}

    return arm


def iterative_dpo(spec: Mapping[str, Any], way: Course) -> dict[str, Any]:
    """Answers, votes, DPO, and again from what came out."""
    known(spec, dpo.Recipe, dpo.Rounds)
    actor = shared_setup.actor(spec)
    votes, rows = questions(spec)
    plan = recipe(dpo.Rounds, spec["settings"], rows=rows)
    plan = replace(
        plan,
        questions=votes // plan.rounds,
        recipe=recipe(dpo.Recipe, spec["settings"]),
    )
    done = dpo.iterative(
        actor, shared_setup.prompts(spec).train, shared_setup.ask(spec), plan,
        seed=spec["seed"],
        on_step=noted(way, actor),
    )  # fmt: skip
    return {"pairs": done.pairs, "ties": done.ties}


def rewarded(train: Callable[..., Any], kind: Any) -> Callable[..., dict[str, Any]]:
    """An arm that fits a reward model to votes and then follows it: once, or in ``rounds``.

    Each round asks about the policy's answers by then, fits a new reward model to all votes so
    far and goes on from where the policy stands.
    """

    def arm(spec: Mapping[str, Any], way: Course) -> dict[str, Any]:
        known(spec, kind, more=REWARDED)
        settings, seed = spec["settings"], spec["seed"]
        actor, meter = shared_setup.actor(spec), Meter()
        rounds = int(settings.get("rounds", 1))
        source = survey(spec, rounds)
        own = {name.removeprefix(OF_REWARD): value for name, value in settings.items()
               if name.startswith(OF_REWARD)}  # fmt: skip
        pairs: list[Pair] = []
        ties, agreed = 0, []
        for i in range(rounds):
            with meter:
                found = ask_round(source, actor, meter, i)
            pairs, ties = [*pairs, *found.pairs], ties + found.ties
            recent = found.pairs or pairs  # a round may bring nothing but ties
            if i == 0:
                way.still(spent(meter.cost()))
            # Derived, as seed + 1 would give a round the draws of the next seed's run.
            own_seed = as_seed(seeds.derive(seed, "compare round", step=i))
            learned, _ = reward_model.train(
                actor.loaded, Preferences(pairs, ties), recipe(reward_model.Recipe, own),
                seed=own_seed, meter=meter,
            )  # fmt: skip
            with way.instruments.aside():
                agreed.append(learned.agreement(recent[:SCALE_PAIRS]))
            with meter:
                score = scale_reward(learned, recent)
            way.proxy = score
            train(
                actor, Task(source.prompts, score), recipe(kind, settings), seed=own_seed,
                meter=meter, on_step=noted(way, actor, i / rounds, 1 / rounds),
            )  # fmt: skip
        return {"pairs": len(pairs), "ties": ties, "reward_model_agrees": agreed}

    return arm
