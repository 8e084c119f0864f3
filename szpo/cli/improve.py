"""`szpo improve`: a policy of a run on its taste, or an adapter of a taste without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from szpo.cli import adapters, console, run_paths
from szpo.cli import taste as tastes
from szpo.cli.run_paths import SETS
from szpo.cli.taste import FEATURE
from szpo.config.tables import IMPROVE_NATS
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.types import Say

if TYPE_CHECKING:
    from szpo.improvement.policy_search import Found


def improve(
    run: str | None = run_paths.RUN,
    nats: float = typer.Option(IMPROVE_NATS, "--nats", help="Most KL to the start, an answer."),
    taste: str | None = typer.Option(
        None, "--taste", help="Instead of a run: a taste on file (taste.json)."
    ),
    pairs: Path | None = typer.Option(
        None, "--pairs", help="Instead of a run: a file of chosen and rejected answers."
    ),
    model: str = typer.Option(
        "smollm2", "--model", help="With --taste or --pairs: what is tuned."
    ),
    out: Path | None = typer.Option(
        None, "--out", help="With these: folder of adapters; default: the model's in szpo's cache."
    ),
    sets: list[str] = SETS,
    yes: bool = tastes.YES,
    feature: list[str] = FEATURE,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Improve a run's policy on the taste of its votes, by its own answers alone.

    With --taste or --pairs no run is needed: the result is an adapter, as szpo adapters make
    makes them, tuned by the model's own answers to the settings' training prompts.
    """
    if not 0 < nats < float("inf"):
        raise UsageError(f"--nats {nats:g}: give a number above 0")
    if taste is None and pairs is None:
        if out is not None or sets:
            raise UsageError("--out and --set go with --taste or --pairs; a run keeps its own")
        _improve_run(run, nats, feature, folder, as_json)
        return
    if run is not None or (taste is not None and pairs is not None):
        raise UsageError("give a run, --taste or --pairs, one of them")
    adapters.require_nats(nats)
    config = adapters.settings(None, [f"model.name={model}", *sets])
    source = taste or str(pairs)
    if pairs is None:
        liked = tastes.load(source, folder, feature)
    else:
        liked = tastes.of_pairs(pairs, model)[0]
    from szpo.improvement import aims

    adapters.make_set(
        config, [aims.of_taste(source, liked, feature)], folder=out, nats=nats, yes=yes,
        as_json=as_json,
    )  # fmt: skip


def _improve_run(
    run: str | None, nats: float, feature: Sequence[str], folder: Path, as_json: bool
) -> None:
    from szpo.analysis import improvement, measuring, run_taste
    from szpo.cache import quiet
    from szpo.runs import assemble, status
    from szpo.voting import lease, panel_evaluator

    path = run_paths.find(run, folder)
    with Ledger.open(path) as ledger, lease.hold(ledger):
        run_taste.read(ledger, feature, present=True)  # refused before a model is loaded
        from szpo.improvement.between_rounds import (
            allowed,
            describe_improving,
            describe_start,
            improve_run,
            reporter,
        )

        console.doing("loading the run's model")
        with quiet():
            parts = assemble.reopen(ledger, panel=False, say=console.complain, features=feature)
        helped = ""
        say: Say = (lambda line: None) if as_json else console.complain
        nats = allowed(parts.config, nats)
        say(describe_start(nats))
        console.doing("improving: the start's answers, to compare with")
        found = improve_run(
            ledger, parts, nats=nats, given=feature, report=reporter(say, console.doing),
            progress=console.stages("improving", as_json=as_json),
        )  # fmt: skip
        if found.adopts is not None:
            console.doing("measuring on held-out prompts")
            score = panel_evaluator.find_reward(ledger)
            if score is not None:
                parts = assemble.with_recorded_panel(ledger, parts)
            measured = measuring.prepare(ledger, parts, score, console.tell)
            total = status.read_results(ledger)
            measuring.after_improving(measured, total.steps, total.votes)
            read = improvement.read(ledger)
            helped = read.sentence if read.last is None else read.last.line
    if as_json:
        console.emit(improved_summary(found))
    else:
        console.say(describe_improving(found))
        if found.adopts is not None:
            console.say(helped)
    if found.adopts is None:
        raise RunError(f"{path.name}: nothing was adopted, its policy is as it was")


def improved_summary(found: Found) -> dict[str, object]:
    """The result for ``--json``."""
    state, body = found.state, found.body
    return {
        "adopted": found.adopts is not None,
        "from": body["begun"]["from"],
        "score_start": body["score_before"],
        "score": body["score"],
        "nats": body["nats"],
        "nats_stderr": body["nats_stderr"],
        "scale": body["scale"],
        "steps": [{"score": s.score, "nats": s.nats, "cost": s.cost} for s in state.at.steps],
        "answers": body["answers"],
        "stopped": state.stopped,
    }
