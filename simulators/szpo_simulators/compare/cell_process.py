"""Run one cell in its own process: ``python -m szpo_simulators.compare.cell_process RECORD``.

The spec is read as JSON from stdin, the finished share is printed to stdout, and the record is
written completely or not at all. A method that cannot continue (it diverged, or had nothing to
learn from) is recorded as a result; a mistake in the spec is an error and leaves no record.
`frontier_cell` runs the cells of a frontier.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from szpo.errors import SzpoError
from szpo_simulators.study import measure_machine, read_record, write_record

VERSION = 1
"""Raise this number when cells do or count something else: older records are then ignored."""


def run_cell(
    spec: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Run the cell and return its result as plain JSON values.

    Args:
        spec: Method, way of asking, seed, settings and everything that the cells share.
        base: The measurement made by the cell ``base``; None: this is that cell.
        report: Called with the finished share of the cell, in [0, 1].
    """
    began = time.monotonic(), time.process_time()
    from szpo_simulators.compare import machine_meter, methods, shared_setup
    from szpo_simulators.compare.checkpoints import Checkpoints, Yardstick, measurement_from_json
    from szpo_simulators.panels import text_rewards

    if base is None:
        return {**shared_setup.measure_base(spec), **spent_since(*began)}
    machine = machine_meter.MachineMeter()
    loaded_bytes = machine_meter.resident()
    yardstick = Yardstick(
        shared_setup.load_prompts(spec).heldout[: spec["prompts"]],
        spec["samples"],
        shared_setup.MEASURING,
        text_rewards.parse(spec["reward"]).score,
        measurement_from_json(base),
    )
    checkpoints = Checkpoints(yardstick, machine, spec["points"], report=report)
    checkpoints.record_start()
    stopped, more = methods.run(spec, checkpoints)
    return {
        "course": checkpoints.rows,
        "stopped": stopped,
        **more,
        "bytes": {"before": loaded_bytes, "peak": machine.peak()},
        **spent_since(*began),
    }


def spent_since(wall: float, cpu: float) -> dict[str, Any]:
    """Seconds since these two clock readings, the machine, and this checkout's commit or None."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "rev-parse", "--short=10", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        commit = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "elapsed": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "commit": commit,
        "machine": measure_machine(),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the cell on stdin, write its record to the given path; returns the exit code."""
    spec, path = json.loads(sys.stdin.read()), Path(arguments[0])

    def report(share: float) -> None:
        print(f"{share:.4f}", flush=True)

    try:
        if "settings_hash" in spec:  # a cell of a frontier
            from szpo_simulators.compare import frontier_cell

            began = time.monotonic(), time.process_time()
            found = frontier_cell.run_cell(spec, path.parents[1], path.stem, report)
            found |= spent_since(*began)
        elif "base" in spec:
            base = read_record(path.with_name(f"{spec['base']}.json"))["found"]["measurement"]
            found = run_cell(spec, base, report)
        else:
            found = run_cell(spec)
    except SzpoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    write_record(path, spec, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
