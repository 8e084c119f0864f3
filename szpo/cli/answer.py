"""The command that answers prompts with a mix of adapters, by hand: answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo.cli import console, run_paths
from szpo.config import settings_file
from szpo.errors import UsageError

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy
    from szpo.types import Prompt

PROMPTS = 8
"""Prompts on which the mix's own KL is measured."""


def answer(
    run: str | None = typer.Argument(
        None, help="Name or file of a run in adapters, or a set's folder; default: newest run."
    ),
    mix: str = typer.Option(
        ..., "--mix", help='Nats of each adapter, such as "positive in tone=1.2, commas=-.5".'
    ),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="Ask this; may be repeated."),
    prompts: int = typer.Option(
        3, "--prompts", min=1, help="How many held-out prompts, without --prompt."
    ),
    sets: list[str] = typer.Option(
        [], "--set", help="With a set: section.key=value, such as model.name; may be repeated."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the answers."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Let the start and a mix of adapters answer the same prompts with the same random numbers.

    A number says how many nats that adapter alone would cost, a negative one against its name. The
    whole mix's KL to the start is measured and told.
    """
    wanted = read_mix(mix)
    if any(not text.strip() for text in prompt):
        raise UsageError("--prompt is empty; give a question")
    is_set = run is not None and Path(run).expanduser().is_dir()
    if sets and not is_set:
        raise UsageError("--set goes with a set's folder; a run keeps its settings")
    policy, known, own = (
        _of_set(str(run), sets, prompt) if is_set else _of_run(run, folder, prompt)
    )
    asked = own or known[:prompts]
    blocks = policy.subspace.blocks
    if blocks is None:
        raise UsageError("this run's coordinates have no names to mix; see subspace.adapters")
    if not asked:
        raise UsageError("there are no held-out prompts here; ask your own with --prompt")
    policy.move_to({"z": blocks.point(wanted)})
    before = policy.sample(asked, seed=seed, base=True)
    after = policy.sample(asked, seed=seed)
    kl, error = policy.kl(known[:PROMPTS] or asked, seed=seed)
    weights = blocks.weights(policy.theta()["z"])
    document: dict[str, Any] = {
        "mix": wanted, "kl": kl, "kl_stderr": error,
        "weights": dict(zip(blocks.names, weights.tolist(), strict=True)),
        "answers": [
            {"prompt": each.text, "start": one[0].text, "mix": two[0].text}
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


def _of_run(
    run: str | None, folder: Path, texts: list[str]
) -> tuple[LoraPolicy, list[Prompt], list[Prompt]]:
    """The run's policy, its held-out prompts, and the given ones."""
    from szpo.runs import assemble, run_prompts

    with run_paths.look(run_paths.find(run, folder)) as ledger:
        own = run_prompts.own_prompts(ledger, texts)
        parts = assemble.reopen(ledger, panel=False, say=console.complain)
        return parts.language, [*parts.prompts.heldout], [*own]


def _of_set(
    place: str, sets: list[str], texts: list[str]
) -> tuple[LoraPolicy, list[Prompt], list[Prompt]]:
    """The policy at the start in the adapters of a set; their metric is measured or stored."""
    from szpo.data.prompts import PromptSet
    from szpo.policies import language_model
    from szpo.runs import assemble, run_engine, run_prompts
    from szpo.types import Prompt

    config = settings_file.load(sets=[f'subspace.adapters=["{place}"]', *sets])
    found = assemble.check(config)
    asked = tuple(Prompt.user(text, config.prompts.system) for text in texts)
    own = run_prompts.fit(found.config, PromptSet(asked, ())).train if texts else ()
    host = run_engine.load_host(found.config, adapter=True, driven=False)
    base = language_model.prepare(found.config, host, found.prompts.train, console.complain)
    settings = found.config.optimizer_settings(base.subspace.layout, base.subspace.scale)
    policy = language_model.make_policy(found.config, base, settings)
    return policy, [*found.prompts.heldout], [*own]
