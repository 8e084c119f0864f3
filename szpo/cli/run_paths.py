"""Options of many commands; find runs by name or file, and check paths before they are written."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from szpo.cli import console
from szpo.config import settings_file
from szpo.errors import StorageError, UsageError
from szpo.files import quoted
from szpo.ledger.database import Ledger
from szpo.runs import setup_progress

if TYPE_CHECKING:
    from szpo.config.schema import Config

CLUSTER = typer.Option(
    None,
    "--cluster",
    min=1,
    help="Only the votes of this group of panelists, as szpo taste --several numbers them.",
)
OF_CLUSTER = typer.Option(
    None, "--features", help="With --cluster: the features that --several had."
)
RUNS: Final = Path("runs")
"""Where runs lie unless a folder is named."""
FOLDER = typer.Option(RUNS, "--folder", help="Folder of the runs.")
FOLDER_OF_NEW = typer.Option(
    None, "--folder", help="Folder of the runs; default: runs, for a new run its run.folder."
)
TRUST = typer.Option(
    [],
    "--trust",
    help="Of a run that began elsewhere: an address on its record (judge, workers) that it may "
    "call with your key; may be repeated.",
)
SETS = typer.Option([], "--set", help="Change one setting: section.key=value; may be repeated.")
PRESET = typer.Option(
    None, "--preset", help=f"Start from a preset: {', '.join(settings_file.presets())}."
)
RUN = typer.Argument(None, help="Name or file of a run; without it, the newest one.")


def require_cluster(cluster: int | None, features: str | None) -> None:
    """Refuse features of clusters without a cluster."""
    if features and cluster is None:
        raise UsageError("--features goes with --cluster; give both or neither")


def files(folder: Path) -> list[Path]:
    """The ledgers of a folder, newest first."""
    if not folder.is_dir():
        return []
    return sorted(folder.glob("*.db"), key=lambda path: path.stat().st_mtime, reverse=True)


def find(run: str | None, folder: Path | None) -> Path:
    """The ledger with this name or path; without one, the newest in ``folder``, None: `RUNS`."""
    folder = folder or RUNS
    known = files(folder)
    if run is None and (new := setup_progress.at_work(folder)):
        raise UsageError(
            f"{setup_progress.describe(new[-1])}; try again when that is done, or name another run"
        )
    if run is None:
        if not known:
            raise UsageError(f"no runs in {folder}; start one with: szpo run --preset tiny")
        return known[0]
    direct = Path(run)
    if direct.is_file():
        return direct
    named = folder / f"{direct.name}.db"
    if direct.name == run and named.is_file():
        return named
    for place in (direct, Path(f"{run}.db"), named):
        if busy := setup_progress.describe(place):
            raise UsageError(f"{busy}; try again when that is done")
    close = difflib.get_close_matches(run, [path.stem for path in known], n=1)
    hint = f'did you mean "{close[0]}"?' if close else "list them with: szpo show --all"
    raise UsageError(f"no run {run} (looked for that file and for {named}); {hint}")


def find_target(
    run: str | None, folder: Path | None, preset: str | None, sets: Sequence[str]
) -> tuple[Path, Config | None]:
    """A run's file, and the settings if the run is new; ``run`` may be a settings file.

    A new run lies in ``folder``, or as its settings say where that is None.
    """
    is_file = bool(run) and str(run).endswith(".toml")
    if not (is_file or preset or sets):
        return find(run, folder), None
    if run and not is_file:
        raise UsageError(f"run {run} keeps its settings; leave out --preset and --set")
    from szpo.runs import assemble

    config = _load(folder, Path(str(run)) if is_file else None, preset, sets)
    return assemble.new_path(config), config


def folder_of(
    folder: Path | None, file: Path | None, preset: str | None, sets: Sequence[str]
) -> Path:
    """The folder in which `find_target` puts a new run of these settings."""
    return Path(_load(folder, file, preset, sets).run.folder)


def _load(
    folder: Path | None, file: Path | None, preset: str | None, sets: Sequence[str]
) -> Config:
    given = [] if folder is None else [f"run.folder={folder}"]
    return settings_file.load(file, preset_name=preset, sets=[*sets, *given])


def look(path: Path) -> Ledger:
    """Open a run's file for reading, and warn if acknowledged events are missing from it."""
    ledger = Ledger.open(path, readonly=True)
    try:
        if lacks := ledger.check_end()[0]:
            console.warn(f"{path}: {lacks}; see: szpo verify {quoted(path)}")
    except BaseException:
        ledger.close()
        raise
    return ledger


def free(path: Path) -> Path:
    """Check that a path is free or an empty folder, and can be written; makes no folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise StorageError(f"{path} exists; give another --out, or remove it first")
    there = next(each for each in path.absolute().parents if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise StorageError(f"{path} cannot be written, since {there} is no folder that can be")
    return path


def fresh(path: Path) -> Path:
    """Check as `free`, and make the parent folders."""
    free(path).parent.mkdir(parents=True, exist_ok=True)
    return path
