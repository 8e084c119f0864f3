"""A simulated panel as a process of its own: ``szpo simulate RUN``.

It answers a run's open comparisons through the vote service, exactly as people in a browser would
and with the rows an in-process panel would leave, until the run ends or enough votes are cast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from szpo.errors import UsageError
from szpo.evaluators import remote_panel
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.evaluators.panel_factory import StartingPolicy
from szpo.evaluators.protocol import Judge
from szpo.evaluators.remote_panel import AT_ONCE, Pace, Served
from szpo.ledger.database import Ledger
from szpo.training import summary
from szpo.voting.service import VoteService
from szpo_simulators.panels.panel import PANELS, SimulatedPanel, build, from_spec
from szpo_simulators.rewards.text_rewards import Logprob


def simulate(ledger: Ledger, judges: Sequence[Judge], **how: Any) -> Served:
    """Answer open comparisons with these judges; keywords as in `remote_panel.visit`.

    Raises:
        UsageError: M is larger than the panel.
    """
    return remote_panel.visit(ledger, PanelEvaluator(VoteService(ledger), judges), **how)


def panel_of(ledger: Ledger, *, logprob: Logprob | None = None) -> SimulatedPanel:
    """The simulated panel that a run has on record.

    Raises:
        UsageError: the run is for people or for another evaluator.
    """
    recorded = ledger.spec.get("panel")
    if not isinstance(recorded, dict) or "raters" not in recorded:
        raise UsageError(
            f"{ledger.path.name} has no simulated panel on record; name one with --panel bt70 "
            "--reward sentiment --beta 10"
        )
    if logprob is None and "fluency" in str(recorded.get("reward")):
        logprob = _base_logprob(ledger)
    return from_spec(recorded, logprob=logprob)


def _base_logprob(ledger: Ledger) -> Logprob:
    """Log-probabilities under the run's base model, which is loaded for it."""
    from szpo.policies.protocol import BaseScorer
    from szpo.runs import assemble  # torch and the model: only a reward with fluency needs them

    policy = assemble.reopen(ledger).policy
    if not isinstance(policy, BaseScorer):
        raise UsageError(f"{ledger.path.name}: its policy has no log-probabilities for fluency")
    return policy.logprob_base


def command(arguments: Sequence[str]) -> int:
    """``szpo simulate RUN``: the entry point of `szpo.commands`."""
    parser = argparse.ArgumentParser(
        prog="szpo simulate",
        description="Answer a run's open comparisons with a simulated panel, as a process of its "
        "own, until the run ends or enough votes are cast.",
    )
    parser.add_argument("run", help="name or file of the run")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--votes", type=int, help="stop after so many votes of this process")
    parser.add_argument("--once", action="store_true", help="answer what is open now and stop")
    known = ", ".join(PANELS)
    parser.add_argument(
        "--panel",
        help=f"another panel than the recorded one: {known}, or changed as in bt70+side=.3",
    )
    parser.add_argument("--reward", default="sentiment", help="what that panel likes")
    parser.add_argument("--beta", type=float, help="sharpness of that panel, in bt70's terms")
    parser.add_argument("--size", type=int, default=5, help="members of that panel")
    parser.add_argument("--pace", type=float, help="seconds to read a comparison, one at a time")
    parser.add_argument(
        "--leave", type=int, default=0, help="comparisons of each step to leave to people"
    )
    chosen = parser.parse_args(list(arguments))
    if chosen.pace is not None and not 0 < chosen.pace <= 3600:
        raise UsageError(f"--pace {chosen.pace} is no reading time; give seconds above 0")
    if chosen.leave < 0:
        raise UsageError(f"--leave {chosen.leave} is negative")
    from szpo.cli import run_paths

    with Ledger.open(run_paths.find(chosen.run, chosen.folder)) as ledger:
        if summary.summary(ledger).state == "finished":
            print("0 votes cast: the run is finished")
            return 0
        if chosen.panel is None:
            panel = panel_of(ledger)
        elif chosen.beta is None:
            raise UsageError("--panel needs --beta; szpo show prints that of a run")
        else:
            wanted = "fluency" in chosen.reward
            panel = build(
                chosen.panel,
                reward=chosen.reward,
                size=chosen.size,
                beta=chosen.beta,
                start=StartingPolicy(logprob=_base_logprob(ledger) if wanted else None),
            )
        print(panel)
        pace = chosen.pace
        served = simulate(
            ledger,
            panel.judges,
            limit=chosen.votes,
            once=chosen.once,
            leave=chosen.leave,
            pace=AT_ONCE if pace is None else Pace(read=lambda: time.sleep(pace)),
        )
    print(f"{served.votes} votes cast: {served.reason}")
    return 0
