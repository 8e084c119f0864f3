"""Commands about votes as data: runs and preference files in, pairs and ranking tasks out."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from szpo import files, seeds
from szpo.baselines import ledger_pairs
from szpo.cli import console, run_paths
from szpo.data import label_studio, preference_files
from szpo.errors import UsageError

FIRST = typer.Option(None, "--first", min=1, help="Read only this many records of a file.")
SKIP_BAD = typer.Option(
    False, "--skip-bad", help="Leave out records that cannot be used, and name them."
)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("pairs")(pairs)
    app.command("rank")(rank)


def pairs(
    source: str = typer.Argument(..., help="A .jsonl, .jsonl.gz or .json file, or a run."),
    out: Path | None = typer.Option(None, "--out", help="Write the pairs here, as .jsonl."),
    kind: str = typer.Option(
        "trl", "--from", help=f"Format of a file: {', '.join(preference_files.FORMATS)}."
    ),
    first: int | None = FIRST,
    skip_bad: bool = SKIP_BAD,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Read a run's votes or a preference file; write the pairs in TRL's format."""
    path = Path(source)
    if path.suffix.lower() in preference_files.SUFFIXES or (
        path.is_file() and path.suffix != ".db"
    ):
        found = preference_files.read(source, kind, first=first, skip_bad=skip_bad)
        what = "records"
    else:
        with run_paths.look(run_paths.find(source, folder)) as ledger:
            recorded = ledger_pairs.read_pairs(ledger)
        found = preference_files.Preferences(recorded.pairs, recorded.ties, recorded.comparisons)
        what = "comparisons"
    if out is not None:
        if not found.pairs:
            raise UsageError(f"{source}: no pair in it, only {found.ties} ties; nothing written")
        preference_files.write(out, found.pairs)
    if as_json:
        counts = {what: found.records, "pairs": len(found.pairs), "ties": found.ties}
        console.emit({**counts, "bad": list(found.bad), "file": None if out is None else str(out)})
        return
    name_bad(found)
    left_out = f", {len(found.bad)} left out" if found.bad else ""
    wrote = "" if out is None else f"; wrote {out}"
    console.say(
        f"{found.records} {what}: {len(found.pairs)} pairs, {found.ties} ties{left_out}{wrote}"
    )


def name_bad(found: preference_files.Preferences) -> None:
    """Warn of the records that were left out: the first few by line, the rest by number."""
    for reason in found.bad[: preference_files.NAMED]:
        console.warn(f"left out {reason}")
    if len(found.bad) > preference_files.NAMED:
        console.warn(f"left out {len(found.bad) - preference_files.NAMED} more records")


def rank(
    source: Path = typer.Argument(..., help="A .jsonl, .jsonl.gz or .json file."),
    out: Path = typer.Option(..., "--out", help="Folder to write."),
    seed: int = typer.Option(0, "--seed", min=0, help="Draws the order in which answers stand."),
    as_json: bool = console.AS_JSON,
) -> None:
    """Write Label Studio tasks and their page, for people to rank several answers to a prompt."""
    tasks = [
        label_studio.make_task(prompt, answers, key=seeds.derive(seed, "ranking", step=place))
        for place, (prompt, answers) in enumerate(preference_files.read_groups(source))
    ]
    if not tasks:
        raise UsageError(f"{source}: no prompt with two different answers to rank")
    with files.write_whole(out) as draft:
        draft.mkdir()
        text = json.dumps(tasks, ensure_ascii=False, indent=1)
        (draft / "tasks.json").write_text(text, encoding="utf-8")
        (draft / "template.xml").write_text(label_studio.TEMPLATE, encoding="utf-8")
    if as_json:
        console.emit({"tasks": len(tasks), "folder": str(out)})
    else:
        console.say(
            f"wrote {len(tasks)} tasks to {out}; import tasks.json into a Label Studio project "
            "whose labelling interface is template.xml"
        )
