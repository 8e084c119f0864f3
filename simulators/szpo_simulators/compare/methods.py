"""The methods of a comparison by name: each trains its policy and records checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo.baselines import dpo, grpo, ppo, rloo, simpo
from szpo.config import settings_file
from szpo.runs import assemble, driver
from szpo.training.step_report import StepReport
from szpo_simulators.compare import gradient
from szpo_simulators.compare.cell_config import load_config
from szpo_simulators.compare.checkpoints import Checkpoints
from szpo_simulators.compare.presets import LADDER

Spec: TypeAlias = Mapping[str, Any]
Runner: TypeAlias = Callable[[Spec, Checkpoints], dict[str, Any]]
"""Runs a method and records its checkpoints; returns further fields of the cell's record."""


def run_method(spec: Spec, checkpoints: Checkpoints) -> dict[str, Any]:
    """Run the spec's method from its start to its last vote.

    Raises:
        RunError: it diverged, or there was nothing to learn from.
    """
    return RUNNERS[spec["method"]](spec, checkpoints)


def run_szpo(spec: Spec, checkpoints: Checkpoints) -> dict[str, Any]:
    """A whole run of szpo: set-up, votes through the ledger, updates."""
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
    steps = votes // config.votes_per_step

    def note(report: StepReport) -> None:
        cost = {
            "votes": report.total_votes,
            "answers_read": report.total_answers_read,
            "tokens": checkpoints.instruments.tokens,
        }
        figures = {"win_rate": report.win_rate, "norm": report.norm}
        checkpoints.record(parts.language, (report.step + 1) / steps, cost, figures)

    with tempfile.TemporaryDirectory() as folder:
        parts = assemble.build(config, say=lambda line: None)
        setup = checkpoints.instruments.seconds()
        tools = checkpoints.instruments
        facts = {"setup": {"seconds": setup[0], "cpu": setup[1], "tokens": tools.tokens,
                           "bytes": tools.peak()}}  # fmt: skip
        with closing(parts), assemble.create(parts, Path(folder) / "run.db") as ledger:
            driver.drive(ledger, parts, on_step=note)
    return facts


RUNNERS: Final[dict[str, Runner]] = {
    **dict.fromkeys(LADDER, run_szpo),
    "dpo": gradient.make_offline(dpo.train, dpo.Recipe),
    "iterative-dpo": gradient.run_iterative_dpo,
    "simpo": gradient.make_offline(simpo.train, simpo.Recipe),
    "rm+ppo": gradient.make_with_reward_model(ppo.train, ppo.Recipe),
    "rm+ppo-free": gradient.make_with_reward_model(ppo.train, ppo.Recipe),
    "grpo": gradient.make_with_reward_model(grpo.train, grpo.Recipe),
    "rloo": gradient.make_with_reward_model(rloo.train, rloo.Recipe),
}
