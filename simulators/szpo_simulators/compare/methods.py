"""The methods of a comparison by name: each trains its policy and records checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo import seeds
from szpo.baselines import dpo, group_rl, ppo, registry, reward_model, simpo
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Survey, ask_round
from szpo.baselines.costs import Meter, Moment, OnStep
from szpo.baselines.reward_model import SCALE_PAIRS, scale_reward
from szpo.config import settings_file
from szpo.data.pairs import Pair, Preferences
from szpo.errors import RunError
from szpo.runs import assemble, driver
from szpo.seeds import as_seed
from szpo.training import controller
from szpo.training.step_report import StepReport
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.checkpoints import Checkpoints
from szpo_simulators.compare.presets import LADDER
from szpo_simulators.compare.shared_setup import load_config

REWARD_PREFIX: Final = "rm_"
"""Prefix of the settings that belong to the reward model."""


def count_questions(spec: Mapping[str, Any]) -> tuple[int, int | None]:
    """(number of votes, rows per vote); rows None: each vote is on a single pair."""
    if spec["ask"] == "pair":
        return spec["votes"] * spec["D"], None
    return spec["votes"], spec["D"]


def make_survey(spec: Mapping[str, Any], rounds: int = 1) -> Survey:
    """The questions of one of a cell's equal rounds."""
    votes, rows = count_questions(spec)
    return Survey(
        shared_setup.load_prompts(spec).train, shared_setup.build_ask(spec), votes // rounds,
        rows, spec["seed"], purpose="compare",
    )  # fmt: skip


def record_steps(
    checkpoints: Checkpoints, actor: Actor, first: float = 0.0, share: float = 1.0
) -> OnStep:
    """The callback of a training that covers the run from ``first`` to ``first + share``."""

    def note(moment: Moment) -> None:
        done = first + share * moment.step / moment.of
        checkpoints.record(actor, done, cost_to_json(moment.cost), moment.figures)

    return note


def cost_to_json(cost: Any) -> dict[str, float]:
    """Votes, answers read and tokens of a cost."""
    return {"votes": cost.votes, "answers_read": cost.answers_read,
            "tokens": cost.tokens_generated}  # fmt: skip


def make_offline(train: Callable[..., Any], name: str) -> Callable[..., dict[str, Any]]:
    """A method that asks once about the base model's answers, then trains on the pairs."""

    def run(spec: Mapping[str, Any], checkpoints: Checkpoints) -> dict[str, Any]:
        how = registry.recipe(name, spec["settings"])
        actor, meter = shared_setup.load_actor(spec), Meter()
        with meter:
            found = ask_round(make_survey(spec), actor, meter)
        checkpoints.record_start(cost_to_json(meter.cost()))
        train(
            actor, found, how, seed=spec["seed"],
            on_step=record_steps(checkpoints, actor), meter=meter,
        )  # fmt: skip
        return {"pairs": len(found.pairs), "ties": found.ties}

    return run


def run_iterative_dpo(spec: Mapping[str, Any], checkpoints: Checkpoints) -> dict[str, Any]:
    """Rounds of DPO: each asks about the current policy's answers and trains it further."""
    how = registry.recipe("iterative-dpo", spec["settings"])
    actor = shared_setup.load_actor(spec)
    votes, rows = count_questions(spec)
    rounds = replace(how, rows=rows, questions=votes // how.rounds)
    done = dpo.iterative(
        actor, shared_setup.load_prompts(spec).train, shared_setup.build_ask(spec), rounds,
        seed=spec["seed"],
        on_step=record_steps(checkpoints, actor),
    )  # fmt: skip
    return {"pairs": done.pairs, "ties": done.ties}


def make_with_reward_model(train: Callable[..., Any], name: str) -> Callable[..., dict[str, Any]]:
    """A method that fits a reward model to votes and maximises it, once or in several rounds.

    Each round asks about the current policy's answers, fits a new reward model to all votes so far
    and trains the policy further. The setting ``rounds`` is their number.
    """

    def run(spec: Mapping[str, Any], checkpoints: Checkpoints) -> dict[str, Any]:
        settings, seed = dict(spec["settings"]), spec["seed"]
        rounds = int(settings.pop("rounds", 1))
        own = {name.removeprefix(REWARD_PREFIX): settings.pop(name) for name in spec["settings"]
               if name.startswith(REWARD_PREFIX)}  # fmt: skip
        how, of_rewards = registry.recipe(name, settings), registry.recipe("reward-model", own)
        actor, meter = shared_setup.load_actor(spec), Meter()
        survey = make_survey(spec, rounds)
        pairs: list[Pair] = []
        ties, agreed = 0, []
        for i in range(rounds):
            with meter:
                found = ask_round(survey, actor, meter, i)
            pairs, ties = [*pairs, *found.pairs], ties + found.ties
            recent = found.pairs or pairs  # a round may bring nothing but ties
            if i == 0:
                checkpoints.record_start(cost_to_json(meter.cost()))
            # Derived: with seed + 1, round 1 would share its draws with the next seed's round 0.
            own_seed = as_seed(seeds.derive(seed, "compare round", step=i))
            learned, _ = reward_model.train(
                actor.loaded, Preferences(pairs, ties), of_rewards, seed=own_seed, meter=meter
            )
            with checkpoints.machine.aside():
                agreed.append(learned.agreement(recent[:SCALE_PAIRS]))
            with meter:
                score = scale_reward(learned, recent)
            checkpoints.proxy = score
            train(
                actor, survey.prompts, score, how, seed=own_seed,
                meter=meter, on_step=record_steps(checkpoints, actor, i / rounds, 1 / rounds),
            )  # fmt: skip
        return {"pairs": len(pairs), "ties": ties, "reward_model_agrees": agreed}

    return run


Spec: TypeAlias = Mapping[str, Any]
Runner: TypeAlias = Callable[[Spec, Checkpoints], dict[str, Any]]
"""Runs a method and records its checkpoints; returns further fields of the cell's record."""


def run_szpo(spec: Spec, checkpoints: Checkpoints) -> dict[str, Any]:
    """Do a complete run of szpo: set-up, votes through the ledger, updates."""
    D = spec["D"] if spec["ask"] == "batch" else 1
    votes = spec["votes"] * spec["D"] // D
    own = [
        f"{name if '.' in name else f'optimizer.{name}'}={value}"
        for name, value in spec["settings"].items()
    ]
    tree = load_config({**spec, "sets": [*spec["sets"], *own]}).model_dump()
    tree["run"]["votes"] = votes
    tree["panel"]["beta"] = spec["beta"][spec["ask"]]
    tree["optimizer"]["rows"] = D
    tree["optimizer"]["comparisons"] *= spec["D"] // D
    config = settings_file.check(tree, where="compare")
    steps, machine = votes // config.votes_per_step, checkpoints.machine

    def note(report: StepReport) -> None:
        cost = {
            "votes": report.total_votes,
            "answers_read": report.total_answers_read,
            "tokens": machine.tokens,
        }
        figures = {"win_rate": report.win_rate, "norm": report.norm}
        checkpoints.record(parts.language, (report.step + 1) / steps, cost, figures)

    with tempfile.TemporaryDirectory() as folder:
        parts = assemble.build(config, say=lambda line: None)
        wall, cpu = machine.seconds()
        facts = {"setup": {"seconds": wall, "cpu": cpu, "tokens": machine.tokens,
                           "bytes": machine.peak()}}  # fmt: skip
        with closing(parts), assemble.create_ledger(parts, Path(folder) / "run.db") as ledger:
            controller.run(replace(driver.prepare(ledger, parts), on_step=note))
    return facts


def run(spec: Spec, checkpoints: Checkpoints) -> tuple[str | None, dict[str, Any]]:
    """Run a cell's method; returns why it stopped early, or None, and its fields for the record.

    A method that diverged or had nothing to learn from is a result, not an error.
    """
    with checkpoints.machine.counting():
        try:
            return None, RUNNERS[spec["method"]](spec, checkpoints)
        except RunError as error:
            return str(error), {}


RUNNERS: Final[dict[str, Runner]] = {
    **dict.fromkeys(LADDER, run_szpo),
    "dpo": make_offline(dpo.train, "dpo"),
    "iterative-dpo": run_iterative_dpo,
    "simpo": make_offline(simpo.train, "simpo"),
    "rm+ppo": make_with_reward_model(ppo.train, "ppo"),
    "rm+ppo-free": make_with_reward_model(ppo.train, "ppo"),
    "grpo": make_with_reward_model(group_rl.train, "grpo"),
    "rloo": make_with_reward_model(group_rl.train, "rloo"),
}
