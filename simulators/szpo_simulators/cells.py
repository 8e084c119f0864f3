"""Run one cell in its own process: ``python -m szpo_simulators.cells RECORD``.

The spec is read as JSON from stdin, the finished share is printed to stdout, and the record is
written completely or not at all. A method that cannot continue (it diverged, or had nothing to
learn from) is a result; a mistake in the spec is an error and leaves no record.

A run of szpo is driven to its end and then measured at checkpoints; a killed one continues where
its ledger ends. The measured policy is read back from the ledger: the parameters that the run
recommended after a number of votes.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from szpo import seeds, whole_run
from szpo.analysis import measuring, taught_taste
from szpo.baselines import dpo, group_rl, ppo, recipes, reward_model
from szpo.baselines.asking import Meter, Moment, OnStep, Survey, ask_round
from szpo.baselines.reward_model import SCALE_PAIRS, scale_reward
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import IntegrityError, RunError, StorageError, SzpoError, UsageError
from szpo.files import claim, replace_whole
from szpo.ledger.database import Ledger
from szpo.policies import subspace_setup
from szpo.replay import replay
from szpo.runs import assemble, samples, status
from szpo.runs.assemble import RunParts
from szpo.runs.callbacks import as_callback
from szpo.seeds import as_seed
from szpo.types import Floats
from szpo.voting import blind, panel_evaluator
from szpo.voting.applied_step import StepReport
from szpo_simulators import cell_start
from szpo_simulators.cell_records import Spec, write_record
from szpo_simulators.cell_start import (
    MEASURING,
    Checkpoints,
    MachineMeter,
    Yardstick,
    even_shares,
    load_config,
)
from szpo_simulators.panels import text_rewards

if TYPE_CHECKING:
    from szpo.baselines.actor import Actor

REWARD_PREFIX: Final = "rm_"
"""Prefix of the settings that belong to the reward model."""

DRIVING: Final = 0.8
"""Share of a cell's progress that stands for its votes; the rest stands for measuring."""
Report = Callable[[float], None]


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
            cell_start.load_prompts(self.spec).train, cell_start.build_ask(self.spec, self.beta),
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


Runner: TypeAlias = Callable[[Training], dict[str, Any]]
"""Runs a method and records its checkpoints; returns further fields of the cell's record."""


def make_offline(train: Callable[..., Any], name: str) -> Runner:
    """A method that asks once about the base model's answers, then trains on the pairs."""

    def run(cell: Training) -> dict[str, Any]:
        how = recipes.make(name, cell.spec["settings"])
        actor, meter = cell_start.load_actor(cell.spec), Meter()
        with meter:
            found = ask_round(cell.survey(), actor, meter)
        train(actor, found, how, seed=cell.spec["seed"], on_step=cell.note(actor), meter=meter)
        return {"pairs": len(found.pairs), "ties": found.ties}

    return run


def run_iterative_dpo(cell: Training) -> dict[str, Any]:
    """Rounds of DPO: each asks about the current policy's answers and trains it further."""
    how = recipes.make("iterative-dpo", cell.spec["settings"])
    votes, rows = cell.questions
    rounds = how.model_copy(update={"rows": rows, "questions": votes // how.rounds})
    actor = cell_start.load_actor(cell.spec)
    done = dpo.iterative(
        actor, cell_start.load_prompts(cell.spec).train,
        cell_start.build_ask(cell.spec, cell.beta), rounds,
        seed=cell.spec["seed"], on_step=cell.note(actor),
    )  # fmt: skip
    return {"pairs": done.pairs, "ties": done.ties}


def make_with_reward_model(train: Callable[..., Any], name: str) -> Runner:
    """A method that fits a reward model to votes and maximises it, once or in several rounds.

    Each round asks about the current policy's answers, fits a new reward model to all votes so far
    and trains the policy further. The setting ``rounds`` is their number. With ``drawn`` above 1 a
    round draws so many times the pairs and asks about those on which the last reward model is
    least sure; the first round has none.
    """

    def run(cell: Training) -> dict[str, Any]:
        settings, seed = dict(cell.spec["settings"]), cell.spec["seed"]
        rounds, drawn = int(settings.pop("rounds", 1)), int(settings.pop("drawn", 1))
        own = {key.removeprefix(REWARD_PREFIX): settings.pop(key) for key in [*settings]
               if key.startswith(REWARD_PREFIX)}  # fmt: skip
        how, of_rewards = recipes.make(name, settings), recipes.make("reward-model", own)
        actor, meter, survey = cell_start.load_actor(cell.spec), Meter(), cell.survey(rounds)
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
            survey = replace(survey, drawn=drawn, sure=learned.margins)
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


RUNNERS: Final[dict[str, Runner]] = {
    "dpo": make_offline(dpo.train, "dpo"),
    "iterative-dpo": run_iterative_dpo,
    "simpo": make_offline(dpo.train_simpo, "simpo"),
    "rm+ppo": make_with_reward_model(ppo.train, "ppo"),
    "grpo": make_with_reward_model(group_rl.train, "grpo"),
    "rloo": make_with_reward_model(group_rl.train, "rloo"),
}


def run_cell(spec: Spec, folder: Path, name: str, report: Report) -> dict[str, Any]:
    """Run a cell and return its rows and other results as plain JSON values.

    Raises:
        SzpoError: the cell cannot be run, or needs another cell first.
    """
    match spec["kind"]:
        case "votes":
            return run_votes(spec, folder, name, report)
        case "best of n":
            return run_best_of(spec, folder, report)
        case _:
            return run_gradient(spec, folder, report)


def ledger_path(folder: Path, name: str) -> Path:
    """Path of the ledger of a cell."""
    return folder / "ledgers" / f"{name}.db"


def run_votes(spec: Spec, folder: Path, name: str, report: Report) -> dict[str, Any]:
    """Drive the run and measure it; returns its rows, largest KL and the cost of its set-up."""
    yardstick, beta = cell_start.load(spec, folder)
    machine = MachineMeter()
    spec = {**spec, "sets": [*spec["sets"], *_asking(spec, beta)]}
    config = load_config(spec)
    path = ledger_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = folder / "locks" / f"setup-{config.generation.max_new_tokens}-{spec['setup']}.lock"
    with claim(lock, wait=True), _shared_setup_file(spec, folder / "setups"):
        # This makes the set-up or finds it in the cache.
        ledger, parts, resumed = _open(spec, path)
    base = parts.base

    def spend() -> dict[str, Any]:
        return {**machine.cost(), "tokens": None if base is None else base.host.written}

    set_up, spent = spend(), dict[int, dict[str, Any]]()

    def note(step: StepReport) -> None:
        spent[step.step + 1] = _since(spend(), set_up)
        report(DRIVING * min(1.0, step.total_votes / config.run.votes))

    with closing(parts), ledger:
        outcome = whole_run.drive(ledger, parts, [as_callback(note)], measured=False)
        if outcome.status == "paused":
            raise RunError(f"{path} paused: {outcome}")
        spent[outcome.steps] = _since(spend(), set_up)
        facts = status.read_results(ledger).table
        rows = _measure(spec, ledger, parts, yardstick, folder / "rows" / name)
        if config.improve.nats is not None:
            rows[-1] |= _ask_about_the_end(ledger, parts)
        stood = [f.kl for f in facts if f.kl is not None]
    unknown = dict.fromkeys(set_up)
    for row in rows:
        row |= unknown if resumed else spent.get(row["steps"], unknown)
    return {
        "rows": rows, "stopped": None, "resumed": resumed, "furthest": max(stood, default=None),
        "setup": {**set_up, "origin": base and base.subspace.report.get("origin")},
    }  # fmt: skip


def _since(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has spent since its set-up; peaks of memory stay as they are."""
    items = ("seconds", "cpu_seconds", "tokens")
    return now | {each: None if now[each] is None else now[each] - before[each] for each in items}


def _asking(spec: Spec, beta: Mapping[str, float]) -> list[str]:
    """The settings of the plan's way of asking and of its panel."""
    config, sets = load_config(spec), [f"run.votes={spec['votes']}"]
    if spec["ask"] == "pair":
        each = config.optimizer.N * spec["D"]
        sets = [f"run.votes={spec['votes'] * spec['D']}", f"optimizer.N={each}",
                "optimizer.D=1"]  # fmt: skip
    return sets + [f"panel.beta={beta[on]!r}" for on in [spec["panel_on"]] if on]


@contextmanager
def _shared_setup_file(spec: Spec, folder: Path) -> Iterator[None]:
    """Copy a cell's set-up from the folder or to it, since each machine makes a different one."""
    key = subspace_setup.key_here(load_config(spec), cell_start.load_prompts(spec).train)
    if key is None:
        yield
        return
    cached = subspace_setup.cached_path(key)
    stored = folder / cached.name
    _copy_new(stored, cached)
    yield
    _copy_new(cached, stored)


def _copy_new(there: Path, here: Path) -> None:
    if there.exists() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        with replace_whole(here) as draft:
            shutil.copyfile(there, draft)


def _open(spec: Spec, path: Path) -> tuple[Ledger, RunParts, bool]:
    """(ledger, parts, whether resumed): the run continued, or a new one if the file is broken."""
    if path.exists():
        try:
            ledger = Ledger.open(path)
        except (StorageError, IntegrityError):  # killed while it created the file
            pass
        else:
            return ledger, assemble.reopen(ledger, say=lambda line: None), True
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    parts = assemble.build(load_config(spec), say=lambda line: None)
    return assemble.create_ledger(parts, path), parts, False


def steps_of(
    ledger: Ledger, votes: float = math.inf, steps: float = math.inf
) -> tuple[int, int, int]:
    """(steps, votes, answers read) of the applied steps, with at most these votes and steps."""
    applied = counted = read = 0
    for fact in status.read_results(ledger).table:
        if fact.state != "applied" or counted + fact.votes > votes or applied >= steps:
            break
        applied, counted, read = fact.step + 1, counted + fact.votes, read + fact.answers_read
    return applied, counted, read


def _measure(
    spec: Spec, ledger: Ledger, parts: RunParts, yardstick: Yardstick, folder: Path
) -> list[dict[str, Any]]:
    """A row for each checkpoint; rows measured before the cell was killed are read back."""
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    whole = parts.config.run.votes // parts.config.votes_per_step
    shares = even_shares(spec["points"])
    places = [(votes / spec["votes"], {"votes": votes}) for votes in spec["at"]] or [
        (share, {"steps": math.ceil(share * whole - 1e-9)}) for share in shares
    ]
    for share, end in places:
        file = folder / f"{next(iter(end.values()))}.json"
        if not file.exists():
            steps, counted, read = steps_of(ledger, **end)
            with samples.policy_at(ledger, parts, steps) as policy:
                moved: Any = policy
                row = yardstick.row(moved, share, {"votes": counted, "answers_read": read})
            found = taught_taste.last_findings(ledger, steps)
            row["factor"] = found and round(found.factor, 3)
            row["words"] = found and taught_taste.words(found)
            with replace_whole(file) as draft:
                draft.write_text(json.dumps({**row, "steps": steps}), encoding="utf-8")
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    return rows


def _ask_about_the_end(ledger: Ledger, parts: RunParts) -> dict[str, float | None]:
    """The share of 64 pairs in which the panel prefers the exported policy; also without noise."""
    measuring.compare_blind(ledger, parts, panel_evaluator.find_reward(ledger))
    found = blind.read(ledger)
    preferred = None if found is None else found.preferred.value
    true = None if found is None or found.true is None else found.true.value
    return {"preferred": preferred, "preferred_true": true}


def run_gradient(spec: Spec, folder: Path, report: Report) -> dict[str, Any]:
    """Run a gradient method, measured at shares of its training.

    DPO asks once and passes through its pairs once. So at a share of its training it has learned
    from that share of the pairs, and is charged for that share only. ``stopped`` says why the
    method ended early: that it diverged or had nothing to learn from is a result, not an error.
    """
    yardstick, beta = cell_start.load(spec, folder)
    course = Checkpoints(yardstick, even_shares(spec["points"]), report)
    found: dict[str, Any] = {"stopped": None}
    try:
        found |= RUNNERS[spec["method"]](Training(spec, beta, course))
    except RunError as error:
        found["stopped"] = str(error)
    if spec["method"] == "dpo":
        for row in course.rows:
            row |= {name: row[name] * row["share"] for name in ("votes", "answers_read")}
    return {"rows": course.rows, **found}


def run_best_of(spec: Spec, folder: Path, report: Report) -> dict[str, Any]:
    """The best of n answers of the base by the true reward, and by a run's fitted direction.

    Each prompt has one pool of answers for all n. The expected reward of the best of n is exact
    over all choices of n from the pool. KL is at most log n − (n − 1)/n.
    """
    path = ledger_path(folder, spec["of"])
    if not path.exists():
        raise UsageError(f"compare: best-of-n needs the run {path}; let its cell end first")
    yardstick, _ = cell_start.load(spec, folder)
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

    ``rewards`` and ``keys``, by which the best of ``n`` is chosen, are (prompts, m).

    >>> round(expected_best(np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 1.0, 2.0]]), 2), 6)
    3.333333
    """
    size = rewards.shape[1]
    weights = np.array([math.comb(i, n - 1) for i in range(size)]) / math.comb(size, n)
    ordered = np.take_along_axis(rewards, np.argsort(keys, axis=1, kind="stable"), axis=1)
    return float((ordered @ weights).mean())


def find_commit() -> str | None:
    """This checkout's commit; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=10", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Run the cell on stdin, write its record to the given path; returns the exit code."""
    spec, path = json.loads(sys.stdin.read()), Path(arguments[0])
    try:
        found = run_cell(
            spec, path.parents[1], path.stem, lambda share: print(f"{share:.4f}", flush=True)
        )
    except SzpoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    write_record(path, spec, {**found, "commit": find_commit()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
