"""The shared setup of a comparison's cells: the base model's answers, panels and measurement.

The cell ``base`` runs first and once. It fits the panel's β at D rows and at one row, and measures
the model before any vote. The specs of all other cells contain its name and these β.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from szpo import seeds
from szpo.baselines.actor import Actor
from szpo.baselines.asking import JudgesAsk
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet, load_configured
from szpo.errors import UsageError
from szpo.policies import language_model
from szpo.runs.assemble import SHARPNESS_PROMPTS, SHARPNESS_SAMPLES
from szpo.types import Answer, Prompt
from szpo.voting.seats import Letter
from szpo_simulators.compare import checkpoints
from szpo_simulators.panels import heldout, text_rewards
from szpo_simulators.panels import panel as panels

Score: TypeAlias = Callable[[Prompt, Answer], float]


def load_config(spec: Mapping[str, Any]) -> Config:
    """The run's configuration: every method starts from its model, LoRA sites and prompts.

    Each seed has its own set-up, so that intervals over seeds cover it. Coordinates are score
    components unless the cell names others.
    """
    sets = [f"run.seed={spec['seed']}", f"subspace.setup_seed={spec['seed']}",
            f"panel.reward={spec['reward']}", f"panel.kind={spec['panel']}",
            "subspace.kind=score",
            *spec["sets"]]  # fmt: skip
    return settings_file.load(preset_name=spec["run"], sets=sets)


MEASURING = 0
"""Seed of the held-out random numbers; all cells use it, so that policies are paired."""


def load_actor(spec: Mapping[str, Any]) -> Actor:
    """A cell's model for a gradient method, with its own LoRA on the sites that szpo moves."""
    config = load_config(spec)
    model = language_model.load_plain(config, say=lambda text: None)
    return Actor(
        model.loaded, model.sites, model.start, sampling=model.sampling, seed=config.run.root_seed
    )


def load_prompts(spec: Mapping[str, Any]) -> PromptSet:
    """The prompts of all cells: training prompts and held-out prompts."""
    found = load_configured(load_config(spec).prompts)
    if not found.heldout:
        raise UsageError("compare: no prompts are held out to measure on; raise prompts.heldout")
    return found


def draw_base(
    spec: Mapping[str, Any], asked: Sequence[Prompt], samples: int, score: Score
) -> tuple[list[list[Answer]], heldout.Measurement]:
    """The base's answers to which panels are fitted, and its measurement on held-out prompts."""
    policy, train = load_actor(spec), load_prompts(spec).train
    drawn = policy.sample(train[:SHARPNESS_PROMPTS], SHARPNESS_SAMPLES, seed=0)
    found = heldout.measure(policy, asked, score, samples=samples, seed=MEASURING, moved=False)
    return drawn, found


def fit_panels(
    spec: Mapping[str, Any], reward: text_rewards.Reward, drawn: Sequence[Sequence[Answer]]
) -> dict[str, panels.Calibration]:
    """β of the panel for batches of D rows and single pairs, fitted to `draw_base`'s answers."""
    values = text_rewards.matrix(reward, load_prompts(spec).train[:SHARPNESS_PROMPTS], drawn)
    return {name: panels.calibrate(values, rows, 0)
            for name, rows in (("batch", spec["D"]), ("pair", 1))}  # fmt: skip


def measure_base(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The result of the cell ``base``: the panel's β at D rows and at one, and its measurement."""
    reward, asked = text_rewards.parse(spec["reward"]), load_prompts(spec).heldout
    drawn, found = draw_base(spec, asked[: spec["prompts"]], spec["samples"], reward.score)
    return {
        "panel": {name: asdict(one) for name, one in fit_panels(spec, reward, drawn).items()},
        "measurement": checkpoints.measurement_to_json(found),
    }


def build_ask(spec: Mapping[str, Any]) -> JudgesAsk:
    """The simulated panel, fitted to batches of D rows and to single pairs."""
    size = load_config(spec).panel.size

    of_batches, of_pairs = (
        panels.build(
            spec["panel"], reward=spec["reward"], size=size, rows=rows, beta=spec["beta"][name]
        )
        for name, rows in (("batch", spec["D"]), ("pair", 1))
    )
    return JudgesAsk(of_batches.judges, of_pairs.judges, alternate_sides)


def alternate_sides(key: bytes, questions: int, judges: int) -> list[tuple[bytes, Letter]]:
    """A key and the side of plus for each question; sides alternate for each member.

    Members answer in turn and see plus equally often on each side, as in a run of szpo.
    """
    found: list[tuple[bytes, Letter]] = []
    for n in range(questions):
        lap = n // judges
        # Else, with an even number of members, each would always see plus on the same side.
        side: Letter = "B" if (n + lap * (judges % 2 == 0)) % 2 else "A"
        found.append((seeds.derive(0, "asked", k=n, name=key.hex()), side))
    return found
