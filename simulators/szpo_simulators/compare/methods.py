"""The methods as arms of a comparison: each walks its way and notes where it stands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo.baselines import dpo, grpo, ppo, rloo, simpo
from szpo.config import settings_file
from szpo.runs import assemble, driver
from szpo.training.step_report import StepReport
from szpo_simulators.compare import cell_config, gradient
from szpo_simulators.compare.checkpoints import Course

Spec: TypeAlias = Mapping[str, Any]
Arm: TypeAlias = Callable[[Spec, Course], dict[str, Any]]
"""Walks the way; gives what else is worth keeping."""


def play(spec: Spec, way: Course) -> dict[str, Any]:
    """One arm from its start to its last vote.

    Raises:
        RunError: it diverged, or there was nothing to learn from.
    """
    return ARMS[spec["method"]](spec, way)


def szpo(spec: Spec, way: Course) -> dict[str, Any]:
    """A whole run of szpo: set-up, votes through the ledger, updates."""
    D = spec["D"] if spec["ask"] == "batch" else 1
    votes = spec["votes"] * spec["D"] // D
    tree = cell_config.config(spec).model_dump()
    tree["run"]["votes"] = votes
    tree["panel"]["beta"] = spec["beta"][spec["ask"]]
    tree["optimizer"] |= spec["settings"]
    tree["optimizer"]["rows"] = D
    tree["optimizer"]["comparisons"] *= spec["D"] // D
    config = settings_file.check(tree, where="compare")
    steps, priced = votes // config.votes_per_step, config.selection.vote_price is not None
    done: list[StepReport] = []

    def note(report: StepReport) -> None:
        done.append(report)
        # With a price of votes steps end early and there are more of them.
        stand(report, report.total_votes / votes if priced else (report.step + 1) / steps)

    def stand(report: StepReport, share: float) -> None:
        cost = {
            "votes": report.total_votes,
            "answers_read": report.total_answers_read,
            "tokens": way.instruments.tokens,
        }
        figures = {"win_rate": report.win_rate, "norm": report.norm}
        way.reached(parts.language, share, cost, figures)

    with tempfile.TemporaryDirectory() as folder:
        parts = assemble.build(config, say=lambda line: None)
        setup = way.instruments.seconds()
        facts = {"setup": {"seconds": setup[0], "cpu": setup[1], "tokens": way.instruments.tokens,
                           "bytes": way.instruments.peak()}}  # fmt: skip
        with assemble.create(parts, Path(folder) / "run.db") as ledger:
            driver.drive(ledger, parts, on_step=note)
    if done:  # a priced run may end some votes short of its budget
        stand(done[-1], 1.0)
    return facts


ARMS: Final[dict[str, Arm]] = {
    "szpo": szpo,
    "dpo": gradient.offline(dpo.train, dpo.Recipe),
    "iterative-dpo": gradient.iterative_dpo,
    "simpo": gradient.offline(simpo.train, simpo.Recipe),
    "rm+ppo": gradient.rewarded(ppo.train, ppo.Recipe),
    "rm+ppo-free": gradient.rewarded(ppo.train, ppo.Recipe),
    "grpo": gradient.rewarded(grpo.train, grpo.Recipe),
    "rloo": gradient.rewarded(rloo.train, rloo.Recipe),
}
