"""`szpo bench all`: run every bench of a known world and draw the documents' figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from szpo.errors import RunError, SzpoError, UsageError
from szpo.plugins import load

NAMES: Final = ("gridworld", "track", "cartpole")
"""The benches; each takes ``quick``, ``folder`` and ``figures``."""
FROZEN: Final = Path("experiments/frozen/gridworld-win.toml")
"""The contest frozen before it was run; only a checkout has it, not an installed package."""


def main(
    quick: bool = False,
    folder: Path = Path("runs/bench-all"),
    figures: Path | None = None,
    only: tuple[str, ...] = (),
    frozen: Path = FROZEN,
) -> dict[str, Any]:
    """Run all benches of known worlds; a bench that cannot run does not stop the others.

    Args:
        quick: Small settings, each bench under a minute.
        folder: Folder with a subfolder for each bench.
        figures: Folder to which the documents' figures are copied, docs/figures in a checkout.
        only: Names of benches to run; all by default.
        frozen: The frozen contest, run after gridworld if this file exists.
    """
    if unknown := [name for name in only if name not in NAMES]:
        raise UsageError(f"all: --only {unknown[0]} is not one of {', '.join(NAMES)}")
    console, took, failed = Console(), dict[str, float](), dict[str, str]()
    wanted: list[tuple[str, dict[str, Path]]] = []
    for name in only or NAMES:
        wanted.append((name, {}))
        if name == "gridworld" and frozen.exists():
            wanted.append((name, {"frozen": frozen}))
    for bench, more in wanted:
        name = f"{bench}-claim" if more else bench
        console.rule(name)
        start = time.perf_counter()
        try:
            run = load("szpo.benches", bench, "bench")
            run(quick=quick, folder=folder / name, figures=figures, **more)
            took[name] = time.perf_counter() - start
        except SzpoError as error:
            failed[name] = str(error)
            console.print(f"{name}: {error}")
    console.print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()))
    if failed:
        raise RunError(f"not run: {', '.join(failed)}; the reasons stand above")
    return {"seconds": took}
