"""``szpo demo``: tune a real language model with forty simulated votes.

It measures one seed as ``szpo bench demo`` does, and prints the result on one screen.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from szpo.analysis import taught
from szpo.cli import console as to_user
from szpo.cli import run_paths, terminal
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import SzpoError
from szpo.ledger.database import Ledger
from szpo.optim.rules.regression import BUDGET
from szpo.policies import text_guards
from szpo.training import results
from szpo.types import Detail
from szpo.visible_text import visible
from szpo.voting import step_report
from szpo_simulators.bench.demo import measure_run
from szpo_simulators.panels import asked

WIDTH = 96
"""Longest quoted answer, in characters."""


command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


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
    sets = [f"run.seed={seed}", f"panel.reward={asked.find(taste)}", *sets]
    sets += [f"improve.nats={BUDGET:g}", "improve.when=end"] if improve else []
    config = settings_file.load(preset_name=preset, sets=sets)
    path = find_free_path(folder, f"demo-{config.run.root_seed}")
    if stopped := find_stopped(path, config):
        way_on = f"szpo run --resume {stopped}"
        if not as_json and sys.stdin.isatty():
            if typer.confirm(f"{stopped} was stopped; go on with it?", default=True, err=True):
                return call(["run", "--resume", str(stopped)])
        else:
            to_user.complain(f"{stopped} was stopped; it goes on with: {way_on}")
    if path.stem != f"demo-{config.run.root_seed}":
        to_user.complain(f"there is a demo of this seed already; this one is {path.stem}")
    to_user.set_resumable(f"szpo run --resume {path}", once=path)
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


def find_stopped(new: Path, config: Config) -> Path | None:
    """The last demo with these settings that was stopped; ``new`` is beside it."""
    name, asked = f"demo-{config.run.root_seed}", config.model_dump(mode="json")
    for path in run_paths.files(new.parent):
        if path.stem != name and not path.stem.startswith(f"{name}-"):
            continue
        with contextlib.suppress(SzpoError), Ledger.open(path, readonly=True) as ledger:
            spec = ledger.spec.get("config", {})
            same = all(spec.get(each) == asked[each] for each in ("panel", "improve"))
            same = same and spec["run"].get("votes") == config.run.votes
            if same and results.run_state_of(ledger).startswith("stopped"):
                return path
    return None


def run_demo(config: Config, path: Path, *, quiet: bool, verbose: bool = False) -> dict[str, Any]:
    """Measure, tune and measure again, with a progress bar on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    clock = time.strftime("%H:%M")
    console.print(
        f"demo: model {config.model.name}, {config.run.votes} votes of a simulated panel, "
        f"started at {clock}\n{config.panel.size} simulated raters say which of two answers they "
        "like better, and szpo is not told why. It learns that from their votes, moves the model, "
        "and compares its answers before and after. (-v shows every setting.)"
    )
    bar = terminal.votes_bar(console, live=not quiet)
    total = config.steps * config.votes_per_step
    task = bar.add_task("votes", total=total, note="set-up")

    def say(text: str) -> None:
        stage = text.partition(" on ")[0] if text.startswith(("set-up: ", "measuring ")) else ""
        if stage := "step 0" if text.startswith("held-out ") else stage:
            to_user.doing(stage)
            bar.update(task, note=stage)
        if verbose or not isinstance(text, Detail):
            console.print(text, markup=False)

    def on_step(step: step_report.StepReport) -> None:
        note = f"{step.length:.0f} tokens an answer"
        to_user.doing(f"step {step.step + 1}")
        bar.update(task, completed=step.total_votes, note=note)
        if not console.is_terminal:
            console.print(f"step {step.step}: {step.total_votes} of {total} votes, {note}")

    with bar:
        return measure_run(config, path, say=say, on_step=on_step)


def describe(found: dict[str, Any], path: Path) -> list[str]:
    """The result as lines: figures, texts, next commands, failed guards, what votes taught."""
    low, high = found["interval"]
    lines = [
        "",
        f"held-out {found['reward']}   before {_format_level(found, 'before')}   after "
        f"{_format_level(found, 'after')}",
        f"gain {found['gain']:+.3f}, 95 % [{low:+.3f}, {high:+.3f}] (bootstrap over prompts)",
        f"votes {found['votes']}, answers read {found['answers_read']}; {found['panel']}",
        f"KL to the start {found['kl'][0]:.1f} ± {found['kl'][1]:.1f} nats per answer",
    ]
    lines += [text_guards.Guard(**guard).line() for guard in found["guards"]]
    if found["topic"] is not None:
        lines.append(f"no topic guard: {found['topic']}")
    for text in found["texts"]:
        before, after = _where_they_differ(text["before"], text["after"])
        lines += ["", visible(text["prompt"]), f"  before  {before}", f"  after   {after}"]
    seconds, machine = found["seconds"], found["machine"]
    lines += [
        "",
        f"took {seconds['all'] / 60:.1f} min (set-up {seconds['setup'] / 60:.1f}, tuning "
        f"{seconds['tuning'] / 60:.1f}, measuring "
        f"{(seconds['before'] + seconds['after']) / 60:.1f}) at load {machine['load']:.1f}, "
        f"a 1024 × 1024 fp32 matrix product takes {1000 * machine['matrix_seconds']:.0f} ms",
        "",
        "next:",
        f"  szpo sample {path} -p 'Describe a rainy Monday.'",
        f"  szpo report {path}        # one HTML page: curves, samples, votes",
        f"  szpo verify {path}        # recompute everything from the votes",
        f"  szpo export {path}        # the adapter, for PeftModel.from_pretrained",
        "  szpo init                        # settings for a run of your own",
    ]
    failed = [guard["name"] for guard in found["guards"] if not guard["ok"]]
    if failed:
        lines += ["", f"guard failed: {'; '.join(failed)}"]
    taste = _describe_taste(found["nearest"], found["taught"], path)
    return [*lines, "", *filter(None, (*taste, found["last_pairs"]))]


def _describe_taste(nearest: str, lesson: str, path: Path) -> tuple[str, str]:
    """The entry nearest to the taste, and what the votes taught, which must not deny it."""
    vague = taught.UNEXPLAINED in lesson
    if nearest.startswith(asked.IS_ENTRY) and (vague or any(m in lesson for m in taught.UNNAMED)):
        why = "the votes show a taste, not which" if vague else lesson
        return nearest, f"not found yet: {why}; more votes: szpo run --resume {path} --votes +40"
    return nearest, lesson


def _format_level(found: dict[str, Any], when: str) -> str:
    interval = found.get(f"{when}_interval")
    around = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{found[when]:.3f}{around}"


def _where_they_differ(before: str, after: str) -> list[str]:
    """Both texts as lines of `WIDTH` letters that show where they first differ."""
    texts = [visible(" ".join(text.split())) for text in (before, after)]
    differ = (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b)
    shorter = min(map(len, texts)) if texts[0] != texts[1] else 0
    if (at := next(differ, shorter)) > WIDTH // 2:
        begin = max(0, texts[0].rfind(" ", 0, at - WIDTH // 4))
        texts = [f"…{text[begin:]}" for text in texts]
    return [text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…" for text in texts]
