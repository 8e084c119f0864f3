"""The command that improves a run's policy on the taste of its votes."""

from __future__ import annotations

from pathlib import Path

import typer

from szpo.analysis import improvement, measuring, run_taste
from szpo.cli import console, run_paths
from szpo.cli.taste import FEATURE
from szpo.errors import RunError, UsageError
from szpo.improvement.score_ascent import Improved
from szpo.ledger.database import Ledger
from szpo.optim.regression import BUDGET
from szpo.runs import status
from szpo.types import Say
from szpo.voting import lease, panel_evaluator


def improve(
    run: str | None = run_paths.RUN,
    nats: float = typer.Option(BUDGET, "--nats", help="Most KL to the run's start, an answer."),
    feature: list[str] = FEATURE,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Improve a run's policy on the taste of its votes, by its own answers alone."""
    if not 0 < nats < float("inf"):
        raise UsageError(f"--nats {nats:g}: give a number above 0")
    from szpo.cache import quiet
    from szpo.improvement.between_rounds import describe_improving, improve_run, reporter
    from szpo.runs import assemble

    path = run_paths.find(run, folder)
    with Ledger.open(path) as ledger, lease.hold(ledger):
        run_taste.read(ledger, feature)  # refused before a model is loaded
        console.doing("loading the run's model")
        with quiet():
            parts = assemble.reopen(ledger, panel=False, say=console.complain, features=feature)
        helped = ""
        say: Say = (lambda line: None) if as_json else console.complain
        shown = reporter(say, nats, console.doing)
        state = improve_run(ledger, parts, nats=nats, given=feature, report=shown)
        if state.best:
            console.doing("measuring on held-out prompts")
            score = panel_evaluator.find_reward(ledger)
            if score is not None:
                parts = assemble.with_recorded_panel(ledger, parts)
            found = measuring.prepare(ledger, parts, score, console.complain)
            total = status.read_results(ledger)
            measuring.after_improving(found, total.steps, total.votes)
            read = improvement.read(ledger)
            helped = read.sentence if read.last is None else read.last.line
    if as_json:
        console.emit(summary(state))
    else:
        console.say(describe_improving(state))
        if state.best:
            console.say(helped)
    if not state.best:
        raise RunError(
            f"{path.name}: nothing was adopted, its policy is as it was: {state.stopped}"
        )


def summary(state: Improved) -> dict[str, object]:
    """The result for ``--json``."""
    return {
        "adopted": bool(state.best),
        "score_start": state.base.score,
        "score_begun": state.begun.score,
        "score": state.checked.score,
        "nats": state.checked.nats,
        "nats_stderr": state.checked.stderr,
        "steps": [
            {"score": s.checked.score, "nats": s.checked.nats, "kept": s.kept} for s in state.steps
        ],
        "answers": state.answers,
        "stopped": state.stopped,
    }
