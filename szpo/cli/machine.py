"""Commands before a run: init, doctor, fetch, bench."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin, get_type_hints

import typer

from szpo import plugins
from szpo.cli import console, run_paths
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import SzpoError, UsageError
from szpo.files import quoted

if TYPE_CHECKING:
    from szpo.runs.doctor import Check


def init(
    file: Path = typer.Argument(Path("run.toml"), help="File to write."),
    preset: str | None = run_paths.PRESET,
    sets: list[str] = run_paths.SETS,
    every: bool = typer.Option(False, "--all", help="Write every setting, not only ten."),
    force: bool = typer.Option(False, "--force", help="Overwrite the file."),
) -> None:
    """Write a settings file that explains the ten settings that matter; --all: every one."""
    config = settings_file.load(preset_name=preset, sets=sets)
    if file.exists() and not force:
        raise UsageError(f"{file} exists; overwrite it with --force, or give another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    text = settings_file.to_toml(config, every=every, name=quoted(file))
    file.write_text(text, encoding="utf-8")
    console.say(f"wrote {file}; see what it costs with: szpo run {quoted(file)} --plan")


def doctor(
    run: str | None = typer.Argument(None, help="Also check this run (name or file)."),
    folder: Path = run_paths.FOLDER,
    config: Path | None = typer.Option(
        None, "--config", help="Also check the engine of this settings file; starts its workers."
    ),
    as_json: bool = console.AS_JSON,
) -> int:
    """Check this machine (versions, disk, memory, known traps), and a run if one is named.

    With --config also check the engine: what can be reached, and what a step costs there.
    """
    from szpo.runs import doctor as checks
    from szpo.runs import run_engine

    path = None if run is None else run_paths.find(run, folder)
    settings = None if config is None else settings_file.load(config)
    found = checks.examine_machine(folder)
    if settings is not None:
        found += [*run_engine.examine_engine(settings), *_look_at_questions(settings)]
    if path is not None:
        found += checks.examine_file(path)
    failures, warnings = (sum(c.status == s for c in found) for s in ("fail", "warn"))
    if as_json:
        console.emit([asdict(check) for check in found])
    else:
        console.table(
            ("", "check", "found"),
            [({"ok": "ok", "warn": "!", "fail": "✗"}[c.status], c.name, c.text) for c in found],
        )
        console.say(f"{console.count(failures, 'error')}, {console.count(warnings, 'warning')}")
        if run is None and not failures:
            console.say("next: szpo demo, or with people: szpo serve --preset people")
    return 1 if failures else 0


def _look_at_questions(settings: Config) -> Iterator[Check]:
    """How many questions would show no difference, if stored answers can tell."""
    from szpo.runs import assemble, doctor

    with contextlib.suppress(SzpoError):  # a run reports wrong settings
        found = assemble.warn_of_equal_answers(assemble.check(settings))
        yield from doctor.check_questions(found)


def fetch(
    name: str = typer.Argument("smollm2", help="smollm2, tiny, or a hub id (owner/name)."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Prepare a model before the first run; says what it will do before it starts."""
    from szpo.models import loading

    model_folder = loading.fetch(name, say=console.complain if as_json else console.say)
    named = "" if name == "smollm2" else f" --set model.name={quoted(name)}"
    alone = f"szpo run{named}" if named else "szpo demo"
    text = f"next: {alone}, or with people: szpo serve --preset people{named}"
    console.answer(as_json, {"model": name, "folder": str(model_folder)}, text)


def bench(context: typer.Context) -> int:
    """Run a benchmark that is installed: szpo bench NAME [OPTIONS]; without a name, list them."""
    name, *rest = context.args or ["--help"]
    known = plugins.names("szpo.benches")
    if name in {"--help", "-h", "--list"}:
        console.say("szpo bench NAME [--json] [OPTIONS]; szpo bench NAME --help lists its options")
        console.table(("name", "from"), [(n, e.value.split(":")[0]) for n, e in known.items()])
        return 0
    if name.startswith("-"):
        raise UsageError(
            f"szpo bench {name}: put the benchmark's name first; list them with: szpo bench"
        )
    target = plugins.load("szpo.benches", name, "benchmark")
    options = [argument for argument in rest if argument != "--json"]
    if "--json" not in rest:
        call_with_options(target, f"szpo bench {name}", options)
        return 0
    with contextlib.redirect_stdout(sys.stderr):  # tables go there: stdout is JSON alone
        found = call_with_options(target, f"szpo bench {name}", options)
    console.emit(found)
    return 0


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse in one line, as other commands do."""
        raise UsageError(f"{message} (see: {self.prog} --help)")


def call_with_options(target: Callable[..., Any], name: str, arguments: Sequence[str]) -> Any:
    """Call a typed function with parameters that are read from command-line options.

    Every parameter becomes ``--its-name``, which must be given if there is no default; sequences
    take several values, booleans have a ``--no-`` form. The docstring's first paragraph becomes
    the help, and its "Args" the help of the options.
    """
    doc = inspect.getdoc(target) or ""
    explained = dict(re.findall(r"^    (\w+): (.+)$", doc.partition("\nArgs:\n")[2], re.MULTILINE))
    parser = _Options(prog=name, description=doc.split("\n\n")[0])
    hints = get_type_hints(target)
    for key, parameter in inspect.signature(target).parameters.items():
        option, kind, default = f"--{key.replace('_', '-')}", hints[key], parameter.default
        required = default is parameter.empty
        default = None if required else default
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
            parser.add_argument(option, type=one, default=default, required=required, help=text)
    return target(**vars(parser.parse_args(list(arguments))))
