"""``szpo demo``: a language model's held-out gain from simulated votes, on one screen.

It is a complete run with the same parts as ``szpo run``: set-up, votes through the ledger, and a
held-out measurement before and after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from szpo import metrics, plugins
from szpo.analysis import improvement, measuring, taught_taste
from szpo.cli import console as to_user
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.config.tables import IMPROVE_NATS
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import UsageError
from szpo.files import quoted
from szpo.policies import text_guards
from szpo.policies.text_guards import Guard
from szpo.runs import assemble, setup_progress, status
from szpo.runs.callbacks import as_callback
from szpo.runs.guards import HeldOut, read_held_out
from szpo.types import Answer, Detail, Prompt, Row, Say
from szpo.visible_text import visible
from szpo.voting import applied_step, blind
from szpo_simulators.bench_study import interval, measure_machine
from szpo_simulators.panels import heldout, text_rewards

WIDTH = 96
"""Longest quoted answer, in characters."""
GUIDED = ("subspace.kind=full", "optimizer.D=1", "run.votes=320")
"""Settings of a demo of the rules `known` and `sign`."""
command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


def measure_run(
    config: Config,
    path: Path,
    *,
    say: Say,
    on_step: Callable[[applied_step.StepReport], None],
) -> dict[str, Any]:
    """Tune from votes by ``config`` with the ledger at ``path``; measure before and after.

    Returns:
        A record of JSON values: seed, reward, gain with its paired bootstrap interval, guards,
        votes, answers read, KL, three texts before and after, seconds per phase.
    """
    if config.panel.kind == "people":
        raise UsageError("panel.kind is people; a demo needs bt70, or use: szpo serve --demo")
    began, tell = time.monotonic(), setup_progress.telling(say)
    with closing(assemble.build(config, say=say, progress=tell)) as parts:
        return _measure(parts, path, say, on_step, began)


def _measure(
    parts: assemble.RunParts,
    path: Path,
    say: Say,
    on_step: Callable[[applied_step.StepReport], None],
    began: float,
) -> dict[str, Any]:
    config, policy = parts.config, parts.language
    liked = text_rewards.parse(config.panel.reward, logprob=policy.logprob_base)
    held = parts.prompts.heldout[: config.evaluation.prompts]
    if not held:
        raise UsageError("no prompts are held out to measure on; mark some with split = heldout")
    samples = config.evaluation.samples
    ready = time.monotonic()
    level = heldout.load_or_read(policy, held, samples)
    rows = zip(held, level.answers, strict=True)
    before = np.array([[liked.score(prompt, answer) for answer in row] for prompt, row in rows])
    say(f"held-out {config.panel.reward} before: {before.mean():.3f}")
    measured = time.monotonic()
    with assemble.create_ledger(parts, path) as ledger:
        from szpo import whole_run  # late: it loads torch

        outcome = whole_run.drive(ledger, parts, [as_callback(on_step)], measured=False, say=say)
        tuned = time.monotonic()
        say(
            f"measuring the tuned model on {len(held)} held-out prompts, {samples} answers to each"
        )
        base = measuring.Base(level.figures, before, level.likeliest, heldout.SEED)
        asked = measuring.Measuring(
            ledger, parts, held, samples, frozenset(), liked.score, False, say, base=base
        )
        drawn, kl = measuring.measure_end(asked, outcome.steps, outcome.votes)
        done = time.monotonic()
        pairs = _pair(held, drawn, level.answers)
        measuring.compare_blind(ledger, parts, liked.score, pairs)
        lesson, last = taught_taste.read(ledger), blind.read(ledger)
        helped, found = improvement.read(ledger), read_held_out(ledger)
        total = status.read_results(ledger)
        after = np.array(improvement.measurements(ledger)[outcome.steps]["rewards"])
    assert found is not None, "it was just recorded"
    mean, low, high = metrics.gain(before, after, seed=config.run.root_seed)
    levels = {name: interval(rewards.mean(1).tolist())
              for name, rewards in (("before", before), ("after", after))}  # fmt: skip
    texts = [[answer.text for answer in row] for row in level.answers]
    near = text_rewards.find_nearest(held, texts, before)
    return {
        "seed": config.run.root_seed,
        "reward": config.panel.reward,
        "subspace": config.coordinates,
        "rule": parts.settings.section.rule,
        "outcome": asdict(outcome),
        "before": float(before.mean()),
        "after": float(after.mean()),
        **{f"{name}_interval": [level["low"], level["high"]] for name, level in levels.items()},
        "gain": mean,
        "interval": [low, high],
        "guards": [asdict(guard) for guard in found.guards],
        "topic": found.gap,
        "kl": list(kl),
        "votes": total.votes,
        "answers_read": total.answers_read,
        "panel": str(parts.panel),
        "setup": {} if parts.base is None else dict(parts.base.subspace.report),
        "nearest": text_rewards.describe_nearest(*near) if near else "",
        "taught": "" if lesson is None else str(lesson),
        "last_pairs": "" if last is None else last.line,
        "texts": [
            {"prompt": prompt, "before": start, "after": end}
            for prompt, start, end in helped.before_after[:3]
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


def _pair(
    prompts: Sequence[Prompt], tuned: Sequence[Sequence[Answer]], base: Sequence[Sequence[Answer]]
) -> list[Row]:
    """The answers of both to each prompt in pairs, of other random numbers on either side."""
    apart = heldout.SAMPLES // 2
    return [
        Row(clean_prompt(p), clean_answer(of[j]), clean_answer(start[(j + apart) % len(start)]))
        for j in range(len(tuned[0]))
        for p, of, start in zip(prompts, tuned, base, strict=True)
    ]


@command.command("demo")
def demo(
    seed: int = typer.Option(0, "--seed", help="Seed of every random draw."),
    taste: str = typer.Option(
        "sentiment",
        "--taste",
        help="What the simulated panel likes: no comma, fewer questions, keyword:sea+sun, "
        "regex:^Once, length:12, …",
    ),
    improve: bool = typer.Option(
        False, "--improve", help="Then improve the model on the taste that the votes showed."
    ),
    rule: str = typer.Option(
        "", "--rule", help="A published rule instead: known or sign. Takes 320 votes."
    ),
    preset: str = typer.Option("demo", "--preset", help="Settings to start from."),
    sets: list[str] = typer.Option(
        [], "--set", help="Change one setting: section.key=value; may be repeated."
    ),
    folder: Path = typer.Option(Path("runs"), "--folder", help="Where the run is stored."),
    verbose: bool = typer.Option(False, "-v", help="Show every line of the set-up."),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON document instead of a table."
    ),
) -> int:
    """Tune SmolLM2-135M from simulated votes; measure before and after.

    The exit code is 1 if a guard of fluency, variety or length failed, else 0.
    """
    own = [f"optimizer.rule={rule}", *GUIDED] if rule else []
    sets = [f"run.seed={seed}", f"panel.reward={text_rewards.find_asked(taste)}", *own, *sets]
    sets += [f"improve.nats={IMPROVE_NATS:g}", "improve.when=end"] if improve else []
    config = settings_file.load(preset_name=preset, sets=sets)
    plugins.read_reward(config.panel.reward, lambda *_: 0.0)  # refused before it begins
    path = find_free_path(folder, name := f"demo-{config.run.root_seed}")
    if path.stem != name:
        to_user.complain(
            f"there is a demo of this seed already; this one is {path.stem}. Which were stopped: "
            f"szpo show --all --folder {quoted(folder)}"
        )
    to_user.set_resumable(f"szpo run --resume {quoted(path)}", once=path)
    found = run_demo(config, path, quiet=as_json, verbose=verbose)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        to_user.say("\n".join(describe(found, path)))
    return find_exit_code(found["guards"])


def find_exit_code(guards: Sequence[Mapping[str, Any]]) -> int:
    """0 if the guards of fluency, variety and length held, else 1.

    The guard of the topic does not count: most runs with so few votes fail it.
    """
    return 0 if all(g["ok"] for g in guards if g["name"] != text_guards.TOPIC) else 1


def find_free_path(folder: Path, name: str) -> Path:
    """The first of name.db, name-2.db, … that does not exist; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path, count = folder / f"{name}.db", 1
    while path.exists():
        count += 1
        path = folder / f"{name}-{count}.db"
    return path


def run_demo(config: Config, path: Path, *, quiet: bool, verbose: bool = False) -> dict[str, Any]:
    """Measure, tune and measure again; the progress is told on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    console.print(
        f"demo: model {config.model.name}, {config.run.votes} votes of a simulated panel, "
        f"started at {time.strftime('%H:%M')}\n{config.panel.size} simulated raters say which of "
        "two answers they like better, and szpo is not told why. It learns that from their votes, "
        "moves the model, and compares its answers before and after. (-v shows every setting.)"
    )
    total = config.steps * config.votes_per_step
    tell = to_user.counting("votes", total)

    def say(text: str) -> None:
        stage = text.partition(" on ")[0] if text.startswith(("set-up: ", "measuring ")) else ""
        stage = "improving" if text.startswith("improving: ") else stage
        if stage := "step 0" if text.startswith("held-out ") else stage:
            to_user.doing(stage)
        if verbose or not isinstance(text, Detail):
            console.print(text, markup=False)

    def on_step(step: applied_step.StepReport) -> None:
        note = f"{step.length:.0f} tokens an answer"
        tell(step.total_votes, note)
        if not console.is_terminal:
            console.print(f"step {step.step}: {step.total_votes} of {total} votes, {note}")

    return measure_run(config, path, say=say, on_step=on_step)


def describe(found: dict[str, Any], path: Path) -> list[str]:
    """The result as lines: figures, texts, what votes taught, failed guards, next commands."""
    low, high = found["interval"]
    lines = [
        "",
        f"held-out {found['reward']}   before {_format_level(found, 'before')}   after "
        f"{_format_level(found, 'after')}",
        f"gain {found['gain']:+.3f}, 95 % [{low:+.3f}, {high:+.3f}] (bootstrap over prompts)",
        f"votes {found['votes']}, answers read {found['answers_read']}; {found['panel']}",
        f"KL to the start {found['kl'][0]:.1f} ± {found['kl'][1]:.1f} nats per answer",
    ]
    held = HeldOut((), tuple(Guard(**guard) for guard in found["guards"]), found["topic"])
    lines += held.lines
    for text in found["texts"]:
        before, after = _where_they_differ(text["before"], text["after"])
        lines += ["", visible(text["prompt"]), f"  before  {before}", f"  after   {after}"]
    taste = _describe_taste(found["nearest"], found["taught"], path)
    lines += ["", *filter(None, (*taste, found["last_pairs"]))]
    if held.failure:
        lines += [f"szpo export refuses the adapter: of the guards {held.failure}"]
    seconds, machine = found["seconds"], found["machine"]
    return [
        *lines,
        "",
        f"took {seconds['all'] / 60:.1f} min (set-up {seconds['setup'] / 60:.1f}, tuning "
        f"{seconds['tuning'] / 60:.1f}, measuring "
        f"{(seconds['before'] + seconds['after']) / 60:.1f}) at load {machine['load']:.1f}, "
        f"a 1024 × 1024 fp32 matrix product takes {1000 * machine['matrix_seconds']:.0f} ms",
        "",
        "next:",
        f"  szpo sample {quoted(path)} --best-of 8 -p 'Describe a rainy Monday.'",
        f"  szpo report {quoted(path)}        # one HTML page: curves, samples, votes",
        f"  szpo verify {quoted(path)}        # recompute everything from the votes",
        f"  szpo export {quoted(path)}        # the adapter, for PeftModel.from_pretrained",
        "  szpo init                        # settings for a run of your own",
    ]


def _describe_taste(nearest: str, lesson: str, path: Path) -> tuple[str, str]:
    """The entry nearest to the taste, and what the votes taught, which must not deny it."""
    vague = taught_taste.UNEXPLAINED in lesson
    if nearest.startswith(text_rewards.IS_ENTRY) and (
        vague or any(m in lesson for m in taught_taste.UNNAMED)
    ):
        why = "the votes show a taste, not which" if vague else lesson
        again = f"szpo run --resume {quoted(path)} --votes +40"
        return nearest, f"not found yet: {why}; more votes: {again}"
    return nearest, lesson


def _format_level(found: dict[str, Any], when: str) -> str:
    low, high = found[f"{when}_interval"]
    return f"{found[when]:.3f} [{low:.3f}, {high:.3f}]"


def _where_they_differ(before: str, after: str) -> list[str]:
    """Both texts as lines of `WIDTH` letters that show where they first differ."""
    texts = [visible(" ".join(text.split())) for text in (before, after)]
    differ = (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b)
    shorter = min(map(len, texts)) if texts[0] != texts[1] else 0
    if (at := next(differ, shorter)) > WIDTH // 2:
        begin = max(0, texts[0].rfind(" ", 0, at - WIDTH // 4))
        texts = [f"…{text[begin:]}" for text in texts]
    return [text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…" for text in texts]
