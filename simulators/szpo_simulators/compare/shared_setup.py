"""What all cells of a comparison stand on: the base model's answers, the panels, the yardstick.

The cell ``base`` is done first and once: it fits β at D rows and at one, and measures the model
before any vote. All other cells are asked with what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from szpo import seeds
from szpo.baselines.actor import Actor
from szpo.baselines.asking import JudgesAsk, Letter
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet, load_configured
from szpo.errors import UsageError
from szpo.policies import language_model
from szpo.runs.assemble import CALIBRATION_PROMPTS, CALIBRATION_SAMPLES
from szpo_simulators.compare import cell_config, checkpoints
from szpo_simulators.panels import panel as panels
from szpo_simulators.rewards import heldout, text_rewards

MEASURING = 0
"""Names the held-out random numbers, the same for every cell: policies are paired by them."""


def actor(spec: Mapping[str, Any]) -> Actor:
    """The model of a cell, ready for a gradient method."""
    return actor_of(cell_config.config(spec))


def actor_of(config: Config) -> Actor:
    """The model with a LoRA of its own on the sites and with the rank that SZPO moves."""
    of = language_model.load_plain(config, say=lambda text: None)
    return Actor(of.loaded, of.sites, of.start, sampling=of.sampling, seed=config.run.seed)


def prompts(spec: Mapping[str, Any]) -> PromptSet:
    """The prompts of all cells: those to learn from, and those held out."""
    found = load_configured(cell_config.config(spec).prompts)
    if not found.heldout:
        raise UsageError("compare: no prompts are held out to measure on; raise prompts.heldout")
    return found


def base(spec: Mapping[str, Any]) -> dict[str, Any]:
    """β of the panel at D rows and at one, and the held-out measurement before any vote."""
    policy, told = actor(spec), prompts(spec)
    liked = text_rewards.parse(spec["reward"])
    drawn = policy.sample(told.train[:CALIBRATION_PROMPTS], CALIBRATION_SAMPLES, seed=0)
    worth = text_rewards.matrix(liked, told.train[:CALIBRATION_PROMPTS], drawn)
    fitted = {name: panels.calibrate(worth, rows, 0)
              for name, rows in (("batch", spec["D"]), ("pair", 1))}  # fmt: skip
    found = heldout.measure(
        policy, told.heldout[: spec["prompts"]], liked.score, samples=spec["samples"],
        seed=MEASURING, moved=False,
    )  # fmt: skip
    return {
        "panel": {name: asdict(one) for name, one in fitted.items()},
        "measurement": checkpoints.kept(found),
    }


def yardstick(spec: Mapping[str, Any], start: Mapping[str, Any]) -> checkpoints.Yardstick:
    """How the cell is measured, beside what the cell ``base`` measured."""
    return checkpoints.Yardstick(
        prompts(spec).heldout[: spec["prompts"]],
        spec["samples"],
        MEASURING,
        text_rewards.parse(spec["reward"]).score,
        checkpoints.restored(start),
    )


def ask(spec: Mapping[str, Any]) -> JudgesAsk:
    """The panel, fitted for either size of question."""
    size = cell_config.config(spec).panel.size

    def fit(name: str, rows: int) -> panels.SimulatedPanel:
        beta = spec["beta"][name]
        return panels.build(spec["panel"], reward=spec["reward"], size=size, rows=rows, beta=beta)

    return ask_panels(fit("batch", spec["D"]), fit("pair", 1))


def ask_panels(of_batches: panels.SimulatedPanel, of_pairs: panels.SimulatedPanel) -> JudgesAsk:
    """Panels fitted to the size of the question: one for batches, one for single pairs.

    Members answer in turn and see plus on either side equally often, as in a run of szpo.
    """
    return JudgesAsk(of_batches.judges, of_pairs.judges, alternate_sides)


def alternate_sides(key: bytes, questions: int, judges: int) -> list[tuple[bytes, Letter]]:
    """Sides in turn for each member, with a key of its own for each question."""
    found: list[tuple[bytes, Letter]] = []
    for n in range(questions):
        lap = n // judges
        # Of an even number of members, each would else see plus on one side throughout.
        side: Letter = "B" if (n + lap * (judges % 2 == 0)) % 2 else "A"
        found.append((seeds.derive(0, "asked", k=n, name=key.hex()), side))
    return found
