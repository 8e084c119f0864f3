"""The command ``szpo baseline``: trains a model by a gradient method.

The method learns from the votes of a run or file, from fresh votes, a score, or examples.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo import plugins
from szpo.baselines import NAMES, SCORED, recipes
from szpo.cli import console, run_paths
from szpo.cli.data import FIRST, SKIP_BAD, name_bad
from szpo.cli.run_paths import PRESET, SETS
from szpo.config import settings_file
from szpo.data import text_files
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.baselines.actor import Actor
    from szpo.baselines.asking import Meter, Moment, OnStep, Score
    from szpo.baselines.registry import Inputs
    from szpo.config.schema import Config
    from szpo.data.preference_formats import Preferences
    from szpo.runs.assemble import RunParts
    from szpo.types import Prompt


FRESH_VOTES = 200
"""Votes of ``--fresh`` without ``--votes``; iterative-dpo has its own number."""

FROM_EXAMPLES = ("self-rewarding", "sft")
"""Methods that learn from good answers."""


@dataclass(frozen=True)
class Arguments:
    """The command's arguments on what to learn from; None, False or empty: not given."""

    method: str
    run: str | None
    pairs: Path | None
    fresh: bool
    score: str | None
    reward: Path | None
    examples: Path | None
    kind: str | None
    first: int | None
    skip_bad: bool
    votes: int | None
    rows: int | None
    file: Path | None
    preset: str | None
    sets: tuple[str, ...]

    @property
    def reads_votes(self) -> bool:
        """Whether the method needs existing votes to learn from."""
        asks_nobody = self.method in ("iterative-dpo", *FROM_EXAMPLES)
        return not (asks_nobody or self.score or self.reward)


def check(args: Arguments, recipe: Any, folder: Path) -> Config:
    """Refuse arguments that do not go together, or name nothing, before a library is loaded.

    Returns the settings; those of notebook-dpo change the notebook's own.
    """
    method, scored = args.method, args.method in SCORED
    sources = (("--run", args.run), ("--pairs", args.pairs), ("--fresh", args.fresh))
    given = [name for name, on in sources if on]
    rewards = [name for name in ("--score", "--reward") if getattr(args, name[2:])]
    reward = "".join(rewards[:1])
    changing = (("FILE", args.file), ("--preset", args.preset), ("--set", args.sets))
    idle = [name for name, value in changing if value]
    more = ", or a --score" if scored else ""
    refused = (
        (len(given) > 1, f"{' and '.join(given)} are different votes; give one of them"),
        (rewards and not scored, f"{method} learns from no score; leave out --score and --reward"),
        (len(rewards) > 1, "--score and --reward are two rewards; give one of them"),
        (rewards and args.fresh,
         f"{method} with {reward} asks nobody; leave out --fresh or {reward}"),
        (method == "notebook-dpo" and args.pairs is None,
         "notebook-dpo has its own adapter and takes no run's; give --pairs"),
        (method == "iterative-dpo" and not (args.run or args.fresh),
         "iterative-dpo asks while it trains; give --fresh or --run"),
        (method == "self-rewarding" and args.fresh,
         "self-rewarding judges itself and asks nobody; leave out --fresh"),
        (method not in FROM_EXAMPLES and args.examples,
         f"{method} learns from no examples; leave out --examples"),
        (method == "sft" and (args.examples is None or args.pairs or args.fresh),
         "sft learns from good answers alone: give --examples, and no votes"),
        (not given and args.reads_votes,
         f"{method} learns from votes: give --run, --pairs or --fresh{more}"),
        (args.run is not None and idle,
         f"--run has its own settings; leave out {' and '.join(idle)}"),
        *((on and not there, f"{name} goes with {other}; give both or neither")
          for name, on, other, there in (
            ("--from", args.kind is not None, "--pairs", args.pairs),
            ("--first", args.first is not None, "--pairs", args.pairs),
            ("--skip-bad", args.skip_bad, "--pairs", args.pairs),
            ("--votes", args.votes is not None, "--fresh", args.fresh),
            ("--rows", args.rows is not None, "--fresh", args.fresh),
        )),
        (args.fresh and any("D" in settings_file.parse_assignment(text).get("optimizer", {})
                            for text in args.sets),
         "--fresh asks on --rows; give that in place of --set optimizer.D"),
    )  # fmt: skip
    for wrong, message in refused:
        if wrong:
            raise UsageError(message)
    if args.run is not None:
        run_paths.find(args.run, folder)
    for path in filter(None, (args.pairs, args.examples)):
        text_files.inspect_file(path, "preference file")
    if args.score is not None:
        plugins.read_reward(args.score, lambda *_: 0.0)
    implied = [f"optimizer.D={args.rows or getattr(recipe, 'rows', None) or 1}"] * args.fresh
    if method == "notebook-dpo":
        implied += [f"model.quantization={recipes.NOTEBOOK_QUANTIZATION}",
                    f"model.dtype={recipes.NOTEBOOK_DTYPE}"]  # fmt: skip
    config = settings_file.load(args.file, preset_name=args.preset, sets=[*implied, *args.sets])
    if args.run is None:
        from szpo.runs import run_engine

        run_engine.check_files(config)
    return config


def share_votes(args: Arguments, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Divide ``--votes`` among the rounds of iterative-dpo; returns the changed recipe fields."""
    plan, found = recipes.make("iterative-dpo", settings), dict(settings)
    if args.rows is not None and "rows" in settings and args.rows != (plan.rows or 1):
        raise UsageError(
            f"--rows {args.rows} and --recipe rows={settings['rows']} differ; give one of them"
        )
    if args.votes is None:
        return found
    each = args.votes // plan.rounds
    if not each:
        raise UsageError(
            f"--votes {args.votes} is less than one a round; give {plan.rounds} or more"
        )
    if "questions" in settings and each != plan.questions:
        raise UsageError(
            f"--votes {args.votes} in {plan.rounds} rounds is {each} questions a round, but "
            f"--recipe questions={plan.questions} differs; give one of them"
        )
    if left := args.votes % plan.rounds:
        console.warn(
            f"{left} of {args.votes} votes are not used: {plan.rounds} rounds have {each} each"
        )
    return {**found, "questions": each}


def prepare(args: Arguments, recipe: Any, config: Config, folder: Path, seed: int) -> Inputs:
    """Load the method's inputs; nobody is asked for a vote before the method runs.

    ``args`` passed `check`. ``config``: the settings, unless a run has its own. ``seed``: of the
    draws for fresh votes.
    """
    from szpo.data import preference_files

    if args.reward is not None:
        from szpo.baselines import reward_model

        reward_model.read_facts(args.reward)
    examples = preference_files.read_examples(args.examples) if args.examples is not None else ()
    if args.run is not None:
        inputs = _load_run(args, args.run, folder)
    elif args.fresh:
        inputs = _load_fresh(args, config, seed)
    else:
        inputs = _load_plain(args, recipe, config, seed)
    if args.score is not None or args.reward is not None:
        inputs = replace(inputs, score=_load_score(inputs, args.score, args.reward))
    return replace(inputs, examples=examples)


def _load_run(args: Arguments, name: str, folder: Path) -> Inputs:
    """Load a recorded run: its model at θ₀, its votes, and its panel if the method asks it."""
    from szpo.baselines import registry
    from szpo.baselines.asking import JudgesAsk, Meter, read_recorded_pairs
    from szpo.baselines.trainer import require_pairs
    from szpo.ledger.database import Ledger
    from szpo.runs import assemble

    path = run_paths.find(name, folder)
    with Ledger.open(path) as ledger:
        spent = Meter()
        data = read_recorded_pairs(ledger, spent)
        if args.reads_votes:
            require_pairs(data, args.method)
        asks = args.method == "iterative-dpo"
        parts = assemble.reopen(ledger, until=0, panel=asks, say=console.complain)
    actor = _actor(parts)
    prompts = parts.prompts.train or tuple(dict.fromkeys(p.prompt for p in data.pairs))

    def votes(meter: Meter) -> Preferences:
        meter.votes += spent.votes
        meter.answers_read += spent.answers_read
        return data

    ask = JudgesAsk(tuple(parts.panel.judges)) if parts.panel is not None else None
    return registry.Inputs(actor, tuple(prompts), votes, ask, rows=parts.config.optimizer.D)


def _load_fresh(args: Arguments, config: Config, seed: int) -> Inputs:
    """Load the settings' model and panel; the panel is fitted to questions of ``--rows`` rows."""
    from szpo.baselines import registry
    from szpo.baselines.asking import JudgesAsk, Survey, ask_round
    from szpo.runs import assemble

    rows = config.optimizer.D
    parts = assemble.build(config, say=console.complain)
    if parts.panel is None:
        raise UsageError(
            "--fresh cannot ask people; let them vote in a run, then give it by --run"
        )
    actor, ask = _actor(parts), JudgesAsk(tuple(parts.panel.judges))
    prompts = tuple(parts.prompts.train)
    survey = Survey(prompts, ask, args.votes or FRESH_VOTES, None if rows == 1 else rows, seed)

    def votes(meter: Meter) -> Preferences:
        return ask_round(survey, actor, meter)

    return registry.Inputs(actor, prompts, votes, ask, rows=rows)


def _actor(parts: RunParts) -> Actor:
    """A run's model at its start, with adapters on the run's sites, else on its settings'."""
    from szpo.baselines.actor import Actor
    from szpo.policies import language_model

    policy = parts.language
    if not policy.subspace.sites:  # without coordinates, and nothing was adopted
        plain = language_model.place(policy.held, parts.config)
        return Actor(
            plain.loaded, plain.sites, plain.start, sampling=plain.sampling, engine=policy.engine
        )
    return Actor.beside(
        policy.held, policy.subspace, sampling=policy.sampling, engine=policy.engine
    )


def _load_plain(args: Arguments, recipe: Any, config: Config, seed: int) -> Inputs:
    """Load the settings' model, with the pairs of a file or without votes."""
    from szpo.baselines import dpo, registry
    from szpo.baselines.actor import Actor
    from szpo.baselines.trainer import require_pairs
    from szpo.data import preference_files
    from szpo.data.preference_formats import Preferences
    from szpo.policies import language_model

    given = Preferences(())
    if args.pairs is not None:
        given = preference_files.read(
            args.pairs, args.kind, first=args.first, skip_bad=args.skip_bad
        )
        name_bad(given)
        if args.reads_votes:
            require_pairs(given, args.method)
    asked = _choose_prompts(
        args, recipe, config, tuple(dict.fromkeys(p.prompt for p in given.pairs))
    )
    lora = dpo.notebook_lora() if args.method == "notebook-dpo" else None
    plain = language_model.load_plain(config, console.complain, lora)
    actor = Actor(plain.loaded, plain.sites, plain.start, sampling=plain.sampling, seed=seed)
    return registry.Inputs(actor, asked, None if args.pairs is None else lambda meter: given)


def _choose_prompts(
    args: Arguments, recipe: Any, config: Config, unique: tuple[Prompt, ...]
) -> tuple[Prompt, ...]:
    """Choose the prompts that the model answers: those of the pairs' file, or of the settings."""
    from szpo.baselines import registry, self_rewarding
    from szpo.data import prompts
    from szpo.models import loading

    if args.method == "sft" or (
        args.pairs is not None and args.method in (*registry.OFFLINE, "reward-model")
    ):
        return unique
    reader, new = loading.load_reader(config.model.name), config.generation.max_new_tokens
    chosen = (
        prompts.PromptSet(unique, ()) if args.pairs else prompts.load_configured(config.prompts)
    )
    found = loading.fit_prompts(chosen, reader, new)
    if args.method == "self-rewarding":
        self_rewarding.require_room(reader, found.train, new, recipe)
    for warning in found.warnings:
        console.warn(warning)
    return found.train


def _load_score(inputs: Inputs, text: str | None, folder: Path | None) -> Score:
    """Load a reward by its name, or a reward model from a folder."""
    if folder is not None:
        from szpo.baselines import reward_model

        return reward_model.load(folder, inputs.actor.loaded)
    found = plugins.read_reward(text, inputs.actor.logprob_base)

    def score_all(prompts: Any, answers: Any) -> list[float]:
        return [float(found.score(p, a)) for p, a in zip(prompts, answers, strict=True)]

    return score_all


def baseline(
    method: str = typer.Argument(..., help=f"One of: {', '.join(NAMES)}."),
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
        False, "--fresh", help="Let the settings' panel vote on the model's answers."
    ),
    votes: int | None = typer.Option(
        None,
        "--votes",
        min=1,
        help=f"Votes of --fresh; default: {FRESH_VOTES}, or iterative-dpo's own number.",
    ),
    rows: int | None = typer.Option(
        None,
        "--rows",
        min=1,
        help="Pairs in a vote of --fresh; the panel is fitted to them; default: 1.",
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
        None, "--examples", help="For sft, and M1 of self-rewarding: prompts with good answers."
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
    """Train by a gradient method on the same votes; save a PEFT adapter."""
    changed: dict[str, Any] = dict(_setting(text) for text in recipe)
    args = Arguments(
        method, run, pairs, fresh, score, reward, examples, kind, first, skip_bad, votes, rows,
        file, preset, tuple(sets),
    )  # fmt: skip
    target = out or Path("baselines") / method
    how = recipes.make(method, changed)
    config = check(args, how, folder)
    if method == "iterative-dpo":
        changed = share_votes(args, changed)
    if method != "self-rewarding":  # it resumes where it stopped
        run_paths.free(target)
    from szpo.baselines import registry
    from szpo.voting.applied_step import plain

    registry.require_extra(method, scored=bool(score or reward))
    console.doing(f"loading what {method} begins with")
    stand = prepare(args, how, config, folder, seed)
    console.doing(f"{method}: reading votes or writing answers")
    outcome = registry.run(
        method, stand, changed, folder=target, seed=seed, on_step=_show_progress(method)
    )
    if method == "reward-model" and outcome.rewards is not None:
        outcome.rewards.save(target)
    else:
        stand.actor.save_adapter(target)
        if outcome.rewards is not None:
            outcome.rewards.save(target / "reward-model")
    done = outcome.trained
    document = {
        "method": method, "recipe": outcome.recipe.model_dump(), "seed": seed,
        "demonstrations" if method == "sft" else "pairs": done.pairs,
        "ties": done.ties, "steps": len(done.log), "cost": asdict(done.cost),
        "model": stand.actor.loaded.name, "base_sha256": stand.actor.loaded.sha256,
        "last": dict(done.log[-1]) if done.log else {}, "folder": str(target),
    }  # fmt: skip
    whole = plain({**document, "log": done.log})
    text = json.dumps(whole, indent=1, default=str)
    (target / "baseline.json").write_text(text + "\n", encoding="utf-8")
    if done.remark:
        console.warn(f"{method}: {done.remark}")
    if as_json:
        console.emit(document)
        return
    learned = f"{console.count(done.pairs, 'pair')}, {console.count(done.ties, 'tie')}"
    if method == "sft":
        learned = f"{done.pairs} of {console.count(len(stand.examples), 'demonstration')}"
    console.say(f"{method}: {learned}, {console.count(len(done.log), 'step')}")
    judged = sum(figures.get("judgements", 0.0) for figures in done.log)
    if judged:
        read = sum(x.get("parsed", 0.0) * x.get("judgements", 0.0) for x in done.log)
        console.say(
            f"{read / judged:.0%} of its {judged:.0f} judgements had a score; they are as good "
            "as the model is as a judge (a small one only shows that the software runs)"
        )
    cost = done.cost
    console.say(
        f"cost: {console.count(cost.votes, 'vote')}, {cost.answers_read:,} answers read, "
        f"{cost.tokens_generated:,} tokens generated, {cost.seconds:.1f} s, "
        f"peak {cost.peak_bytes / 2**30:.2f} GiB"
    )
    console.say(f"wrote {target}")
    if method != "reward-model":
        there = shlex.join(
            ["--set", f"model.name={stand.actor.loaded.name}", "--set", f"model.adapter={target}"]
        )
        console.say(f"  szpo run {there}  # a run that begins there")


def _setting(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise UsageError(f"--recipe {text}: write it as field=value, for example beta=0.2")
    return name.strip(), value.strip()


def _show_progress(method: str) -> OnStep:
    """Tell on the progress line the step and its loss, reward or KL."""

    def on_step(moment: Moment) -> None:
        names = [n for n in ("loss", "reward", "kl") if n in moment.figures]
        figures = ", ".join(f"{n} {moment.figures[n]:.3f}" for n in names)
        console.doing(f"{method}: step {moment.step} of {moment.of}, {figures}")

    return on_step
