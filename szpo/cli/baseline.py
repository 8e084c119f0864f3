"""The command ``szpo baseline``: a gradient method on a run's votes, a file's, or fresh ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szpo.cli import baseline_inputs, console, run_paths
from szpo.cli.data import FIRST, SKIP_BAD
from szpo.cli.run import PRESET, SETS
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.baselines.costs import Cost, Moment, OnStep

METHODS = "dpo, simpo, iterative-dpo, reward-model, ppo, grpo, rloo, self-rewarding, notebook-dpo"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("baseline")(baseline)


def baseline(
    method: str = typer.Argument(..., help=f"One of: {METHODS}."),
    file: Path | None = typer.Argument(None, help="Settings file (model, prompts, panel)."),
    run: str | None = typer.Option(
        None, "--run", help="Train on this run's votes, with its model, adapter and prompts."
    ),
    pairs: Path | None = typer.Option(None, "--pairs", help="Train on this preference file."),
    kind: str | None = typer.Option(
        None, "--from", help="Format of --pairs; default: trl; see szpo pairs --help."
    ),
    first: int | None = FIRST,
    skip_bad: bool = SKIP_BAD,
    fresh: bool = typer.Option(
        False, "--fresh", help="Ask the panel of the settings about answers of the model."
    ),
    votes: int | None = typer.Option(
        None,
        "--votes",
        min=1,
        help=f"Votes of --fresh: {baseline_inputs.VOTES} if left out; "
        "iterative-dpo has its own number.",
    ),
    rows: int | None = typer.Option(
        None,
        "--rows",
        min=1,
        help="Rows of a vote of --fresh, to which the panel is fitted; default: 1.",
    ),
    recipe: list[str] = typer.Option(
        [], "--recipe", help="Change the method's recipe: field=value; may be repeated."
    ),
    score: str | None = typer.Option(
        None, "--score", help="For ppo, grpo, rloo: a reward or verifier, as panel.reward."
    ),
    reward: Path | None = typer.Option(
        None, "--reward", help="For ppo, grpo, rloo: folder of a reward-model."
    ),
    examples: Path | None = typer.Option(
        None, "--examples", help="For self-rewarding: prompts with good answers, to fit M1 to."
    ),
    out: Path | None = typer.Option(
        None, "--out", help="Folder to write; default: baselines/METHOD."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of all draws of the method."),
    preset: str | None = PRESET,
    sets: list[str] = SETS,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Train by a gradient method on the same votes; save a PEFT adapter (docs/baselines.md)."""
    from szpo.baselines import registry

    changed: dict[str, Any] = dict(_setting(text) for text in recipe)
    args = baseline_inputs.Arguments(
        method, run, pairs, fresh, score, reward, examples, kind, first, skip_bad, votes, rows,
        file, preset, tuple(sets),
    )  # fmt: skip
    how = registry.recipe(method, changed)  # refused before a model is loaded
    baseline_inputs.check(args)
    if method == "iterative-dpo":
        changed = baseline_inputs.share_votes(args, changed)
    registry.demand_extra(method, scored=bool(score or reward))
    target = out or Path("baselines") / method
    if method != "self-rewarding":  # which goes on where it stopped
        run_paths.fresh(target)
    stand = baseline_inputs.prepare(args, how, folder, seed)
    with _show_progress(method) as on_step:
        outcome = registry.run(method, stand, changed, folder=target, seed=seed, on_step=on_step)
    if method == "reward-model" and outcome.rewards is not None:
        outcome.rewards.save(target)
    else:
        stand.actor.save_adapter(target)
        if outcome.rewards is not None:
            outcome.rewards.save(target / "reward-model")
    done = outcome.trained
    document = {
        "method": method, "recipe": asdict(outcome.recipe), "seed": seed, "pairs": done.pairs,
        "ties": done.ties, "steps": len(done.log), "cost": asdict(done.cost),
        "model": stand.actor.loaded.name, "base_sha256": stand.actor.loaded.sha256,
        "last": dict(done.log[-1]) if done.log else {}, "folder": str(target),
    }  # fmt: skip
    whole = console.finite({**document, "log": [dict(x) for x in done.log]})
    text = json.dumps(whole, indent=1, default=str)
    (target / "baseline.json").write_text(text + "\n", encoding="utf-8")
    if done.remark:
        console.warn(f"{method}: {done.remark}")
    if as_json:
        console.emit(document)
        return
    console.say(f"{method}: {done.pairs} pairs, {done.ties} ties, {len(done.log)} steps")
    judged = sum(figures.get("judgements", 0.0) for figures in done.log)
    if judged:
        read = sum(x.get("parsed", 0.0) * x.get("judgements", 0.0) for x in done.log)
        console.say(
            f"{read / judged:.0%} of its {judged:.0f} judgements had a score; they are as good "
            "as the model is as a judge (a small one only shows that the software runs)"
        )
    console.say(describe_cost(done.cost))
    console.say(f"wrote {target}")
    if method != "reward-model":
        console.say(f"  szpo run --set model.adapter={target}  # a run that begins there")


def describe_cost(cost: Cost) -> str:
    """Describe in one line what a method spent."""
    return (
        f"cost: {cost.votes:,} votes, {cost.answers_read:,} answers read, "
        f"{cost.tokens_generated:,} tokens generated, {cost.seconds:.1f} s, "
        f"peak {cost.peak_bytes / 2**30:.2f} GiB"
    )


def _setting(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise UsageError(f"--recipe {text!r} is not field=value")
    return name.strip(), value.strip()


@contextmanager
def _show_progress(method: str) -> Iterator[OnStep]:
    """Show a progress bar on stderr with the loss or reward of the last step."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        console=console.errors,
    ) as bar:  # fmt: skip
        task = bar.add_task(method, total=None, figures="")

        def on_step(moment: Moment) -> None:
            names = [n for n in ("loss", "reward", "kl") if n in moment.figures]
            figures = ", ".join(f"{n} {moment.figures[n]:.3f}" for n in names)
            bar.update(task, completed=moment.step, total=moment.of, figures=figures)

        yield on_step
