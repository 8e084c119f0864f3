"""A simulated panel in its own process: ``szpo simulate RUN``.

It answers a run's open comparisons through the vote service, as people in a browser do, until the
run ends or enough votes are cast.
"""

from __future__ import annotations

import time
from pathlib import Path

import typer

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.runs.status import round_status
from szpo.voting import panel_evaluator
from szpo.voting.panel_factory import Logprob, StartingPolicy
from szpo.voting.service import VoteService
from szpo_simulators.panels.panel import PRESETS, build

command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


def _base_logprob(ledger: Ledger) -> Logprob:
    """Log-probabilities under the run's base model; this loads the model."""
    from szpo.policies.protocol import BaseScorer
    from szpo.runs import assemble  # imports torch, which only rewards with fluency need

    policy = assemble.reopen(ledger).policy
    if not isinstance(policy, BaseScorer):
        raise UsageError(f"{ledger.path.name}: its policy has no log-probabilities for fluency")
    return policy.logprob_base


@command.command("simulate")
def answer_run(
    run: str = typer.Argument(..., help="Name or file of the run."),
    folder: Path = typer.Option(Path("runs"), "--folder", help="Folder of the runs."),
    votes: int | None = typer.Option(
        None, "--votes", min=0, help="Stop after this many votes of this process."
    ),
    once: bool = typer.Option(False, "--once", help="Answer what is open now and stop."),
    panel: str = typer.Option(
        "bt70", "--panel", help=f"{', '.join(PRESETS)}, or changed as in bt70+side=.3."
    ),
    reward: str = typer.Option("sentiment", "--reward", help="Its hidden reward."),
    beta: float = typer.Option(10.0, "--beta", help="Its sharpness β, as of bt70."),
    size: int = typer.Option(5, "--size", help="Its members."),
    pace: float | None = typer.Option(
        None, "--pace", help="Seconds to read a pair, one at a time."
    ),
    leave: int = typer.Option(0, "--leave", min=0, help="Pairs of each round to leave to people."),
) -> int:
    """Let a simulated panel vote in a run.

    It is a process of its own, and goes on until the run ends or enough votes are cast.
    """
    if pace is not None and not 0 < pace <= 3600:
        raise UsageError(f"--pace {pace:g}: give seconds above 0, at most 3,600")
    from szpo.cli import run_paths

    with Ledger.open(run_paths.find(run, folder)) as ledger:
        if round_status(ledger).state == "finished":
            print("0 votes cast: the run is finished")
            return 0
        start = StartingPolicy(logprob=_base_logprob(ledger) if "fluency" in reward else None)
        made = build(panel, reward=reward, size=size, beta=beta, start=start)
        print(made)
        cast, why = panel_evaluator.visit(
            ledger,
            made.evaluator(VoteService(ledger)),
            limit=votes,
            once=once,
            leave=leave,
            read=None if pace is None else lambda: time.sleep(pace),
        )
    print(f"{cast} votes cast: {why}")
    return 0
