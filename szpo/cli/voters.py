"""Commands about voters: how much each one's votes weigh, and whether the link fits."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

import typer

from szpo.cli import console, run_paths
from szpo.errors import LeaseError
from szpo.ledger.database import Ledger


def voters(
    run: str | None = run_paths.RUN,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Show how much each voter's votes would weigh under every weighting, with intervals."""
    from szpo.analysis import voter_report as table

    with run_paths.look(run_paths.find(run, folder)) as ledger, ledger.snapshot():
        found = table.voters(ledger)
    if as_json:
        console.emit([asdict(row) for row in found])
        return
    if not found:
        console.say("no finished step has votes yet")
        return
    console.table(*table.table(found))
    console.say(table.LEGEND)


def probe(
    run: str | None = run_paths.RUN,
    triads: int = typer.Option(20, "--triads", min=1, max=500, help="Triads to make."),
    radius: int = typer.Option(
        2,
        "--radius",
        min=1,
        max=10,
        help="Distance of the policies, in multiples of a step's distance.",
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Order comparisons that test whether the logistic link fits; a panel inside answers them."""
    from szpo.evaluators.panel_evaluator import PanelEvaluator
    from szpo.ledger import orders
    from szpo.runs import assemble, driver, link_triads, model_process
    from szpo.voting import lease
    from szpo.voting import triads as triad_votes

    with Ledger.open(run_paths.find(run, folder)) as ledger:
        order = orders.place_order(
            ledger, "triads", "szpo probe", {"triads": triads, "radius": radius}
        )
        try:
            with (
                lease.hold(ledger),
                contextlib.closing(assemble.reopen(ledger, say=console.complain)) as parts,
            ):
                model_process.fulfil(ledger, parts, console.complain)
                panel = driver.evaluator(ledger, parts)
                if isinstance(panel, PanelEvaluator):
                    answers = link_triads.answer(panel)
                    console.complain(f"{answers} answers")
        except LeaseError:
            console.complain(
                f"order {order} is placed; the process that drives the run makes its comparisons"
            )
        found = triad_votes.results(ledger)
    if as_json:
        console.emit(None if found is None else {**asdict(found), "fits": found.fits})
    elif found is None:
        console.say("no triads are made yet; panelists meet them while they wait for a round")
    else:
        console.say(found.line())
        if found.warning is not None:
            console.warn(found.warning)
