"""Commands about the machine: doctor, fetch, bench."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import typer

from szpo import plugins
from szpo.cli import console, plugin_commands, run_paths
from szpo.errors import UsageError
from szpo.runs import file_check
from szpo.runs import machine_check as checks

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("doctor")(doctor)
    app.command("fetch")(fetch)
    app.command("bench", context_settings=PASS_ON)(bench)


def doctor(
    run: str | None = typer.Argument(None, help="Also look at this run (name or file)."),
    folder: Path = typer.Option(Path("runs"), "--folder", help="Where runs will be kept."),
    as_json: bool = console.AS_JSON,
) -> int:
    """Look at this machine (versions, disk, memory, known traps), and at a run if one is named."""
    found = checks.examine(folder)
    if run is not None:
        found += file_check.examine(run_paths.find(run, folder))
    worst = any(check.status == "fail" for check in found)
    if as_json:
        console.emit([check.as_dict() for check in found])
    else:
        console.table(
            ("", "check", "found"),
            [({"ok": "ok", "warn": "!", "fail": "✗"}[c.status], c.name, c.text) for c in found],
        )
        warnings = sum(check.status == "warn" for check in found)
        failures = sum(check.status == "fail" for check in found)
        console.say(f"{failures} will not work, {warnings} with a trap")
    return 1 if worst else 0


def fetch(
    name: str = typer.Argument("smollm2", help="smollm2, tiny, or a hub id (owner/name)."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Make a model ready before the first run; says what it will do before doing it."""
    from szpo.models import loading

    model_folder = loading.fetch(name, say=console.complain if as_json else console.say)
    if as_json:
        console.emit({"model": name, "folder": str(model_folder)})


def bench(context: typer.Context) -> int:
    """Run a benchmark that is installed: szpo bench NAME [OPTIONS]; without a name, list them."""
    name, *rest = context.args or ["--help"]
    known = plugins.names("szpo.benches")
    if name in {"--help", "-h", "--list"}:
        console.say("szpo bench NAME [--json] [OPTIONS]; szpo bench NAME --help tells its own")
        console.table(("name", "from"), [(n, e.value.split(":")[0]) for n, e in known.items()])
        return 0
    if name.startswith("-"):
        raise UsageError(f"szpo bench {name}: the benchmark's name comes first")
    target = plugins.load("szpo.benches", name, "benchmark")
    options = [argument for argument in rest if argument != "--json"]
    if "--json" not in rest:
        plugin_commands.call_with_options(target, f"szpo bench {name}", options)
        return 0
    with contextlib.redirect_stdout(sys.stderr):  # its tables, so that stdout is JSON alone
        found = plugin_commands.call_with_options(target, f"szpo bench {name}", options)
    console.emit(found)
    return 0
