"""Mount the page of a posterior: over an example, over a run's votes, behind the operator's login.

``szpo visualize`` answers this machine alone, without a login: it shows numbers made from votes
and the texts of the pair to ask next, and stores nothing.
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
from starlette.middleware.trustedhost import TrustedHostMiddleware

from szpo.analysis import features, vote_texts
from szpo.errors import StorageError, UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison
from szpo.visible_text import visible
from szpo_ui.operator import posterior_page
from szpo_ui.operator import posterior_pictures as pictures
from szpo_ui.operator.posterior_page import Start
from szpo_ui.operator.posterior_scene import EXTENT, scene, scenes
from szpo_ui.web import login, mounting, security, server
from szpo_ui.web.address import listening
from szpo_ui.web.site import POSTERIOR, Site

FEATURES: Final = "length,sentiment"
"""The features of the two weights by default."""
CLOSED: Final = (
    "SELECT count(*) AS rounds, sum(last_amendment) AS amended FROM steps "
    "WHERE state IN ('closed', 'applied')"
)
"""Query of what a page over a run depends on: the closed rounds with the votes counted."""
LATEST: Final = 40
"""Votes that a page begins with: more arrows than these hide one another."""


def of_run(ledger: Ledger, named: str = FEATURES) -> Start:
    """The latest decided votes of closed rounds, as differences of two named features.

    A feature is measured in standard deviations of its differences over the comparisons; beyond
    ±`EXTENT` it is drawn at the edge. Ties stay out. The pairs that may be asked next are the
    comparisons that were asked: an old question shows what a new one like it would be worth.

    Raises:
        UsageError: no votes yet, not two features, or one that never differs.
    """
    chosen = features.parse(named)
    if len(chosen) != 2:
        raise UsageError(f"visualize: {len(chosen)} features are named; a plane has two")
    seen = vote_texts.read(ledger)
    apart = features.differences(chosen, seen.comparisons)
    scale = np.sqrt((apart**2).mean(0))
    for feature, size in zip(chosen, scale, strict=True):
        if not size:
            raise UsageError(f"visualize: {feature.name} never differs here; name another feature")
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
    """The first prompt of a comparison whose answers differ, with both."""
    row = next((row for row in comparison.rows if not row.identical), comparison.rows[0])
    return visible(row.prompt.text), visible(row.plus.text), visible(row.minus.text)


def of_site(site: Site) -> tuple[gr.Blocks, APIRouter]:
    """The page behind the operator's login, over the run's own votes, and the routes it calls."""

    @lru_cache(maxsize=1)
    def read_start(_closed: tuple[Any, ...]) -> Start:
        try:
            return of_run(site.ledger)
        except UsageError as why:
            made = posterior_page.example()
            return Start(made.deltas, made.names, f"{made.about} (This run: {why}.)")

    def start() -> Start:
        # Called with every move of a handle; texts are read again only when a round has closed.
        (closed,) = site.ledger.query(CLOSED)
        return read_start(tuple(closed.values()))

    api = f"{POSTERIOR}-api"
    routes = posterior_page.router(api, start, partial(login.identity, role="operator"))
    back = login.home_of(site, "operator")
    return posterior_page.blocks(f"{site.prefix}{api}/", back=back), routes


def application(start: Callable[[], Start]) -> FastAPI:
    """The page alone, at /visualize/, for browsers of this machine."""
    made = mounting.bare()
    made.include_router(posterior_page.router("/visualize-api", start, lambda request: None))
    mounting.call_in_loop(
        lambda: mounting.mount(
            made,
            posterior_page.blocks("/visualize-api/"),
            posterior_page.PATH,
            head=posterior_page.page_head(),
        )
    )
    made.add_middleware(security.SameSiteOnly)
    made.add_middleware(
        TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False
    )
    return made


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
    with listening("127.0.0.1", port, insecure=False) as listener:
        made = application(lambda: begun)
        port = listener.getsockname()[1]
        print(f"open http://127.0.0.1:{port}{posterior_page.PATH}/  (Ctrl-C ends it)", flush=True)
        server.answer(made, listener)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    print(f"wrote {path}")
