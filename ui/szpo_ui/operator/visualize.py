"""Mount the page of a posterior: for an example or a run's votes, or behind the operator's login.

``szpo visualize`` answers only this machine, without a login. It shows numbers made from votes
and the texts of the pair to ask next. It stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import gradio as gr
import numpy as np
import typer
from fastapi import APIRouter, FastAPI

from szpo.analysis import features, vote_rows
from szpo.errors import StorageError, UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison
from szpo.visible_text import visible
from szpo_ui.operator import posterior_page
from szpo_ui.operator import posterior_pictures as pictures
from szpo_ui.operator.posterior_page import Start
from szpo_ui.operator.posterior_scene import EXTENT, scene, scenes
from szpo_ui.web import login, mounting, server
from szpo_ui.web.site import POSTERIOR, Site

FEATURES: Final = "length,sentiment"
"""The default features of the two weights."""
CLOSED: Final = (
    "SELECT count(*) AS rounds, sum(last_amendment) AS amended FROM steps "
    "WHERE state IN ('closed', 'applied')"
)
"""A run's page changes when this changes: the closed rounds and their amendments."""
LATEST: Final = 40
"""Votes that a page begins with: more arrows would hide each other."""


def of_run(ledger: Ledger, named: str = FEATURES) -> Start:
    """The latest votes of closed rounds without ties, as differences of two named features.

    The unit is the root mean square of a feature's differences over the comparisons; values beyond
    ±`EXTENT` are drawn at the edge. The candidates for the next pair are the comparisons already
    asked: an old question shows what a new one like it would be worth.

    Raises:
        UsageError: no votes yet, not two features, or a feature that never differs.
    """
    chosen = features.parse(named)
    if len(chosen) != 2:
        raise UsageError(f"visualize: --features names {len(chosen)}; give two")
    seen = vote_rows.read_judged(ledger)
    apart = features.differences(chosen, seen.comparisons)
    scale = np.sqrt((apart**2).mean(0))
    for feature, size in zip(chosen, scale, strict=True):
        if not size:
            raise UsageError(
                f"visualize: {feature.name} never differs between answers; give other --features"
            )
    apart = np.clip(apart / scale, -EXTENT, EXTENT)
    decided = np.flatnonzero(seen.y != 0.5)[-LATEST:]
    deltas = apart[seen.which[decided]] * np.where(seen.y[decided] > 0.5, 1.0, -1.0)[:, None]
    about = (
        f"The last {len(decided)} of {len(seen.y)} votes of {ledger.path.stem}, per standard "
        "deviation of each feature."
    )
    first, second = (feature.name for feature in chosen)
    return Start(deltas, (first, second), about, apart, tuple(map(_texts, seen.comparisons)))


def _texts(comparison: Comparison) -> tuple[str, str, str]:
    """The first prompt of a comparison whose answers differ, with both answers."""
    row = next((row for row in comparison.rows if not row.identical), comparison.rows[0])
    return visible(row.prompt.text), visible(row.plus.text), visible(row.minus.text)


def of_site(site: Site) -> tuple[gr.Blocks, APIRouter]:
    """The page behind the operator's login, with the run's own votes, and its routes."""

    @lru_cache(maxsize=1)
    def read_start(_closed: tuple[Any, ...]) -> Start:
        try:
            return of_run(site.ledger)
        except UsageError as why:
            made = posterior_page.example()
            return Start(made.deltas, made.names, f"{made.about} (This run: {why}.)")

    def start() -> Start:
        # Called whenever a handle moves; texts are read again only after a round has closed.
        (closed,) = site.ledger.query(CLOSED)
        return read_start(tuple(closed.values()))

    api = f"{POSTERIOR}-api"
    routes = posterior_page.router(api, start, partial(login.identity, role="operator"))
    back = login.home_of("operator")
    return posterior_page.blocks(f"{api}/", back=back), routes


def application(start: Callable[[], Start]) -> FastAPI:
    """An application with only this page, at /visualize/, for browsers on this machine."""
    return mounting.local(
        partial(posterior_page.blocks, "/visualize-api/"),
        posterior_page.router("/visualize-api", start, lambda request: None),
        posterior_page.PATH,
        posterior_page.page_head(),
    )


command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


@command.command("visualize")
def visualize(
    run: str | None = typer.Argument(
        None, help="Name or file of a run whose votes to begin with; without it, an example."
    ),
    folder: Path = typer.Option(Path("runs"), "--folder", help="Folder of the runs."),
    chosen: str = typer.Option(FEATURES, "--features", help="The two features."),
    port: int = typer.Option(7861, "--port", help="Port of the page; 0: a free one."),
    svg: Path | None = typer.Option(
        None, "--svg", help="Write the picture here instead of a page."
    ),
    gif: Path | None = typer.Option(
        None, "--gif", help="Write the particles' path here instead of a page."
    ),
) -> None:
    """Show a posterior over two weights on a page: drag answers.

    The posterior, its particles and its entropy follow, and so does the pair to ask next.
    """
    begun = posterior_page.example()
    if run is not None:
        from szpo.cli import run_paths

        with Ledger.open(run_paths.find(run, folder), readonly=True) as ledger:
            begun = of_run(ledger, chosen)
    if svg:
        _write(svg, pictures.svg(scene(begun.deltas, begun.candidates), begun.names))
    if gif:
        rounds = scenes(begun.deltas, begun.candidates, pictures.MOST_ROUNDS)
        _write(gif, pictures.gif(rounds, begun.names))
    if svg or gif:
        return
    server.show(lambda: application(lambda: begun), posterior_page.PATH, port)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    print(f"wrote {path}")
