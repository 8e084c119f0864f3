"""`szpo bench memory`: what a step needs at its peak, beside plain generation of the same answers.

Every figure is that of a fresh process which loads the model, resets its peak of resident memory,
and then does one thing on the same number of answers: generate them plainly; an
SZPO step (both policies in one batch, votes, update); SZPO's set-up; one optimizer step of DPO on
them as pairs; one step of PPO on them with its critic, scored by the length of the text or by a
reward model of rank 8 on the same base. All on the same model and LoRA sites.

Where the system cannot reset the peak, it is that of the whole process, loading
included, and each row says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import RunError, SzpoError, UsageError
from szpo_simulators.study import Study

TASKS: Final = ("generation", "szpo", "szpo set-up", "dpo", "ppo", "rm+ppo")
DTYPES: Final = ("fp32", "bf16", "4-bit")
MEASURES: Final = {True: "the task", False: "the whole process", None: "–"}
"""What a peak covers, by whether it was reset; older records lack this field."""
MIB: Final = 2**20
D: Final = 8
Measured: TypeAlias = dict[str, Any]
"""``before`` and ``peak`` in bytes, and ``exact``."""


def main(
    model: str = "smollm2",
    answers: int = 64,
    tasks: Sequence[str] = TASKS,
    dtypes: Sequence[str] = DTYPES,
    folder: Path = Path("runs/bench-memory"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Peak memory of an SZPO step, its set-up, DPO and PPO, as ratios to plain generation.

    Args:
        model: smollm2 or tiny.
        answers: Answers of 24 tokens that each step is about; a multiple of 16.
        tasks: Which are measured; generation is what the others are compared with.
        dtypes: fp32, bf16, 4-bit.
        folder: Where finished cells and tables go.
        figures: Where the documents' figures go as well.
    """
    if answers < 2 * D or answers % (2 * D):
        raise UsageError(f"bench memory: --answers {answers}: give a multiple of {2 * D}")
    for name, known, given in (("tasks", TASKS, tasks), ("dtypes", DTYPES, dtypes)):
        if wrong := [one for one in given if one not in known]:
            raise UsageError(f"bench memory: --{name} {wrong[0]}: give {', '.join(known)}")
    study = Study("memory", folder, figures=figures)
    specs = [
        {"model": model, "answers": answers, "dtype": dtype, "task": task}
        for dtype in dtypes
        for task in tasks
    ]
    rows = add_ratios(study.cells(model, specs, measure_in_process))
    study.table(
        f"{model}, {answers} answers of up to 24 tokens: peak of resident memory",
        rows,
        {"dtype": "dtype", "task": "task", "peak MiB": lambda row: f"{row['peak'] / MIB:.0f}",
         "of generation": lambda row: format_ratio(row["ratio"]),
         "above the loaded model, MiB": lambda row: f"{row['added'] / MIB:.0f}",
         "of generation's": lambda row: format_ratio(row["added_ratio"]),
         "peak of": lambda row: MEASURES[row.get("exact")]},
    )  # fmt: skip
    study.csv("memory", rows)
    study.end()
    return {"model": model, "answers": answers, "rows": rows}


def format_ratio(value: float | None) -> str:
    """A ratio in a table's cell; a dash where there is nothing to compare with.

    >>> format_ratio(1.234), format_ratio(None)
    ('1.23', '–')
    """
    return "–" if value is None else f"{value:.2f}"


def add_ratios(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its peak, and what it adds to the loaded model, over plain generation's.

    A ratio is None where there is no plain generation, or nothing that it added.
    """
    plain = {row["dtype"]: row for row in found if row["task"] == "generation"}
    rows = []
    for row in found:
        beside = plain.get(row["dtype"])
        added = row["peak"] - row["before"]
        plainly = beside["peak"] - beside["before"] if beside else 0
        rows.append(
            {
                **row,
                "added": added,
                "ratio": row["peak"] / beside["peak"] if beside else None,
                "added_ratio": added / plainly if plainly else None,
            }
        )
    return rows


def measure_in_process(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one task in a fresh process.

    Raises:
        RunError: the process failed; with its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "szpo_simulators.bench.language.memory"],
        input=json.dumps(dict(spec)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [
        line for line in (done.stderr if done.returncode else done.stdout).splitlines() if line
    ]
    if done.returncode or not lines:
        why = lines[-1] if lines else f"ended with code {done.returncode}"
        raise RunError(f"bench memory: {spec['task']}, {spec['dtype']}: {why}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


# --- in the fresh process ------------------------------------------------------------------------


def make_config(spec: Mapping[str, Any]) -> Config:
    """A run's settings: the default sites, one step with as many answers as were asked for."""
    dtype = spec["dtype"]
    sets = [
        f"model.name={spec['model']}", "optimizer.directions=1",
        f"optimizer.comparisons={spec['answers'] // (2 * D)}",
        f"optimizer.rows={D}", f"run.votes={spec['answers'] // (2 * D)}", "panel.kind=bt70",
        "panel.reward=sentiment", "panel.beta=5",
        *(["model.quantization=nf4"] if dtype == "4-bit" else [f"model.dtype={dtype}"]),
    ]  # fmt: skip
    return settings_file.load(sets=sets)


def measure(spec: Mapping[str, Any]) -> Measured:
    """Resident bytes before and at the peak of one task, and whether the peak is the task's."""
    return {
        "generation": _generation, "szpo": _szpo, "szpo set-up": _setup, "dpo": _dpo, "ppo": _ppo,
        "rm+ppo": _rm_ppo,
    }[spec["task"]](spec)  # fmt: skip


def _watch(work: Callable[[], object]) -> Measured:
    from szpo_simulators.compare.measurements import Instruments, resident

    tools, before = Instruments(), resident()
    work()
    return {"before": before, "peak": tools.peak(), "exact": tools.exact}


def _actor(spec: Mapping[str, Any]) -> Any:
    from szpo_simulators.compare import shared_setup

    return shared_setup.load_configured_actor(make_config(spec))


def _prompts(count: int) -> Any:
    from szpo.data.prompts import load_shipped

    pool = load_shipped().train
    return [pool[i % len(pool)] for i in range(count)]


def _generation(spec: Mapping[str, Any]) -> Measured:
    actor = _actor(spec)
    return _watch(lambda: actor.sample(_prompts(spec["answers"] // 2), 2, seed=0))


def _setup(spec: Mapping[str, Any]) -> Measured:
    from szpo.policies.subspace_setup import set_up_subspace

    loaded = _actor(spec).loaded
    return _watch(lambda: set_up_subspace(loaded, _prompts(160)))


def _szpo(spec: Mapping[str, Any]) -> Measured:
    """A step of a run whose set-up comes from the cache: its memory is not the step's."""
    from szpo.runs import assemble, driver

    config = make_config(spec)
    if not spec.get("ready"):
        ready = {**spec, "ready": True}
        assemble.build(config, say=lambda line: None)  # leaves the set-up in the cache
        return measure_in_process(ready)
    parts = assemble.build(config, say=lambda line: None)
    with (
        tempfile.TemporaryDirectory() as folder,
        assemble.create(parts, Path(folder) / "run.db") as ledger,
    ):
        return _watch(lambda: driver.drive(ledger, parts))


def _dpo(spec: Mapping[str, Any]) -> Measured:
    from szpo.baselines import dpo, trainer
    from szpo.baselines.questions import Preferences
    from szpo.data.pairs import Pair

    trainer.demand_trl("dpo")
    import trl  # its libraries are resident before the step, and so in both figures

    trl.DPOTrainer  # noqa: B018  # loads it
    actor = _actor(spec)
    half = spec["answers"] // 2
    prompts = _prompts(half)
    drawn = actor.sample(prompts, 2, seed=0)
    pairs = [Pair(p, a, b) for p, (a, b) in zip(prompts, drawn, strict=True)]
    recipe = dpo.Recipe(steps=1, batch=half)
    return _watch(lambda: dpo.train(actor, Preferences(pairs), recipe, seed=0))


def _ppo(spec: Mapping[str, Any]) -> Measured:
    return _ppo_step(spec, lambda loaded: _length)


def _rm_ppo(spec: Mapping[str, Any]) -> Measured:
    return _ppo_step(spec, _reward_model)


def _length(prompts: Sequence[Any], answers: Sequence[Any]) -> list[float]:
    return [float(len(answer.text)) for answer in answers]


def _reward_model(loaded: Any) -> Any:
    """A reward model of the recipe's size that nothing has trained: it takes as much memory."""
    import numpy as np
    from peft import LoraConfig

    from szpo.baselines.reward_model import Recipe, RewardModel
    from szpo.models.batched_lora import find_sites
    from szpo.policies.language_model import random_start

    how = Recipe()
    lora = LoraConfig(r=how.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    sites = find_sites(loaded.model, lora)
    factors = {name: value + np.float32(1e-3) for name, value in random_start(sites, 0).items()}
    width = loaded.model.get_output_embeddings().in_features
    return RewardModel(loaded, sites, factors, np.ones(width, np.float32))


def _ppo_step(spec: Mapping[str, Any], make: Callable[[Any], Any]) -> Measured:
    """One step of PPO; ``make`` gives its score for a loaded model and is part of the step."""
    from szpo.baselines import ppo
    from szpo.baselines.questions import Task

    actor = _actor(spec)
    recipe = replace(
        ppo.Recipe(), steps=1, prompts=spec["answers"] // 2, samples=2, epochs=1, minibatches=1
    )
    prompts = _prompts(recipe.prompts)
    return _watch(lambda: ppo.train(actor, Task(prompts, make(actor.loaded)), recipe, seed=0))


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.loads(sys.stdin.read()))))
    except SzpoError as error:
        sys.exit(str(error))
