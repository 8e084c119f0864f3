"""`szpo bench demo`: the held-out gain of a language model from a simulated panel's votes.

Each seed is a complete run with the same parts as ``szpo run``: set-up, votes through the ledger,
and a held-out measurement before and after. Finished seeds are stored and not run again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from szpo.analysis import last_pairs, measuring, taught
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.improvement.rounds import Improving
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_tables
from szpo.policies import text_guards
from szpo.replay import replay
from szpo.runs import assemble, driver
from szpo.training import controller, held_out
from szpo.voting import step_report
from szpo_simulators.panels import asked, base_level, heldout, text_rewards
from szpo_simulators.store import Spec, hash_spec
from szpo_simulators.study import Study, interval, measure_machine, number

Say = Callable[[str], None]
SEEDS = (0, 1, 2, 3, 4, 5)


def measure_run(
    config: Config,
    path: Path,
    *,
    say: Say = print,
    on_step: Callable[[step_report.StepReport], None] | None = None,
) -> dict[str, Any]:
    """Tune from votes by ``config`` with the ledger at ``path``; measure before and after.

    Returns:
        A record of JSON values: seed, reward, gain with its paired bootstrap interval, guards,
        votes, answers read, KL, three texts before and after, seconds per phase.
    """
    if config.panel.kind == "people":
        raise UsageError("panel.kind is people; a demo needs bt70, or use: szpo serve --demo")
    began = time.monotonic()
    stages: set[str] = set()

    def show(stage: str, done: int, of: int) -> None:
        if stage not in stages:
            stages.add(stage)
            say(f"set-up: {stage}")

    with closing(assemble.build(config, say=say, progress=show)) as parts:
        return _measure(parts, path, say, on_step, began)


def _measure(
    parts: assemble.RunParts,
    path: Path,
    say: Say,
    on_step: Callable[[step_report.StepReport], None] | None,
    began: float,
) -> dict[str, Any]:
    config, policy = parts.config, parts.language
    liked = text_rewards.parse(config.panel.reward, logprob=policy.logprob_base)
    held = parts.prompts.heldout[: config.evaluation.prompts]
    if not held:
        raise UsageError("no prompts are held out to measure on; mark some with split = heldout")
    samples = config.evaluation.samples
    ready = time.monotonic()
    before = base_level.load_or_read(policy, held, samples).measurement(held, liked.score)
    say(f"held-out {config.panel.reward} before: {before.rewards.mean():.3f}")
    measured = time.monotonic()
    reports: list[step_report.StepReport] = []

    def note(report: step_report.StepReport) -> None:
        reports.append(report)
        if on_step is not None:
            on_step(report)

    with assemble.create_ledger(parts, path) as ledger:
        outcome = controller.run(replace(driver.prepare(ledger, parts), on_step=note))
        with closing(Improving(ledger, parts, say)) as improving:
            improving.at_end(outcome, lambda: True)
        say("measuring the tuned model against its start on fresh pairs")
        measuring.judge_last_pairs(ledger, parts, liked.score)
        policy.move_to(replay.fold(ledger))  # the recommended point; a rule may ask at another
    tuned = time.monotonic()
    say(f"measuring the tuned model on {len(held)} held-out prompts, {samples} answers to each")
    after = heldout.measure(policy, held, liked.score, samples=samples, seed=base_level.SEED)
    shown = held[: measuring.TEXTS]
    spoken = policy.likeliest(shown, base=True), policy.likeliest(shown)
    kept = held_out.measure_right(policy, config.guards.keep)
    done = time.monotonic()
    mean, low, high = heldout.gain(before, after, seed=config.run.root_seed)
    guards = (*text_guards.guards(before, after), *kept[1])
    gap = text_guards.topic_gap(before, after)
    with Ledger.open(path) as ledger:
        rows = make_evaluation_rows(before, after, config.panel.reward, (mean, low, high))
        rows += map(dict, kept[0])
        found = held_out.HeldOut(tuple(rows), guards, gap, policy.digest())
        for ended, at, said in zip((0, outcome.steps), (before, after), spoken, strict=True):
            first = [(p.text, answer.text) for p, answer in zip(shown, said, strict=True)]
            rewards: list[list[float]] = at.rewards[:, :samples].tolist()
            votes = outcome.votes if ended else 0
            part = measuring.Measured(ended, votes, rewards, at.tokens, at.kl, first)
            measuring.record(ledger, "szpo demo", part)
        held_out.record(ledger, "szpo demo", found)
        lesson, last = taught.read(ledger), last_pairs.read(ledger)
    levels = {name: interval(at.rewards.mean(1).tolist())
              for name, at in (("before", before), ("after", after))}  # fmt: skip
    near = asked.find_nearest(held, before.texts, before.rewards)
    return {
        "seed": config.run.root_seed,
        "reward": config.panel.reward,
        "subspace": config.coordinates,
        "rule": parts.settings.section.rule,
        "outcome": asdict(outcome),
        "before": float(before.rewards.mean()),
        "after": float(after.rewards.mean()),
        **{f"{name}_interval": [level["low"], level["high"]] for name, level in levels.items()},
        "gain": mean,
        "interval": [low, high],
        "guards": [asdict(guard) for guard in guards],
        "topic": gap,
        "kl": [after.kl, after.kl_stderr],
        "votes": reports[-1].total_votes if reports else 0,
        "answers_read": sum(report.answers_read for report in reports),
        "panel": str(parts.panel),
        "setup": {} if parts.base is None else dict(parts.base.subspace.report),
        "nearest": asked.describe_nearest(*near) if near else "",
        "taught": "" if lesson is None else str(lesson),
        "last_pairs": "" if last is None else last.line,
        "texts": [
            {"prompt": p.text, "before": b.text, "after": a.text}
            for p, b, a in list(zip(shown, *spoken, strict=True))[:3]
        ],
        "seconds": {
            "setup": ready - began,
            "before": measured - ready,
            "tuning": tuned - measured,
            "after": done - tuned,
            "all": done - began,
        },
        "machine": measure_machine(),
    }


def make_evaluation_rows(
    before: heldout.Measurement,
    after: heldout.Measurement,
    reward: str,
    gained: tuple[float, float, float],
) -> list[dict[str, str]]:
    """The two measurements as rows of the report's table."""
    mean, low, high = gained
    values: list[tuple[str, float, float, str]] = [
        (f"mean {reward}", before.rewards.mean(), after.rewards.mean(),
         f"{mean:+.3f}, 95 % [{low:+.3f}, {high:+.3f}]"),
        ("log-probability per token under the base", before.logprob, after.logprob, ""),
        ("distinct-2", before.distinct2, after.distinct2, ""),
        ("tokens per answer", before.tokens, after.tokens, ""),
        ("KL to the start, nats per answer", before.kl, after.kl, f"± {after.kl_stderr:.2f}"),
    ]  # fmt: skip
    if before.margin is not None and after.margin is not None:
        name = f"own prompt over the best of {after.others} others, nats (median)"
        share = f"{after.margin / before.margin:.0%} of the base's" if before.margin > 0 else ""
        values.append((name, before.margin, after.margin, share))
    return [
        {
            "name": name,
            "before": f"{a:.3f}",
            "after": f"{b:.3f}",
            "change": change or f"{b - a:+.3f}",
        }
        for name, a, b, change in values
    ]


def run_seed(study: Study, spec: Spec) -> dict[str, Any]:
    """Run one seed with the configuration in its spec; its ledger is in the study's folder."""
    path = study.folder / "ledgers" / f"{hash_spec(spec)}.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}*"):  # files of an unfinished run
        left.unlink()
    found = measure_run(
        Config.model_validate(recorded_tables(spec)), path, say=study.console.print
    )
    gc.collect()  # models are in reference cycles; without this each seed would leave one
    return found


def main(
    seeds: Sequence[int] = SEEDS,
    reward: Sequence[str] = ("sentiment",),
    folder: Path = Path("runs/bench-demo"),
    sets: Sequence[str] = (),
    preset: str = "demo",
) -> dict[str, Any]:
    """Held-out gain over seeds, for one or more rewards with no other setting changed."""
    study = Study("demo", folder)
    results: dict[str, Any] = {}
    for name in reward:
        specs = []
        for seed in seeds:
            # Each seed has its own set-up, so that intervals over seeds cover the set-up's effect.
            own = [f"run.seed={seed}", f"subspace.setup_seed={seed}", f"panel.reward={name}"]
            config = settings_file.load(preset_name=preset, sets=[*own, *sets])
            specs.append({"reward": name, "config": config.model_dump(mode="json")})
        rows = study.cells(name, specs, partial(run_seed, study))
        study.table(f"held-out {name}, before and after", rows, COLUMNS)
        gained = interval([row["gain"] for row in rows])
        mean, low, high = gained["mean"], gained["low"], gained["high"]
        over = f", 95 % over seeds [{low:+.3f}, {high:+.3f}]" if len(rows) > 1 else ", one seed"
        study.console.print(f"{name}: mean gain {mean:+.3f}{over}", markup=False)
        loads = [row["machine"]["load"] for row in rows]
        product = [1000 * row["machine"]["matrix_seconds"] for row in rows]
        study.console.print(
            f"machine load {min(loads):.1f} to {max(loads):.1f}, 1024³ fp32 product "
            f"{min(product):.0f} to {max(product):.0f} ms"
        )
        results[name] = {"rows": rows, "mean": mean, "interval": [low, high]}
    return results


def _guard(name: str) -> Callable[[Mapping[str, Any]], str]:
    def mark(row: Mapping[str, Any]) -> str:
        for guard in row["guards"]:
            if guard["name"] == name:
                return f"{guard['value']:+.2f}{'' if guard['ok'] else ' !'}"
        return "–"

    return mark


COLUMNS: Final[Mapping[str, Any]] = {
    "seed": "seed",
    "before": number("before", ".3f"),
    "after": number("after", ".3f"),
    "gain": number("gain", "+.3f"),
    "95 % over prompts": lambda row: "[{:+.3f}, {:+.3f}]".format(*row["interval"]),
    **dict(zip(("Δ log p/token", "distinct-2", "length", "topic"),
               map(_guard, text_guards.NAMES), strict=True)),
    "KL": lambda row: f"{row['kl'][0]:.1f}",
    "votes": "votes",
    "read": "answers_read",
    "minutes": lambda row: f"{row['seconds']['all'] / 60:.1f}",
}  # fmt: skip
"""Columns of the table, which has one line per seed: gain, interval, guards, cost."""
