"""Load what ``szpo baseline`` learns from: recorded or fresh votes, a score, or examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from szpo import plugins
from szpo.cli import console, run_paths
from szpo.cli.data import name_bad
from szpo.config import settings_file
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.baselines.actor import Actor
    from szpo.baselines.costs import Meter
    from szpo.baselines.questions import Preferences, Score
    from szpo.baselines.registry import Inputs
    from szpo.config.schema import Config
    from szpo.runs.assemble import Parts
    from szpo.types import Prompt

VOTES = 200
"""Votes of ``--fresh`` where ``--votes`` is not given; iterative-dpo has its own number."""


@dataclass(frozen=True)
class Wish:
    """The arguments that name what to learn from; None, False or empty: not given."""

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
        """Whether the method learns from votes that are there, and has to have some."""
        asks_nobody = self.method in ("iterative-dpo", "self-rewarding")
        return not (asks_nobody or self.score or self.reward)


def check(wish: Wish) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises:
        UsageError: two arguments exclude each other, or one is without the other it belongs to.
    """
    from szpo.baselines.registry import SCORED

    method, scored = wish.method, wish.method in SCORED
    sources = (("--run", wish.run), ("--pairs", wish.pairs), ("--fresh", wish.fresh))
    given = [name for name, on in sources if on]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are different votes; give one of them")
    if (wish.score or wish.reward) and not scored:
        raise UsageError(f"{method} learns from no score; leave --score and --reward away")
    if wish.score and wish.reward:
        raise UsageError("--score and --reward are two rewards; give one of them")
    if (wish.score or wish.reward) and wish.fresh:
        name = "--score" if wish.score else "--reward"
        raise UsageError(f"{method} with {name} asks nobody; leave --fresh or {name} away")
    if method == "notebook-dpo" and wish.pairs is None:
        raise UsageError("notebook-dpo has an adapter of its own; give --pairs")
    if method == "iterative-dpo" and not (wish.run or wish.fresh):
        raise UsageError("iterative-dpo asks while it trains; give --fresh or --run")
    if method == "self-rewarding" and wish.fresh:
        raise UsageError("self-rewarding judges itself and asks nobody; leave --fresh away")
    if method != "self-rewarding" and wish.examples:
        raise UsageError(f"{method} is fitted to no examples; leave --examples away")
    if not given and wish.reads_votes:
        more = ", or a --score" if scored else ""
        raise UsageError(f"{method} learns from votes: give --run, --pairs or --fresh{more}")
    _demand_company(wish)


def _demand_company(wish: Wish) -> None:
    """Refuse arguments that would be passed over, since another one is or is not there."""
    if wish.run is not None:
        own = (("FILE", wish.file), ("--preset", wish.preset), ("--set", wish.sets))
        if idle := [name for name, value in own if value]:
            raise UsageError(f"--run has its own settings; leave {' and '.join(idle)} away")
    for name, on, other, there in (
        ("--from", wish.kind is not None, "--pairs", wish.pairs),
        ("--first", wish.first is not None, "--pairs", wish.pairs),
        ("--skip-bad", wish.skip_bad, "--pairs", wish.pairs),
        ("--votes", wish.votes is not None, "--fresh", wish.fresh),
        ("--rows", wish.rows is not None, "--fresh", wish.fresh),
    ):
        if on and not there:
            raise UsageError(f"{name} goes with {other}; give both or neither")
    if wish.fresh and any("rows" in _optimizer(text) for text in wish.sets):
        raise UsageError("--fresh asks on --rows; give that in place of --set optimizer.rows")


def _optimizer(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = settings_file.parse_assignment(text).get("optimizer", {})
    return found


def rounds(wish: Wish, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of iterative-dpo's recipe, with ``--votes`` shared among its rounds.

    Raises:
        UsageError: ``--votes`` or ``--rows`` contradicts a field, or pays no question a round.
    """
    from szpo.baselines import registry

    plan, found = registry.recipe("iterative-dpo", settings), dict(settings)
    if wish.rows is not None and "rows" in settings and wish.rows != (plan.rows or 1):
        raise UsageError(
            f"--rows {wish.rows} and --recipe rows={settings['rows']} differ; give one of them"
        )
    if wish.votes is None:
        return found
    each = wish.votes // plan.rounds
    if not each:
        raise UsageError(f"--votes {wish.votes} are less than one in each of {plan.rounds} rounds")
    if "questions" in settings and each != plan.questions:
        raise UsageError(
            f"--votes {wish.votes} in {plan.rounds} rounds are {each} questions a round and "
            f"--recipe questions={plan.questions} differs; give one of them"
        )
    if left := wish.votes % plan.rounds:
        console.warn(f"{left} of {wish.votes} votes do not divide among {plan.rounds} rounds")
    return {**found, "questions": each}


def prepare(wish: Wish, recipe: Any, folder: Path, seed: int) -> Inputs:
    """Load what the method works on; who votes is asked only when it is run.

    Args:
        wish: What to learn from, which `check` let pass.
        recipe: Of the method.
        folder: Of the runs.
        seed: Root of the draws of fresh votes.

    Raises:
        UsageError: a file, a setting or the run cannot be used.
        RunError: the method reads votes, and none of them gives a pair.
    """
    from szpo.data import preference_files

    examples = preference_files.read_examples(wish.examples) if wish.examples is not None else ()
    if wish.run is not None:
        inputs = _of_run(wish, wish.run, folder)
    elif wish.fresh:
        inputs = _fresh(wish, recipe, seed)
    else:
        inputs = _of_settings(wish, recipe, seed)
    if wish.score is not None or wish.reward is not None:
        inputs = replace(inputs, score=_score(inputs, wish.score, wish.reward))
    return replace(inputs, examples=examples)


def _of_run(wish: Wish, name: str, folder: Path) -> Inputs:
    """A recorded run: its model at the start, its sites, its votes; its panel where it asks."""
    from szpo.baselines import registry
    from szpo.baselines.asking import JudgesAsk
    from szpo.baselines.ledger_pairs import read_pairs
    from szpo.baselines.questions import Preferences
    from szpo.baselines.validation import demand_pairs
    from szpo.ledger.database import Ledger
    from szpo.runs import assemble

    path = run_paths.find(name, folder)
    with Ledger.open(path) as ledger:
        found = read_pairs(ledger)
        data = Preferences(found.pairs, found.ties)
        if wish.reads_votes:
            demand_pairs(data, wish.method)
        asks = wish.method == "iterative-dpo"
        parts = assemble.reopen(ledger, until=0, panel=asks, say=console.complain)
    actor = _actor(parts)
    prompts = parts.prompts.train or tuple(dict.fromkeys(p.prompt for p in found.pairs))

    def votes(meter: Meter) -> Preferences:
        meter.votes += found.cost.votes
        meter.answers_read += found.cost.answers_read
        return data

    ask = JudgesAsk(tuple(parts.panel.judges)) if parts.panel is not None else None
    return registry.Inputs(actor, tuple(prompts), votes, ask, rows=parts.config.optimizer.rows)


def _fresh(wish: Wish, recipe: Any, seed: int) -> Inputs:
    """A model by settings, and their panel, fitted to questions of as many rows as are asked."""
    from szpo.baselines import registry
    from szpo.baselines.asking import JudgesAsk, Survey, ask_round
    from szpo.runs import assemble

    rows = wish.rows or getattr(recipe, "rows", None) or 1
    config = _load_settings(wish, f"optimizer.rows={rows}")
    parts = assemble.build(config, say=console.complain)
    if parts.panel is None:
        raise UsageError("people answer in a run; take its votes with --run")
    actor, ask = _actor(parts), JudgesAsk(tuple(parts.panel.judges))
    prompts = tuple(parts.prompts.train)
    survey = Survey(prompts, ask, wish.votes or VOTES, None if rows == 1 else rows, seed)

    def votes(meter: Meter) -> Preferences:
        return ask_round(survey, actor, meter)

    return registry.Inputs(actor, prompts, votes, ask, rows=rows)


def _actor(parts: Parts) -> Actor:
    """The model of a run at its start, on the run's sites."""
    from szpo.baselines.actor import Actor

    policy = parts.language
    return Actor.beside(
        policy.loaded, policy.subspace, sampling=policy.answering.sampling, engine=policy.engine
    )


def _of_settings(wish: Wish, recipe: Any, seed: int) -> Inputs:
    """A model by settings, with the pairs of a file, or without votes."""
    from szpo.baselines import notebook_dpo, registry
    from szpo.baselines.actor import Actor
    from szpo.baselines.questions import Preferences
    from szpo.baselines.validation import demand_pairs
    from szpo.data import preference_files
    from szpo.policies import language_model

    read = None
    if wish.pairs is not None:
        read = preference_files.read(
            wish.pairs, wish.kind or "trl", first=wish.first, skip_bad=wish.skip_bad
        )
        name_bad(read)
    given = Preferences(() if read is None else read.pairs, 0 if read is None else read.ties)
    if read is not None and wish.reads_votes:
        demand_pairs(given, wish.method)
    config = _load_settings(wish)
    asked = _choose_prompts(
        wish, recipe, config, tuple(dict.fromkeys(p.prompt for p in given.pairs))
    )
    lora = notebook_dpo.lora() if wish.method == "notebook-dpo" else None
    plain = language_model.load_plain(config, console.complain, lora)
    actor = Actor(plain.loaded, plain.sites, plain.start, sampling=plain.sampling, seed=seed)
    return registry.Inputs(actor, asked, None if read is None else lambda meter: given)


def _choose_prompts(
    wish: Wish, recipe: Any, config: Config, unique: tuple[Prompt, ...]
) -> tuple[Prompt, ...]:
    """The prompts, those of a file of pairs where there is one, as the method asks them.

    Methods that learn from pairs as they are ask none: they leave out what is too long.

    Raises:
        UsageError: The model is not there, or cannot read a prompt that it is to answer.
    """
    from szpo.baselines import registry, self_rewarding
    from szpo.data import prompt_room, prompts
    from szpo.models import context
    from szpo.policies import language_model

    language_model.check_files(config)
    if wish.pairs is not None and wish.method in (*registry.OFFLINE, "reward-model"):
        return unique
    reader, new = context.load_reader(config.model.name), config.generation.max_new_tokens
    chosen = (
        prompts.PromptSet(unique, ()) if wish.pairs else prompts.load_configured(config.prompts)
    )
    found = prompt_room.fit_prompts(chosen, reader, new, config.prompts.too_long)
    if wish.method == "self-rewarding":
        self_rewarding.demand_room(reader, found.train, new, recipe)
    for warning in found.warnings:
        console.warn(warning)
    return found.train


def _load_settings(wish: Wish, *more: str) -> Config:
    """Load the settings that were given, on top of the notebook's where its recipe is meant."""
    own: list[str] = []
    if wish.method == "notebook-dpo":
        from szpo.baselines import notebook_dpo

        own = [
            f"model.quantization={notebook_dpo.QUANTIZATION}",
            f"model.dtype={notebook_dpo.DTYPE}",
        ]
    sets = [*own, *wish.sets, *more]
    return settings_file.load(wish.file, preset_name=wish.preset, sets=sets)


def _score(inputs: Inputs, text: str | None, folder: Path | None) -> Score:
    """A reward by its text, or the reward model of a folder."""
    if folder is not None:
        from szpo.baselines import reward_model

        return reward_model.load(folder, inputs.actor.loaded)
    found = plugins.load("szpo.rewards", "parse", "reader of rewards")(
        text, logprob=inputs.actor.logprob_base
    )

    def score_all(prompts: Any, answers: Any) -> list[float]:
        return [float(found.score(p, a)) for p, a in zip(prompts, answers, strict=True)]

    return score_all
