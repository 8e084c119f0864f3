"""The command ``szpo baseline``: a gradient method on a run's votes, a file's, or fresh ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from szpo import configfile
from szpo.cli import place, plugins, screen
from szpo.cli.start import PRESET, SETS
from szpo.config import Config
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.baselines.methods import Ground
    from szpo.baselines.types import Asked, Cost, Meter, Moment, OnStep, Score
    from szpo.types import Prompt

METHODS = "dpo, simpo, iterative-dpo, reward-model, ppo, grpo, rloo, self-rewarding, notebook-dpo"


@dataclass(frozen=True)
class Fresh:
    """How fresh votes are asked for."""

    votes: int
    rows: int | None


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("baseline")(baseline)


def baseline(
    method: str = typer.Argument(..., help=f"One of: {METHODS}."),
    file: Path | None = typer.Argument(None, help="Settings file (model, prompts, panel)."),
    run: str | None = typer.Option(
        None, "--run", help="Learn from this run's votes, on its model, adapter and prompts."
    ),
    pairs: Path | None = typer.Option(None, "--pairs", help="Learn from this preference file."),
    kind: str = typer.Option("trl", "--from", help="Format of --pairs; see szpo pairs --help."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Ask the panel of the settings about answers of the model."
    ),
    votes: int = typer.Option(200, "--votes", min=1, help="Votes of --fresh."),
    rows: int = typer.Option(
        1, "--rows", min=1, help="Rows of a vote of --fresh; 1: on single answers."
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
    out: Path | None = typer.Option(
        None, "--out", help="Folder to write; left out: baselines/METHOD."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Root of all draws of the method."),
    preset: str | None = PRESET,
    sets: list[str] = SETS,
    folder: Path = place.FOLDER,
    as_json: bool = screen.AS_JSON,
) -> None:
    """Train by a gradient method on the same votes; save a PEFT adapter (docs/baselines.md)."""
    from szpo.baselines import methods

    changed = dict(_setting(text) for text in recipe)
    how = methods.recipe(method, changed)  # refused before a model is loaded
    _check(method, run, pairs, fresh, score, reward)
    target = out or Path("baselines") / method
    if method != "self-rewarding":  # which goes on where it stopped
        place.fresh(target)
    if run is not None:
        if method == "notebook-dpo":
            raise UsageError("notebook-dpo has an adapter of its own; give --pairs")
        ground = _of_run(run, folder, method)
    else:
        config = configfile.load(file, preset_name=preset, sets=_sets(method, sets))
        ask = Fresh(votes, None if rows == 1 else rows) if fresh else None
        ground = _of_settings(config, method, pairs, kind, ask, seed)
    if score is not None or reward is not None:
        ground = replace(ground, score=_score(ground, score, reward))
    with _shown(method) as on_step:
        outcome = methods.run(method, ground, changed, folder=target, seed=seed, on_step=on_step)
    if method == "reward-model" and outcome.rewards is not None:
        outcome.rewards.save(target)
    else:
        ground.actor.save_adapter(target)
        if outcome.rewards is not None:
            outcome.rewards.save(target / "reward-model")
    done = outcome.trained
    document = {
        "method": method, "recipe": asdict(how), "seed": seed, "pairs": done.pairs,
        "ties": done.ties, "steps": len(done.log), "cost": asdict(done.cost),
        "model": ground.actor.loaded.name, "base_sha256": ground.actor.loaded.sha256,
        "last": dict(done.log[-1]) if done.log else {}, "folder": str(target),
    }  # fmt: skip
    text = json.dumps({**document, "log": [dict(x) for x in done.log]}, indent=1, default=str)
    (target / "baseline.json").write_text(text + "\n", encoding="utf-8")
    if done.remark:
        screen.warn(f"{method}: {done.remark}")
    if as_json:
        screen.emit(document)
        return
    screen.say(f"{method}: {done.pairs} pairs, {done.ties} ties, {len(done.log)} steps")
    judged = sum(figures.get("judgements", 0.0) for figures in done.log)
    if judged:
        read = sum(x.get("parsed", 0.0) * x.get("judgements", 0.0) for x in done.log)
        screen.say(
            f"{read / judged:.0%} of its {judged:.0f} judgements had a score; what they are worth "
            "is what the model is worth as a judge (a small one only runs the machinery)"
        )
    screen.say(cost_line(done.cost))
    screen.say(f"wrote {target}")
    if method != "reward-model":
        screen.say(f"  szpo run --set model.adapter={target}  # a run that begins there")


def cost_line(cost: Cost) -> str:
    """What a method spent, in one line."""
    return (
        f"cost: {cost.votes:,} votes, {cost.answers_read:,} answers read, "
        f"{cost.tokens_generated:,} tokens generated, {cost.seconds:.1f} s, "
        f"peak {cost.peak_bytes / 2**30:.2f} GiB"
    )


# --- where the votes come from -----------------------------------------------------------------


def _check(
    method: str, run: str | None, pairs: Path | None, fresh: bool, score: Any, reward: Any
) -> None:
    """Refuse what does not go together, before anything is loaded."""
    given = [name for name, on in (("--run", run), ("--pairs", pairs), ("--fresh", fresh)) if on]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are different votes; give one of them")
    scored = method in ("ppo", "grpo", "rloo")
    if (score or reward) and not scored:
        raise UsageError(f"{method} learns from no score; leave --score and --reward away")
    if score and reward:
        raise UsageError("--score and --reward are two rewards; give one of them")
    if not given and not (score or reward) and method != "self-rewarding":
        more = ", or a --score" if scored else ""
        raise UsageError(f"{method} learns from votes: give --run, --pairs or --fresh{more}")


def _of_run(name: str, folder: Path, method: str) -> Ground:
    """A recorded run: its model at the start, its sites, its votes; its panel where it asks."""
    from szpo import assemble
    from szpo.baselines import methods
    from szpo.baselines.actor import Actor
    from szpo.baselines.asking import JudgesAsk
    from szpo.baselines.ledgerpairs import recorded
    from szpo.baselines.types import Asked
    from szpo.ledger import Ledger

    path = place.find(name, folder)
    asks = method == "iterative-dpo"
    with Ledger.open(path) as ledger:
        found = recorded(ledger)
        if not found.pairs and not asks:
            why = (
                f"all {found.ties} comparisons were ties"
                if found.ties
                else "it has no counted votes in a closed step"
            )
            raise UsageError(f"{path.name}: no pair to learn from: {why}")
        parts = assemble.reopen(ledger, until=0, panel=asks, say=screen.complain)
    if parts.base is None:
        raise UsageError(f"{path.name}: {parts.config.model.name} is no language model")
    policy = parts.language
    actor = Actor.beside(
        parts.base.loaded, parts.base.subspace, sampling=policy.asking.sampling,
        engine=policy.engine,
    )  # fmt: skip
    prompts = parts.prompts.train or tuple(dict.fromkeys(p.prompt for p in found.pairs))

    def votes(meter: Meter) -> Asked:
        meter.votes += found.cost.votes
        meter.answers_read += found.cost.answers_read
        return Asked(found.pairs, found.ties)

    ask = JudgesAsk(tuple(parts.panel.judges)) if parts.panel is not None else None
    return methods.Ground(actor, tuple(prompts), votes, ask)


def _of_settings(
    config: Config, method: str, pairs: Path | None, kind: str, fresh: Fresh | None, seed: int
) -> Ground:
    """A model by settings, with the pairs of a file, fresh votes of its panel, or none."""
    from szpo import assemble, language
    from szpo.baselines import methods
    from szpo.baselines.actor import Actor
    from szpo.baselines.asking import JudgesAsk, question
    from szpo.baselines.types import Asked

    if fresh is not None and method == "notebook-dpo":
        raise UsageError("notebook-dpo has an adapter of its own; give --pairs")
    if fresh is not None:
        parts = assemble.build(config, say=screen.complain)
        policy = parts.language
        if parts.base is None or parts.panel is None:
            raise UsageError("people answer in a run; take its votes with --run")
        actor = Actor.beside(
            parts.base.loaded, parts.base.subspace, sampling=policy.asking.sampling,
            engine=policy.engine,
        )  # fmt: skip
        ask = JudgesAsk(tuple(parts.panel.judges))
        prompts = tuple(parts.prompts.train)

        def asked(meter: Meter) -> Asked:
            return question(actor, prompts, ask, fresh.votes, fresh.rows, meter, seed)

        return methods.Ground(actor, prompts, asked, ask)
    from szpo.baselines import notebook
    from szpo.preferences import files

    read = None if pairs is None else files.read(pairs, kind)
    lora = notebook.lora() if method == "notebook-dpo" else None
    plain = language.plain(config, screen.complain, lora)
    actor = Actor(plain.loaded, plain.sites, plain.start, sampling=plain.sampling, seed=seed)
    if read is None:
        return methods.Ground(actor, _prompts(config))
    given = Asked(read.pairs, read.ties)
    unique = tuple(dict.fromkeys(pair.prompt for pair in read.pairs))
    return methods.Ground(actor, unique, lambda meter: given)


def _prompts(config: Config) -> tuple[Prompt, ...]:
    """The training prompts of the settings."""
    from szpo import prompts

    chosen = config.prompts
    if chosen.path is None:
        found = prompts.shipped()
    else:
        found = prompts.load(chosen.path, heldout=chosen.heldout)
    return tuple(found.with_system(chosen.system).train)


def _sets(method: str, sets: list[str]) -> list[str]:
    """The settings, after those of the notebook where its recipe is meant."""
    if method != "notebook-dpo":
        return sets
    from szpo.baselines import notebook

    return [
        f"model.quantization={notebook.QUANTIZATION}",
        f"model.dtype={notebook.DTYPE}",
        *sets,
    ]


def _score(ground: Ground, text: str | None, folder: Path | None) -> Score:
    """A reward by its text, or the reward model of a folder."""
    if folder is not None:
        from szpo.baselines import reward_model

        return reward_model.load(folder, ground.actor.loaded)
    found = plugins.load("szpo.rewards", "parse", "reader of rewards")(
        text, logprob=ground.actor.logprob_base
    )

    def scored(prompts: Any, answers: Any) -> list[float]:
        return [float(found.score(p, a)) for p, a in zip(prompts, answers, strict=True)]

    return scored


def _setting(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise UsageError(f"--recipe {text!r} is not field=value")
    return name.strip(), value.strip()


@contextmanager
def _shown(method: str) -> Iterator[OnStep]:
    """A progress bar on stderr with the loss or reward of the last step."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"),
        console=screen.errors,
    ) as bar:  # fmt: skip
        task = bar.add_task(method, total=None, said="")

        def on_step(moment: Moment) -> None:
            names = [n for n in ("loss", "reward", "kl") if n in moment.figures]
            said = ", ".join(f"{n} {moment.figures[n]:.3f}" for n in names)
            bar.update(task, completed=moment.step, total=moment.of, said=said)

        yield on_step
