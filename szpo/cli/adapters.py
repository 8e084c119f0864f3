"""Commands of adapters: make them for features or a taste; answer by a mix of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from szpo import files, memory
from szpo.cli import console, inspect, run_paths
from szpo.cli import taste as tastes
from szpo.cli.run_paths import PRESET, SETS
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import RunError, UsageError
from szpo.features import user_features
from szpo.files import quoted
from szpo.runs import assemble, run_engine

if TYPE_CHECKING:
    from szpo.improvement.aims import Aim
    from szpo.runs.other_weights import Mixer


SAMPLING: Final = {"temperature": "0.7", "max_new_tokens": "48", "whole_sentences": "true"}
"""Generation settings of a set, where neither preset nor --set names others."""

ANSWERS: Final = 512
"""Answers of the base that a set is made from."""

adapters = typer.Typer(no_args_is_help=True, add_completion=False, help="Make sets of adapters.")
adapters.callback()(lambda: None)  # makes it a group, with one command


@adapters.command()
def make(
    folder: Path | None = typer.Argument(
        None, help="Folder of the set; default: one for this model in szpo's cache."
    ),
    of: list[str] = typer.Option(
        [],
        "--of",
        help='What an adapter is for: a feature of szpo taste --list ("fewer commas", '
        "sentiment), fluency, or a reward as panel.reward takes it; NAME = FEATURE names it; "
        "may be repeated. Default: sixteen usual ones.",
    ),
    taste: list[str] = typer.Option(
        [],
        "--taste",
        help="What an adapter is for: a taste on file (taste.json), or the name of a run; NAME = "
        "FILE names it; may be repeated.",
    ),
    yes: bool = tastes.YES,
    model: str | None = typer.Option(None, "--model", help="As --set model.name=MODEL."),
    nats: float = typer.Option(3.0, "--nats", help="How far each may go from the base, in nats."),
    answers: int = typer.Option(
        ANSWERS,
        "--answers",
        min=64,
        help="Answers of the base: a score counts within their range.",
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of all draws."),
    preset: str | None = PRESET,
    sets: list[str] = SETS,
    feature: list[str] = tastes.FEATURE,
    runs: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Train one LoRA adapter for each named feature, reward or taste, without further votes.

    An interrupted command goes on where it was. Adapters that are there are not made again, and
    others in the folder stay in the set.
    """
    require_nats(nats)
    config = settings(preset, [*([f"model.name={model}"] if model else []), *sets])
    tiny = config.model.name == "tiny"
    liked = {text: tastes.load(user_features.split(text)[1], runs, feature) for text in taste}
    from szpo.improvement import aims

    usual = () if liked else aims.USUAL_TINY if tiny else aims.USUAL
    wanted = aims.read(
        of or usual, [aims.of_taste(text, found, feature) for text, found in liked.items()]
    )
    make_set(
        config, wanted, folder=folder, nats=nats, answers=answers, seed=seed, yes=yes,
        as_json=as_json,
    )  # fmt: skip


def require_nats(nats: float) -> None:
    """Refuse a budget that no adapter is made for."""
    if not 0.05 <= nats <= 20:
        raise UsageError(f"--nats {nats:g}: give 0.05 to 20; 1.5 to 3 can be seen and stay fluent")


def make_set(
    config: Config, wanted: Sequence[Aim], *, folder: Path | None, nats: float, yes: bool,
    as_json: bool, answers: int = ANSWERS, seed: int = 0,
) -> None:  # fmt: skip
    """Make what is missing of a set, and tell what came of it; see `make`."""
    from szpo.data import prompts as prompt_files
    from szpo.improvement import adapter_set
    from szpo.models import adapters
    from szpo.policies import language_model

    config = run_engine.choose_device(config)
    chosen = assemble.fit_prompts(config, prompt_files.load_configured(config.prompts)).train
    making = adapter_set.Making(nats=nats, answers=answers, seed=seed)
    adapter_set.split_prompts(chosen, seed)  # refused before the model is loaded
    for aim in wanted:
        if aim.taste is not None:
            tastes.ask(aim.taste, yes)
    began = time.monotonic()
    rows: list[tuple[Any, Mapping[str, Any]]] = []
    progress = console.stages("adapters", as_json=as_json)
    progress("loading the model", 0, 0)
    host = language_model.load_host(config, adapter=False)
    target = folder or adapters.made_here(host.facts.identity.files.sha256)
    maker = adapter_set.SetMaker(host, config, chosen, wanted, making, target, progress)
    there = maker.read_set()["adapters"]
    with adapter_set.holding(target):
        for aim, entry in maker.make():
            rows.append((aim, entry))
            if why := entry.get("why"):
                console.warn(f"no adapter {aim.name}: {why}")
    made = [entry for _, entry in rows if "folder" in entry]
    if not made:
        raise RunError("no adapter could be made; the lines above say why")
    minutes, peak = (time.monotonic() - began) / 60, memory.peak_bytes() / 2**30
    if as_json:
        console.emit({"folder": str(target), "minutes": minutes, "peak_gib": peak,
                      "adapters": made})  # fmt: skip
        return
    _show(made)
    new = [entry for entry in made if entry not in there]
    scored = sum(entry["answers"] for entry in new) + answers
    console.say(
        f"{len(new)} made in {target}: {minutes:.1f} minutes, peak {peak:.2f} GiB, some "
        f"{scored:,} scored answers, none read by anybody"
        if new
        else f"nothing to make: {target} has all {len(made)} already"
    )
    if len(adapters.read_set(target)["adapters"]) < adapters.FEWEST:
        console.say(
            f"next: make another in {target}, or name it beside a set: "
            f'subspace.adapters = ["SET", "{target}"]; a mix takes {adapters.FEWEST} or more'
        )
        return
    console.say(f'next: szpo answer {quoted(target)} --mix "NAME=1"')
    if (taken := adapters.find_set(host.facts.identity.files.sha256)) not in (None, str(target)):
        console.say(
            f"a run takes the set {taken} unless told: --set 'subspace.adapters=[\"{target}\"]'"
        )


def settings(preset: str | None, sets: list[str]) -> Config:
    """The settings of a set, with `SAMPLING` where they do not say how to generate."""
    given = settings_file.load(None, preset_name=preset, sets=sets)
    said = given.generation.model_fields_set
    own = [f"generation.{name}={value}" for name, value in SAMPLING.items() if name not in said]
    config = settings_file.load(None, preset_name=preset, sets=[*own, *sets])
    if config.model.adapter is not None:
        raise UsageError("a set's adapters begin at the base model; leave out model.adapter")
    if not config.engine.is_local:
        raise UsageError("adapters are made in this process; set engine.kind to local")
    run_engine.check_files(config)
    return config


def _show(made: list[Mapping[str, Any]]) -> None:
    """Print what each adapter reaches, and what else it moves by a fifth of a spread or more."""
    console.table(
        ("adapter", "before", "after", "nats", "guards that fail", "seconds"),
        [
            (
                entry["name"], round(entry["before"], 3), round(entry["after"], 3),
                f"{entry['nats']:.2f} ± {entry['nats_stderr']:.2f}",
                ", ".join(g["name"].split()[0] for g in entry["guards"] if not g["ok"]) or "none",
                round(entry["seconds"]),
            )
            for entry in made
        ],
    )  # fmt: skip
    console.say("\nwhat else they move, in spreads of the base's answers:")
    for entry in made:
        far = sorted(entry["others"].items(), key=lambda each: -abs(each[1]))
        named = ", ".join(f"{name} {gap:+.1f}" for name, gap in far if abs(gap) >= 0.2)
        console.say(f"  {entry['name']}: {named or 'nothing by .2 or more'}")


def answer(
    run: str | None = typer.Argument(
        None,
        help="Name or file of a run in adapters, a set's folder, or the name of a set that ships; "
        "default: newest run.",
    ),
    mix: str | None = typer.Option(
        None, "--mix", help='Nats of each adapter, such as "positive tone=1.2, commas=-.5".'
    ),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="Ask this; may be repeated."),
    prompts: int = typer.Option(
        3, "--prompts", min=1, help="How many held-out prompts, without --prompt."
    ),
    best_of: int = tastes.BEST_OF,
    liked: str | None = tastes.LIKED,
    feature: list[str] = tastes.FEATURE,
    sets: list[str] = typer.Option(
        [], "--set", help="With a set: section.key=value, such as model.name; may be repeated."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the answers."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Let the start and a mix of adapters answer the same prompts with the same random numbers.

    With --best-of and without --mix: the start and a run's tuned policy, as szpo sample does;
    without a run, with --taste FILE and --set model.name=NAME, that model alone.
    A number says how many nats that adapter alone costs, a negative one against its name. They do
    not add up: the whole mix's KL to the start is measured and told.
    """
    if liked is not None and best_of < 2:
        raise UsageError("--taste goes with --best-of N; give both")
    if best_of > 1 and mix is None and not sets:
        inspect.sample(
            run, prompt, prompts, samples=1, completions=None, out=None, best_of=best_of,
            liked=liked, feature=feature, seed=seed, folder=folder, as_json=as_json,
        )  # fmt: skip
        return
    if mix is None:
        if best_of > 1 and run is None and liked is not None:
            inspect.best_of_base(
                liked, sets, prompt, prompts, best_of=best_of, feature=feature, seed=seed,
                folder=folder, as_json=as_json,
            )  # fmt: skip
            return
        raise UsageError(
            'give --mix "NAME=NATS, …", the adapters to mix; a run\'s tuned policy answers with '
            "--best-of 8, or in szpo sample"
        )
    wanted = read_mix(mix)
    judge = None
    if best_of > 1:
        judge = tastes.load(liked or str(run_paths.find(run, folder)), folder, feature)
    with _open(run, folder, sets, wanted) as mixer:
        asked = mixer.encode(prompt) or mixer.heldout[:prompts]
        if not asked:
            raise UsageError("there are no held-out prompts here; ask your own with --prompt")
        console.doing(
            f"writing answers to {console.count(len(asked), 'prompt')}, and measuring the mix"
        )
        weights = mixer.move_to(wanted)
        before = mixer.answers(asked, best_of, seed=seed, base=True)
        after = mixer.answers(asked, best_of, seed=seed)
        kl, error = mixer.kl(asked, seed=seed)
    document: dict[str, Any] = {
        "mix": wanted, "kl": kl, "kl_stderr": error, "weights": weights,
        "answers": [
            {
                "prompt": each.text, "start": one[0].text, "mix": two[0].text,
                **({} if judge is None else {
                    f"{side}, best of {best_of}": tastes.best(
                        judge, mixer.policy, each, many, one, feature
                    ).text
                    for side, many in (("start", one), ("mix", two))
                }),
            }
            for each, one, two in zip(asked, before, after, strict=True)
        ],
    }  # fmt: skip
    lines = [f"this mix: {kl:.2f} ± {error:.2f} nats from the start, measured"]
    for row in document["answers"]:
        lines += ["", row["prompt"]]
        sides = [*row][1:]
        width = max(map(len, sides))
        lines += [f"  {side:>{width}}  {' '.join(row[side].split())}" for side in sides]
    console.answer(as_json, document, *lines)


def read_mix(text: str) -> dict[str, float]:
    """Nats by name from a text such as "positive tone=1.2, commas=-.5".

    >>> read_mix("positive tone=1.2, commas=-.5")
    {'positive tone': 1.2, 'commas': -0.5}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = part.rpartition("=")
        try:
            nats = float(number)
        except ValueError:
            nats = float("nan")
        if not sign or not abs(nats) <= 100 or name.strip() in found:
            raise UsageError(
                f"--mix: {part.strip()!r} is not NAME=NATS, each name once, up to 100 nats; write "
                '"positive tone=1.2, commas=-.5"'
            )
        found[name.strip()] = nats
    return found


@contextmanager
def _open(
    run: str | None, folder: Path, sets: list[str], wanted: Mapping[str, float]
) -> Iterator[Mixer]:
    """The mixer of a run, or of a set under the sampling that it was made for."""
    from szpo.models import adapters
    from szpo.policies import subspaces

    place = None if run is None else adapters.shipped(run) or files.expand(run)
    if place is not None and place.is_dir():
        own = adapters.settings_of_set(place, str(run))
        config = settings_file.load(sets=[*own, *sets])
        subspaces.require_named(wanted, [each.name for each in adapters.find([str(run)])])
        run_engine.check_files(config)
        from szpo.runs import other_weights

        yield other_weights.mixer_of_set(config, console.complain)
        return
    if sets:
        raise UsageError(
            "--set goes with a set's folder, and none lies here; a run keeps its settings"
        )
    with run_paths.look(run_paths.find(run, folder)) as ledger:
        names = ledger.spec.get("space", {}).get("names")
        if not names:
            raise UsageError("this run has no named adapters to mix; see: szpo adapters --help")
        subspaces.require_named(wanted, names)
        from szpo.runs import other_weights

        yield other_weights.mixer_of_run(ledger, console.complain)
