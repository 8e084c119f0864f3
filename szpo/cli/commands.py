"""The table of commands: group in the help, name, module, and help text.

The help is printed from this table alone; a command's module is loaded when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from szpo import plugins

PASS_ON: Final = {
    "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": [],
}  # fmt: skip
"""Settings of click for commands that parse their own options."""
OTHERS: Final = "Of other packages"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the help: a command's group, its module, and what it does."""

    group: str
    module: str
    """The module in `szpo.cli`; "" for an entry point of `szpo.commands`."""
    help: str


GROUPS: Final = {
    "Begin": (
        ("demo", "", "Tune SmolLM2-135M from simulated votes; measure before and after."),
        ("init", "machine", "Write a settings file that explains what matters; --all: every key."),
        ("fetch", "machine", "Prepare a model before the first run."),
        ("doctor", "machine", "Check this machine, and a run if one is named."),
    ),
    "Run": (
        ("run", "run", "Tune a model from votes; --plan estimates the cost first."),
        (
            "improve",
            "improve",
            "Improve a run's policy on the taste of its votes; nobody is asked.",
        ),
        ("not-about", "run", "Keep the model from following a feature of the answers."),
        ("serve", "", "Serve a run to its panel: voting page, operator's page, model."),
        ("vote", "vote", "Vote in this terminal: begin a run for one person, or join one."),
        ("invite", "", "Make, list and revoke panelists' and operators' links and codes."),
        ("simulate", "", "Answer a run's open comparisons with a simulated panel."),
        ("judge", "judge", "Answer a run's open comparisons with a language model."),
    ),
    "Look": (
        ("runs", "inspect", "List the runs of a folder, newest first."),
        ("show", "inspect", "Show a run's totals and last steps; --voters: voters' weights."),
        ("sample", "inspect", "Let the base and the tuned policy answer the same prompts."),
        ("answer", "answer", "Answer prompts with a mix of adapters, in nats of each."),
        ("report", "inspect", "Write one HTML page: curves, samples, votes, verification."),
        ("compare", "", "Compare runs by their files, or methods by what they cost."),
        ("taste", "taste", "Show what a run's votes like; save it as a file that scores texts."),
        ("score", "taste", "Score answers by a taste."),
        ("features", "features", "Fit how much named features of the answers decide votes."),
        ("clusters", "features", "Test whether the votes come from one taste or from several."),
        ("visualize", "", "Show the posterior over two weights on a page."),
    ),
    "Record": (
        ("verify", "record", "Check every hash, the votes behind each update, the weights."),
        ("backup", "record", "Copy a live run, verified; or --recover what is left of one."),
        ("export", "record", "Write the adapter (PEFT), the merged model or the votes."),
    ),
    "Data and gradient methods": (
        ("pairs", "data", "Read a run's votes or a preference file; write TRL's pairs."),
        ("rank", "data", "Write Label Studio tasks for ranking several answers."),
        ("select", "data", "Choose the pairs of a pool whose answers teach most."),
        ("prompts", "prompts", "Let the model invent prompts like your own: szpo prompts grow."),
        ("adapters", "adapters", "Make adapters for features or rewards: szpo adapters make."),
        ("baseline", "baseline", "Train by a gradient method on the same votes."),
        ("scorer", "judge", "Train a small pair scorer from votes or pairs."),
        ("bench", "machine", "Run a benchmark that is installed, or list them."),
    ),
}
COMMANDS: Final = {
    name: Entry(group, module, text)
    for group, lines in GROUPS.items()
    for name, module, text in lines
}
"""All commands of this project; those of other packages are found by their entry points."""


class Commands(TyperGroup):
    """The group of all commands; it loads only the command that is called."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        for name, entry in {**COMMANDS, **_of_others()}.items():
            self.commands[name] = TyperCommand(
                name, help=entry.help, rich_help_panel=entry.group, rich_markup_mode="rich"
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and load it."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if name is None or found is None else load(name), rest


@cache
def load(name: str) -> Any:
    """Load a command as a click command.

    szpo's own command is the function or group of that name in its module. An entry point of
    ``szpo.commands`` is a typer application, or a function that takes the arguments after the
    command's name, returns an exit code and prints its own help.

    Raises:
        UsageError: something that the command needs is not installed.
    """
    ours = name in COMMANDS and COMMANDS[name].module
    if ours:
        target = getattr(import_module(f"szpo.cli.{ours}"), name.replace("-", "_"))
    else:
        target = plugins.load("szpo.commands", name, "command")
    made = target if isinstance(target, typer.Typer) else typer.Typer(add_completion=False)
    if ours and made is not target:
        made.command(context_settings=PASS_ON if name == "bench" else None)(target)
    elif made is not target:
        made.command(context_settings=PASS_ON)(_make_runner(name, target))
    found = get_command(made)
    found.name = name
    return found


def _of_others() -> dict[str, Entry]:
    """The commands of other packages."""
    return {
        name: Entry(OTHERS, "", f"Command of {entry.value.split(':')[0]}.")
        for name, entry in plugins.names("szpo.commands").items()
        if name not in COMMANDS
    }


def _make_runner(name: str, target: Callable[[list[str]], Any]) -> Callable[[typer.Context], int]:
    def run(context: typer.Context) -> int:
        return int(target(list(context.args)) or 0)

    run.__doc__ = f"Command {name} of another package."
    return run
