"""Run one cell of a frontier in a process of its own, its spec on stdin.

Here are the cells that are no run of szpo: gradient methods on single pairs, and the best of n
answers.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.replay import replay
from szpo.runs import assemble
from szpo.types import Floats
from szpo_simulators.compare import frontier_base as base
from szpo_simulators.compare import frontier_plan as plan
from szpo_simulators.compare import frontier_runs as vote_runs
from szpo_simulators.compare import methods
from szpo_simulators.compare.cell_process import answer, spent_since
from szpo_simulators.compare.checkpoints import Checkpoints
from szpo_simulators.compare.instruments import Instruments
from szpo_simulators.panels import text_rewards


def run_cell(
    spec: Mapping[str, Any], folder: Path, name: str, report: Callable[[float], None]
) -> dict[str, Any]:
    """Run a cell and return its record: rows, seconds, machine and commit, as plain JSON values.

    Raises:
        SzpoError: the cell cannot be run, or cannot be run yet.
    """
    began = time.monotonic(), time.process_time()
    if spec["method"] in plan.RULES:
        found = vote_runs.run(spec, folder, name, report)
    elif spec["method"] == plan.BEST_OF:
        found = run_best_of(spec, folder, report)
    else:
        found = run_gradient(spec, folder, report)
    return {**found, **spent_since(*began)}


def main(arguments: Sequence[str]) -> int:
    """Run a cell of a frontier; see `szpo_simulators.compare.cell_process.answer`."""
    return answer(
        arguments, lambda spec, path, report: run_cell(spec, path.parents[1], path.stem, report)
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))


Report = Callable[[float], None]


def run_gradient(spec: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """A gradient method that learns from all of its pairs, measured at even shares of them.

    DPO asks once and goes through its pairs once, so at a share of its training it has learned
    from that share of them, and is charged for no more.
    """
    start = base.load(spec, folder)
    tools = Instruments()
    checkpoints = Checkpoints(start.yardstick, tools, spec["points"], report=report)
    stopped = None
    with tools.counting():
        try:
            methods.RUNNERS[spec["method"]]({**spec, "beta": dict(start.beta)}, checkpoints)
        except RunError as error:
            stopped = str(error)
    rows = [row for row in checkpoints.rows if row["share"] > 0]
    if spec["method"] == "dpo":
        for row in rows:
            row |= {name: row[name] * row["share"] for name in ("votes", "answers_read")}
    return {"rows": rows, "stopped": stopped}


def run_best_of(spec: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """The best of n answers of the base by the true reward, and by a run's fitted direction.

    All n are drawn from one pool of answers to each prompt: the expected reward of the best of n
    is exact over all choices of n from the pool. KL is at most log n − (n − 1)/n.

    Raises:
        UsageError: the run that gives the direction is not there.
    """
    path = vote_runs.ledger_path(folder, spec["of"])
    if not path.exists():
        raise UsageError(f"frontier: best-of-n needs the run {path}; let its cell end first")
    yardstick = base.load(spec, folder).yardstick
    size = spec["settings"]["pool"]
    with (
        Ledger.open(path, readonly=True) as ledger,
        closing(assemble.reopen(ledger, panel=False, say=lambda line: None)) as parts,
    ):
        policy = parts.language
        tokens = policy.sample_tokens(yardstick.prompts, size, seed=base.SEED, base=True)
        report(0.2)
        answers = [policy.answer(row) for row in tokens]
        asked = [policy.encode(prompt) for prompt in yardstick.prompts]
        scores = policy.whitened_scores([(asked[i // size], t) for i, t in enumerate(tokens)])
        report(0.9)
        directions = {}
        for votes in spec["at"]:
            steps, counted, read = vote_runs.steps_of(ledger, votes)
            theta = replay.fold(ledger, steps)
            directions[votes] = (counted, read, np.concatenate([*map(np.ravel, theta.values())]))
    grouped = [answers[i : i + size] for i in range(0, len(answers), size)]
    reward = text_rewards.parse(spec["reward"])
    rewards = text_rewards.matrix(reward, yardstick.prompts, grouped)
    ways = [("true reward", 0, 0, rewards)] + [
        ("fitted direction", counted, read, (scores @ z).reshape(rewards.shape))
        for counted, read, z in directions.values()
    ]
    rows = [
        {"by": by, "votes": votes, "answers_read": read, "n": n, "kl": kl_of_best(n),
         "kl_stderr": 0.0, "gain": expected_best(rewards, keys, n) - float(rewards.mean())}
        for by, votes, read, keys in ways
        for n in spec["settings"]["n"]
    ]  # fmt: skip
    return {"rows": rows, "stopped": None}


def kl_of_best(n: int) -> float:
    """KL to the base of the best of n answers, nats: log n − (n − 1)/n, a bound (2401.01879).

    >>> round(kl_of_best(8), 3)
    1.204
    """
    return math.log(n) - (n - 1) / n


def expected_best(rewards: Floats, keys: Floats, n: int) -> float:
    """Mean reward of the answer with the largest key among n, over all choices of n from the pool.

    The answer of rank i (from 0) of m is the best of C(i, n − 1) of the C(m, n) choices.

    Args:
        rewards: (prompts, m).
        keys: (prompts, m), what is looked at.
        n: At most m.

    >>> round(expected_best(np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 1.0, 2.0]]), 2), 6)
    3.333333
    """
    size = rewards.shape[1]
    weights = np.array([math.comb(i, n - 1) for i in range(size)]) / math.comb(size, n)
    ordered = np.take_along_axis(rewards, np.argsort(keys, axis=1, kind="stable"), axis=1)
    return float((ordered @ weights).mean())
