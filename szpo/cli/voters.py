"""Commands about those who vote: what each one's votes weigh, and whether the link fits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from szpo.cli import place, screen
from szpo.errors import LeaseError
from szpo.ledger import Ledger


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("voters")(voters)
    app.command("probe")(probe)


def voters(
    run: str | None = place.RUN,
    crowd: bool = typer.Option(
        False, "--crowd", help="Beside it what crowd-kit's Dawid–Skene finds (szpo[crowd])."
    ),
    folder: Path = place.FOLDER,
    as_json: bool = screen.AS_JSON,
) -> None:
    """What each voter's votes would weigh, by every way of learning it, with intervals."""
    from szpo import voters as table

    with Ledger.open(place.find(run, folder), readonly=True) as ledger, ledger.snapshot():
        found = table.voters(ledger, crowd=crowd)
    if as_json:
        screen.emit([asdict(row) for row in found])
        return
    if not found:
        screen.say("nobody has voted in a finished step yet")
        return
    screen.table(*table.table(found))
    screen.say(table.LEGEND)


def probe(
    run: str | None = place.RUN,
    triads: int = typer.Option(20, "--triads", min=1, max=500, help="Triads to make."),
    radius: int = typer.Option(
        2, "--radius", min=1, max=10, help="How many times as far apart as a step's policies."
    ),
    folder: Path = place.FOLDER,
    as_json: bool = screen.AS_JSON,
) -> None:
    """Order comparisons that test whether the logistic link fits; a panel inside answers them."""
    from szpo import assemble, attend, driving, lease, linkprobe, linkreport, orders
    from szpo.evaluators import PanelEvaluator

    with Ledger.open(place.find(run, folder)) as ledger:
        order = orders.place(ledger, "triads", "szpo probe", {"triads": triads, "radius": radius})
        try:
            with lease.hold(ledger):
                parts = assemble.reopen(ledger, say=screen.complain)
                attend.fulfil(ledger, assemble.source(ledger, parts), screen.complain)
                panel = driving.evaluator(ledger, parts)
                if isinstance(panel, PanelEvaluator):
                    answers = linkprobe.answer(panel)
                    screen.complain(f"{answers} answers")
        except LeaseError:
            screen.complain(
                f"order {order} is placed; the process that drives the run makes its comparisons"
            )
        found = linkreport.check(ledger)
    if as_json:
        screen.emit(None if found is None else {**asdict(found), "fits": found.fits})
    elif found is None:
        screen.say("no triads are made yet; panelists meet them while they wait for a round")
    else:
        screen.say(found.line())
        if found.warning is not None:
            screen.warn(found.warning)
