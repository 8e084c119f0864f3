"""The command that answers prompts with a mix of adapters, by hand: answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo import files, plugins
from szpo.cli import console, run_paths
from szpo.config import settings_file
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.runs.mixes import Mixer


def answer(
    run: str | None = typer.Argument(
        None,
        help="Name or file of a run in adapters, a set's folder, or the name of a set that ships; "
        "default: newest run.",
    ),
    mix: str | None = typer.Option(
        None, "--mix", help='Nats of each adapter, such as "positive in tone=1.2, commas=-.5".'
    ),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="Ask this; may be repeated."),
    prompts: int = typer.Option(
        3, "--prompts", min=1, help="How many held-out prompts, without --prompt."
    ),
    page: bool = typer.Option(
        False, "--page", help="Mix on a page instead: sliders, two mixes side by side."
    ),
    port: int = typer.Option(7862, "--port", help="Port of the page; 0: a free one."),
    sets: list[str] = typer.Option(
        [], "--set", help="With a set: section.key=value, such as model.name; may be repeated."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the answers."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Let the start and a mix of adapters answer the same prompts with the same random numbers.

    A number says how many nats that adapter alone costs, a negative one against its name. They do
    not add up: the whole mix's KL to the start is measured and told.
    """
    if mix is None and not page:
        raise UsageError('give --mix "NAME=NATS, …", or --page for sliders')
    wanted = {} if mix is None else read_mix(mix)
    with _open(run, folder, sets) as mixer:
        own = mixer.encode(prompt)
        if page:
            console.doing("")
            plugins.load("szpo.pages", "mix", "page")(mixer, wanted, prompt, folder, port)
            return
        asked = own or mixer.heldout[:prompts]
        if not asked:
            raise UsageError("there are no held-out prompts here; ask your own with --prompt")
        console.doing(f"writing answers to {len(asked)} prompts, and measuring the mix")
        weights = mixer.move_to(wanted)
        before = mixer.answer(asked, seed=seed, base=True)
        after = mixer.answer(asked, seed=seed)
        kl, error = mixer.kl(asked, seed=seed)
    document: dict[str, Any] = {
        "mix": wanted, "kl": kl, "kl_stderr": error, "weights": weights,
        "answers": [
            {"prompt": each.text, "start": one.text, "mix": two.text}
            for each, one, two in zip(asked, before, after, strict=True)
        ],
    }  # fmt: skip
    lines = [f"this mix: {kl:.2f} ± {error:.2f} nats from the start, measured"]
    for row in document["answers"]:
        lines += ["", row["prompt"]]
        lines += [f"  {side:>5}  {' '.join(row[side].split())}" for side in ("start", "mix")]
    console.answer(as_json, document, *lines)


def read_mix(text: str) -> dict[str, float]:
    """Nats by name from a text such as "positive in tone=1.2, commas=-.5".

    >>> read_mix("positive in tone=1.2, commas=-.5")
    {'positive in tone': 1.2, 'commas': -0.5}
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
                '"positive in tone=1.2, commas=-.5"'
            )
        found[name.strip()] = nats
    return found


@contextmanager
def _open(run: str | None, folder: Path, sets: list[str]) -> Iterator[Mixer]:
    """The mixer of a run, or of a set under the sampling that it was made for."""
    from szpo.models import adapter_sources
    from szpo.runs import mixes

    place = None if run is None else adapter_sources.shipped(run) or files.expand(run)
    if place is not None and place.is_dir():
        own = [
            f"subspace.adapters={json.dumps([run])}",
            *_sampling(adapter_sources.read_set(place)),
        ]
        yield mixes.of_set(settings_file.load(sets=[*own, *sets]), console.complain)
        return
    if sets:
        raise UsageError("--set goes with a set's folder; a run keeps its settings")
    with run_paths.look(run_paths.find(run, folder)) as ledger:
        yield mixes.of_run(ledger, console.complain)


def _sampling(document: Mapping[str, Any]) -> list[str]:
    named = document.get("sampling", {})
    return [f"generation.{name}={json.dumps(value)}" for name, value in named.items()]
