"""Cells of a frontier: runs of szpo, gradient methods on single pairs, the best of n answers.

A run of szpo is driven to its end and then measured at checkpoints; a killed one continues where
its ledger ends. The measured policy is read back from the ledger: the parameters that the run
recommended after a number of votes.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError, RunError, StorageError, UsageError
from szpo.files import replace_whole
from szpo.ledger.database import Ledger
from szpo.policies import subspace_cache
from szpo.replay import replay
from szpo.runs import assemble, driver, samples
from szpo.runs.assemble import RunParts
from szpo.training import controller, results
from szpo.training.step_report import StepReport
from szpo.types import Floats
from szpo_simulators.compare import frontier_base as base
from szpo_simulators.compare import frontier_plan as plan
from szpo_simulators.compare import methods, shared_setup
from szpo_simulators.compare.checkpoints import Checkpoints, Yardstick, make_row
from szpo_simulators.compare.machine_meter import MachineMeter
from szpo_simulators.compare.shared_setup import MEASURING, load_config
from szpo_simulators.panels import text_rewards

DRIVING: Final = 0.8
"""Share of a cell's progress that stands for its votes; the rest stands for measuring."""
Report = Callable[[float], None]


def run_cell(spec: Mapping[str, Any], folder: Path, name: str, report: Report) -> dict[str, Any]:
    """Run a cell and return its rows and other results as plain JSON values.

    Raises:
        SzpoError: the cell cannot be run, or needs another cell first.
    """
    if spec["method"] in plan.RULES:
        return run_votes(spec, folder, name, report)
    if spec["method"] == plan.BEST_OF:
        return run_best_of(spec, folder, report)
    return run_gradient(spec, folder, report)


def ledger_path(folder: Path, name: str) -> Path:
    """Path of the ledger of a cell."""
    return folder / "ledgers" / f"{name}.db"


def run_votes(spec: Mapping[str, Any], folder: Path, name: str, report: Report) -> dict[str, Any]:
    """Drive the run and measure it; returns its rows, largest KL and the cost of its set-up."""
    began = time.process_time()
    yardstick, beta = base.load(spec, folder)
    if "panel_on" in spec:
        spec = {**spec, "sets": [*spec["sets"], f"panel.beta={beta[spec['panel_on']]!r}"]}
    path = ledger_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = load_config(spec).generation.max_new_tokens
    lock = folder / "locks" / f"setup-{tokens}-{spec['setup']}.lock"
    with base.alone(lock), _shared_setup_file(spec, folder / "setups"):
        # This makes the set-up or finds it in the cache.
        ledger, parts, resumed = _open(spec, path)
    set_up = time.process_time() - began
    spent: dict[int, float] = {}

    def note(step: StepReport) -> None:
        spent[step.step + 1] = time.process_time() - began - set_up
        report(DRIVING * min(1.0, step.total_votes / spec["votes"]))

    with closing(parts), ledger:
        outcome = controller.run(replace(driver.prepare(ledger, parts), on_step=note))
        if outcome.status == "paused":
            raise RunError(f"{path} paused: {outcome}")
        rows = _measure(spec, ledger, parts, yardstick, folder / "rows" / name)
        facts = results.read(ledger).table
        stood = [f.kl for f in facts if f.kl is not None]
    for row in rows:
        row["cpu_seconds"] = None if resumed else spent.get(row["steps"])
        row["seconds"] = None
    language = {} if parts.base is None else dict(parts.base.subspace.report)
    return {
        "rows": rows, "resumed": resumed, "furthest": max(stood, default=None),
        "setup": {"cpu_seconds": set_up, **{k: language.get(k) for k in ("origin", "seconds")}},
    }  # fmt: skip


@contextmanager
def _shared_setup_file(spec: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Copy a cell's set-up from the folder or to it, since each machine makes a different one."""
    key = subspace_cache.key_here(load_config(spec), shared_setup.load_prompts(spec).train)
    if key is None:
        yield
        return
    cached = subspace_cache.cached_path(key)
    stored = folder / cached.name
    _copy_new(stored, cached)
    yield
    _copy_new(cached, stored)


def _copy_new(there: Path, here: Path) -> None:
    if there.exists() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(here) as draft:
            shutil.copyfile(there, draft)


def _open(spec: Mapping[str, Any], path: Path) -> tuple[Ledger, RunParts, bool]:
    """(ledger, parts, whether resumed): the run continued, or a new one if the file is broken."""
    if path.exists():
        try:
            ledger: Ledger | None = Ledger.open(path)
        except (StorageError, IntegrityError):  # killed while it created the file
            ledger = None
        if ledger is not None:
            return ledger, assemble.reopen(ledger, say=lambda line: None), True
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    parts = assemble.build(load_config(spec), say=lambda line: None)
    return assemble.create_ledger(parts, path), parts, False


def steps_of(ledger: Ledger, votes: int) -> tuple[int, int, int]:
    """(steps, votes, answers read) at the last applied step with at most ``votes`` in total."""
    steps = counted = read = 0
    for fact in results.read(ledger).table:
        if fact.state != "applied" or counted + fact.votes > votes:
            break
        steps, counted, read = fact.step + 1, counted + fact.votes, read + fact.answers_read
    return steps, counted, read


def _measure(
    spec: Mapping[str, Any], ledger: Ledger, parts: RunParts, yardstick: Yardstick, folder: Path
) -> list[dict[str, Any]]:
    """A row for each checkpoint; rows measured before the cell was killed are read back."""
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for votes in spec["at"]:
        file = folder / f"{votes}.json"
        if not file.exists():
            steps, counted, read = steps_of(ledger, votes)
            with samples.policy_at(ledger, parts, steps) as policy:
                moved: Any = policy
                found = yardstick.measure(moved)
            cost = {"votes": counted, "answers_read": read}
            row = {**make_row(yardstick, found, votes / spec["votes"], cost), "steps": steps}
            with replace_whole(file) as draft:
                draft.write_text(json.dumps(row), encoding="utf-8")
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    return rows


def run_gradient(spec: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Run a gradient method on single pairs, measured at even shares of its training.

    DPO asks once and passes through its pairs once. So at a share of its training it has learned
    from that share of the pairs, and is charged for that share only.
    """
    yardstick, beta = base.load(spec, folder)
    checkpoints = Checkpoints(yardstick, MachineMeter(), spec["points"], report=report)
    stopped, _ = methods.run({**spec, "beta": beta}, checkpoints)
    rows = [row for row in checkpoints.rows if row["share"] > 0]
    if spec["method"] == "dpo":
        for row in rows:
            row |= {name: row[name] * row["share"] for name in ("votes", "answers_read")}
    return {"rows": rows, "stopped": stopped}


def run_best_of(spec: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """The best of n answers of the base by the true reward, and by a run's fitted direction.

    Each prompt has one pool of answers for all n. The expected reward of the best of n is exact
    over all choices of n from the pool. KL is at most log n − (n − 1)/n.
    """
    path = ledger_path(folder, spec["of"])
    if not path.exists():
        raise UsageError(f"frontier: best-of-n needs the run {path}; let its cell end first")
    yardstick, _ = base.load(spec, folder)
    size = spec["settings"]["pool"]
    with (
        Ledger.open(path, readonly=True) as ledger,
        closing(assemble.reopen(ledger, panel=False, say=lambda line: None)) as parts,
    ):
        policy = parts.language
        tokens = policy.sample_tokens(yardstick.prompts, size, seed=MEASURING, base=True)
        report(0.2)
        answers = [policy.answer(row) for row in tokens]
        asked = [policy.encode(prompt) for prompt in yardstick.prompts]
        scores = policy.whitened_scores([(asked[i // size], t) for i, t in enumerate(tokens)])
        report(0.9)
        directions = {}
        for votes in spec["at"]:
            steps, counted, read = steps_of(ledger, votes)
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
    """Upper bound on the KL of best-of-n to the base, nats: log n − (n − 1)/n (arXiv 2401.01879).

    >>> round(kl_of_best(8), 3)
    1.204
    """
    return math.log(n) - (n - 1) / n


def expected_best(rewards: Floats, keys: Floats, n: int) -> float:
    """Mean reward of the answer with the largest key among n, over all choices of n from the pool.

    The answer of rank i (from 0) of m is the best in C(i, n − 1) of the C(m, n) choices.

    Args:
        rewards: Rewards of the pool (prompts, m).
        keys: Numbers by which the best is chosen (prompts, m).
        n: Answers in a choice, at most m.

    >>> round(expected_best(np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 1.0, 2.0]]), 2), 6)
    3.333333
    """
    size = rewards.shape[1]
    weights = np.array([math.comb(i, n - 1) for i in range(size)]) / math.comb(size, n)
    ordered = np.take_along_axis(rewards, np.argsort(keys, axis=1, kind="stable"), axis=1)
    return float((ordered @ weights).mean())
