"""Speed of the worlds: the default grid at a thousand repetitions, and the oracle alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from szpo_simulators.study import describe_machine, seed_range
from szpo_simulators.worlds import oracle
from szpo_simulators.worlds import repetitions as batched
from szpo_simulators.worlds.gridworld import DENSE
from szpo_simulators.worlds.oracle import LinkPanel


def time_grid(
    repetitions: int = 1000, steps: int = 300, N: int = 64, *, threads: int = 2, block: int = 50
) -> dict[str, Any]:
    """Time the rule `known` with one vote a comparison: wall and CPU seconds, shares of each part.

    CPU seconds are of all threads together; on a machine with nothing else to do, wall seconds are
    about CPU seconds over threads.
    """
    chosen = batched.settings_for(DENSE, N=N, M=1, alpha=1.0)
    with Progress(transient=True) as progress:
        bar = progress.add_task("default grid", total=repetitions * steps)
        wall, cpu = time.perf_counter(), time.process_time()
        runs = batched.train(
            DENSE, chosen, seed_range(repetitions), steps, crn=False,
            batching=batched.Batching(block, threads, lambda made: progress.advance(bar, made)),
        )  # fmt: skip
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = sum(runs.seconds.values())
    return {
        "repetitions": repetitions, "steps": steps, "N": N, "threads": threads,
        "wall_s": wall, "cpu_s": cpu, "votes": repetitions * steps * N,
        "moves": runs.walks * repetitions * steps * DENSE.horizon,
        "value": float(runs.final.mean()),
        **{f"share_{name}": part / total for name, part in runs.seconds.items()},
    }  # fmt: skip


def time_votes(repetitions: int = 1000, N: int = 64, steps: int = 320) -> dict[str, Any]:
    """Time the oracle alone: keyed uniform numbers, the logistic link, one vote a comparison."""
    gaps = np.random.Generator(np.random.Philox(key=1)).normal(size=(repetitions, 1, N))
    panel, used = LinkPanel(), seed_range(repetitions)
    cpu = time.process_time()
    for step in range(steps):
        if step % batched.COINS == 0:
            coins = oracle.coins(used, step, (1, N, 1), batched.COINS)
        oracle.votes(panel.chance(gaps), coins[step % batched.COINS])
    cpu = time.process_time() - cpu
    made = repetitions * N * steps
    return {"votes": made, "cpu_s": cpu, "votes_per_cpu_s": made / cpu}


def measure_speed(
    console: Console, repetitions: int = 1000, steps: int = 300, threads: int = 2
) -> dict[str, Any]:
    """Both timings, printed with the goals: 3 minutes on two cores, 10⁷ votes a second."""
    ran = time_grid(repetitions, steps, threads=threads)
    voting = time_votes(min(repetitions, 1000), steps=max(steps // 2, batched.COINS))
    view = Table(title=f"speed: {describe_machine()}")
    for head in ("what", "figure"):
        view.add_column(head, justify="right")
    view.add_row("repetitions × steps × votes", f"{repetitions} × {steps} × {ran['N']}")
    view.add_row("wall seconds", f"{ran['wall_s']:.1f}")
    view.add_row("CPU seconds, all threads", f"{ran['cpu_s']:.1f}")
    for part in ("rollouts", "oracle", "optimizer"):
        view.add_row(f"share of {part}", f"{ran[f'share_{part}']:.0%}")
    view.add_row("moves per CPU second, in all", f"{ran['moves'] / ran['cpu_s']:.2e}")
    view.add_row("oracle alone, votes per CPU second", f"{voting['votes_per_cpu_s']:.2e}")
    console.print(view)
    return {"grid": ran, "oracle": voting}
