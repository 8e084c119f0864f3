"""Commands, benchmarks and panels of other packages, loaded by name when asked for."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import typer

from szpo.plugins import load, names

DESCRIPTIONS = {
    "demo": "Tune SmolLM2-135M from a few hundred simulated votes and measure before and after.",
    "compare": "Compare methods on one model and panel by what they cost, or runs by their files.",
    "simulate": "Answer a run's open comparisons with a simulated panel, as an own process.",
    "serve": "Serve a run to its panel: the voting page, the operator's page and the controller.",
    "visualize": "Show a posterior over two weights: drag answers, see what to ask next.",
    "select": "Choose the next pairs of a pool that are worth asking about; take answers back.",
    "invite": "Make, list and revoke panelists' and operators' links and codes.",
}
"""What the commands of this project's own packages do; others are named by where they are from."""


def call_with_options(target: Callable[..., Any], name: str, arguments: Sequence[str]) -> Any:
    """Call a typed function with its parameters read from command-line options.

    Every parameter needs a default and becomes ``--its-name``; sequences take several values,
    booleans have a ``--no-`` form. The first paragraph of the docstring becomes the help, its
    "Args" that of the options.
    """
    doc = inspect.getdoc(target) or ""
    explained = dict(re.findall(r"^    (\w+): (.+)$", doc.partition("\nArgs:\n")[2], re.MULTILINE))
    parser = argparse.ArgumentParser(prog=name, description=doc.split("\n\n")[0])
    hints = get_type_hints(target)
    for key, parameter in inspect.signature(target).parameters.items():
        option, kind, default = f"--{key.replace('_', '-')}", hints[key], parameter.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        words = [explained.get(key, ""), f"(default: {shown})" if shown not in (None, "") else ""]
        text = " ".join(filter(None, words)).replace("%", "%%")
        if kind is bool:
            parser.add_argument(
                option, default=default, action=argparse.BooleanOptionalAction, help=text
            )
        elif get_origin(kind) is not None and isinstance(default, Sequence):
            (item, *_) = get_args(kind)
            parser.add_argument(option, type=item, nargs="*", default=default, help=text)
        else:
            one = next((k for k in get_args(kind) if k is not type(None)), kind)
            parser.add_argument(option, type=one, default=default, help=text)
    return target(**vars(parser.parse_args(list(arguments))))


def register(app: typer.Typer) -> None:
    """Give every entry point of ``szpo.commands`` a command that loads it when called."""
    for name, entry in names("szpo.commands").items():
        app.command(
            name,
            help=DESCRIPTIONS.get(name, f"Command of {entry.value.split(':')[0]}."),
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True,
                              "help_option_names": []},
        )(_runner(name))  # fmt: skip


def _runner(name: str) -> Callable[[typer.Context], int]:
    def run(context: typer.Context) -> int:
        target = load("szpo.commands", name, "command")
        return int(target(list(context.args)) or 0)

    run.__doc__ = f"Command {name} of another package."
    return run
