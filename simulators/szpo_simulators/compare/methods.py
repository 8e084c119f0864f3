"""Gradient methods by name: each trains its policy on votes and records checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from szpo import seeds
from szpo.baselines import dpo, group_rl, ppo, registry, reward_model, simpo
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Survey, ask_round
from szpo.baselines.costs import Meter, Moment, OnStep
from szpo.baselines.reward_model import SCALE_PAIRS, scale_reward
from szpo.data.pairs import Pair, Preferences
from szpo.errors import RunError
from szpo.seeds import as_seed
from szpo_simulators.compare import start
from szpo_simulators.compare.checkpoints import Checkpoints
from szpo_simulators.store import Spec

REWARD_PREFIX: Final = "rm_"
"""Prefix of the settings that belong to the reward model."""


@dataclass(frozen=True)
class Training:
    """One cell of a gradient method: its spec, the panel's β by way of asking, its checkpoints."""

    spec: Spec
    beta: Mapping[str, float]
    checkpoints: Checkpoints

    @property
    def questions(self) -> tuple[int, int | None]:
        """(number of votes, rows per vote); rows None: each vote is on a single pair."""
        if self.spec["ask"] == "pair":
            return self.spec["votes"] * self.spec["D"], None
        return self.spec["votes"], self.spec["D"]

    def survey(self, rounds: int = 1) -> Survey:
        """The questions of one of equal rounds."""
        votes, rows = self.questions
        return Survey(
            start.load_prompts(self.spec).train, start.build_ask(self.spec, self.beta),
            votes // rounds, rows, self.spec["seed"], purpose="compare",
        )  # fmt: skip

    def note(self, actor: Actor, first: float = 0.0, share: float = 1.0) -> OnStep:
        """The callback of a training that covers the run from ``first`` to ``first + share``."""

        def note(moment: Moment) -> None:
            cost = moment.cost
            spent = {"votes": cost.votes, "answers_read": cost.answers_read,
                     "tokens": cost.tokens_generated}  # fmt: skip
            self.checkpoints.record(actor, first + share * moment.step / moment.of, spent)

        return note


def make_offline(train: Callable[..., Any], name: str) -> Callable[[Training], dict[str, Any]]:
    """A method that asks once about the base model's answers, then trains on the pairs."""

    def run(cell: Training) -> dict[str, Any]:
        how = registry.recipe(name, cell.spec["settings"])
        actor, meter = start.load_actor(cell.spec), Meter()
        with meter:
            found = ask_round(cell.survey(), actor, meter)
        train(actor, found, how, seed=cell.spec["seed"], on_step=cell.note(actor), meter=meter)
        return {"pairs": len(found.pairs), "ties": found.ties}

    return run


def run_iterative_dpo(cell: Training) -> dict[str, Any]:
    """Rounds of DPO: each asks about the current policy's answers and trains it further."""
    how = registry.recipe("iterative-dpo", cell.spec["settings"])
    actor = start.load_actor(cell.spec)
    votes, rows = cell.questions
    rounds = how.model_copy(update={"rows": rows, "questions": votes // how.rounds})
    done = dpo.iterative(
        actor, start.load_prompts(cell.spec).train, start.build_ask(cell.spec, cell.beta), rounds,
        seed=cell.spec["seed"],
        on_step=cell.note(actor),
    )  # fmt: skip
    return {"pairs": done.pairs, "ties": done.ties}


def make_with_reward_model(
    train: Callable[..., Any], name: str
) -> Callable[[Training], dict[str, Any]]:
    """A method that fits a reward model to votes and maximises it, once or in several rounds.

    Each round asks about the current policy's answers, fits a new reward model to all votes so far
    and trains the policy further. The setting ``rounds`` is their number.
    """

    def run(cell: Training) -> dict[str, Any]:
        settings, seed = dict(cell.spec["settings"]), cell.spec["seed"]
        rounds = int(settings.pop("rounds", 1))
        own = {key.removeprefix(REWARD_PREFIX): settings.pop(key) for key in [*settings]
               if key.startswith(REWARD_PREFIX)}  # fmt: skip
        how, of_rewards = registry.recipe(name, settings), registry.recipe("reward-model", own)
        actor, meter, survey = start.load_actor(cell.spec), Meter(), cell.survey(rounds)
        pairs: list[Pair] = []
        ties, agreed = 0, []
        for i in range(rounds):
            with meter:
                found = ask_round(survey, actor, meter, i)
            pairs, ties = [*pairs, *found.pairs], ties + found.ties
            recent = found.pairs or pairs  # a round may bring nothing but ties
            # Derived: with seed + 1, round 1 would share its draws with the next seed's round 0.
            own_seed = as_seed(seeds.derive(seed, "compare round", step=i))
            learned, _ = reward_model.train(
                actor.loaded, Preferences(pairs, ties), of_rewards, seed=own_seed, meter=meter
            )
            with cell.checkpoints.machine.aside():
                agreed.append(learned.agreement(recent[:SCALE_PAIRS]))
            with meter:
                score = scale_reward(learned, recent)
            cell.checkpoints.proxy = score
            train(
                actor, survey.prompts, score, how, seed=own_seed,
                meter=meter, on_step=cell.note(actor, i / rounds, 1 / rounds),
            )  # fmt: skip
        return {"pairs": len(pairs), "ties": ties, "reward_model_agrees": agreed}

    return run


def run(cell: Training) -> dict[str, Any]:
    """Run a cell's method; ``stopped`` says why it ended early, or None.

    A method that diverged or had nothing to learn from is a result, not an error.
    """
    try:
        return {"stopped": None, **RUNNERS[cell.spec["method"]](cell)}
    except RunError as error:
        return {"stopped": str(error)}


Runner: TypeAlias = Callable[[Training], dict[str, Any]]
"""Runs a method and records its checkpoints; returns further fields of the cell's record."""
RUNNERS: Final[dict[str, Runner]] = {
    "dpo": make_offline(dpo.train, "dpo"),
    "iterative-dpo": run_iterative_dpo,
    "simpo": make_offline(simpo.train, "simpo"),
    "rm+ppo": make_with_reward_model(ppo.train, "ppo"),
    "grpo": make_with_reward_model(group_rl.train, "grpo"),
    "rloo": make_with_reward_model(group_rl.train, "rloo"),
}
