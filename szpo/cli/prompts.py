"""Commands about prompts: let the model invent more prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from szpo import files, seeds
from szpo.cli import console, run_paths
from szpo.cli.run_paths import PRESET, SETS
from szpo.errors import RunError, UsageError
from szpo.types import Answer, Prompt

prompts = typer.Typer(no_args_is_help=True, add_completion=False, help="Prepare prompts.")
prompts.callback()(lambda: None)  # makes it a group, with one command


@prompts.command()
def grow(
    source: Path = typer.Argument(..., help="Your own prompts, as for prompts.path."),
    out: Path | None = typer.Option(
        None, "--out", help="File for the invented prompts, one a line; default: NAME-more.txt."
    ),
    count: int = typer.Option(40, "--count", "-n", min=1, help="How many prompts to invent."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of all draws."),
    preset: str | None = PRESET,
    sets: list[str] = SETS,
    as_json: bool = console.AS_JSON,
) -> None:
    """Let the model of the settings invent prompts like your own; near copies are left out."""
    from szpo.baselines.actor import Actor
    from szpo.config import settings_file
    from szpo.data import invented_prompts
    from szpo.data import prompts as prompt_files
    from szpo.policies import language_model

    out = out or source.with_name(f"{source.stem}-more.txt")
    if out.suffix != ".txt":
        raise UsageError(f"{out.name}: prompts are written as .txt, a line each")
    read = prompt_files.load(source, heldout=0.0)
    config = settings_file.load(None, preset_name=preset, sets=sets)
    language_model.check_files(config)
    run_paths.fresh(out)
    plain = language_model.load_plain(config, console.complain)
    actor = Actor(
        plain.loaded,
        plain.sites,
        plain.start,
        sampling=replace(plain.sampling, whole_sentences=False),
    )

    def ask(requests: Sequence[Prompt], number: int) -> list[Answer]:
        key = seeds.as_seed(seeds.derive(seed, "invented answers", step=number))
        return [answer for (answer,) in actor.sample(requests, 1, seed=key)]

    own = [prompt.text for prompt in (*read.train, *read.heldout)]
    texts, counts = invented_prompts.invent(own, count, ask, seed=seed)
    asked, copies, unreadable = counts.values()
    if not texts:
        raise RunError(
            f"{source}: none of {asked} answers is a new prompt: {copies} near "
            f"copies, {unreadable} unreadable or cut; take a model that follows instructions"
        )
    with files.write_whole(out) as draft:
        draft.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    console.answer(
        as_json,
        {"texts": len(texts), **counts, "file": str(out)},
        f"wrote {len(texts)} prompts to {out}, from {asked} answers: {copies} "
        f"near copies and {unreadable} unreadable or cut ones left out",
        "read them, and add those that you want to your own",
    )
