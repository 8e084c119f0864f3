"""One cell of a comparison in a process of its own: ``python -m szpo_simulators.compare.cell``.

What is asked comes as JSON on stdin, how much is done goes to stdout, and the record appears
whole at the path given, or not at all. A method that cannot go on (it diverged, or nothing was
there to learn from) is a result and is kept; a mistake in what was asked is none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from szpo.errors import RunError, SzpoError
from szpo.files import replace_whole
from szpo.runs import machine_check

VERSION = 1
"""Raise it when what a cell does or counts changes: older records are then not used."""


def run(
    spec: Mapping[str, Any],
    start: Mapping[str, Any] | None = None,
    say: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """What the cell finds, as plain JSON values.

    Args:
        spec: Method, way of asking, seed, settings and all that the cells share.
        start: The measurement that the cell ``base`` found; that cell itself has none.
        say: Told what share is done.

    Raises:
        UsageError: what is asked fits no method or model.
    """
    began = time.monotonic()
    from szpo_simulators.compare import checkpoints, measurements, methods
    from szpo_simulators.compare.shared_setup import base, yardstick

    if start is None:
        return {"elapsed": time.monotonic() - began, **base(spec)}
    tools = measurements.Instruments()
    loaded_bytes = measurements.resident()
    way = checkpoints.Course(yardstick(spec, start), tools, spec["points"], say=say)
    way.still()
    stopped = None
    with tools.counting():
        try:
            more = methods.play(spec, way)
        except RunError as error:
            stopped, more = str(error), {}
    return {
        "elapsed": time.monotonic() - began,
        "course": way.rows,
        "stopped": stopped,
        **more,
        "bytes": {"before": loaded_bytes, "peak": tools.peak()},
        "machine": {"load": os.getloadavg()[0], "matrix_seconds": machine_check.matrix_seconds()},
    }  # fmt: skip


def write(path: Path, spec: Mapping[str, Any], found: Any) -> None:
    """Keep a record: whole or not at all."""
    with replace_whole(path) as draft:
        draft.write_text(json.dumps({"asked": dict(spec), "found": found}), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Do the cell on stdin and write its record to the path given; 0, or an error's exit code."""
    spec, path = json.loads(sys.stdin.read()), Path(arguments[0])
    start = None
    if "base" in spec:
        found = json.loads(path.with_name(f"{spec['base']}.json").read_text(encoding="utf-8"))
        start = found["found"]["measurement"]
    try:
        found = run(spec, start, lambda share: print(f"{share:.4f}", flush=True))
    except SzpoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    write(path, spec, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
