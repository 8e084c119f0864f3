"""``szpo visualize``: a posterior over two weights as a page, as SVG, as a GIF.

A picture shows density, particles, entropy and the next pair. The page, with arrows to drag, is
used in two places: in ``szpo visualize``, which answers only this machine, without a login, and
behind the operator's login of a run. The browser holds the differences and draws. Each request
sends all of them; the server stores nothing and answers with a `Scene`.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import typer
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from szpo import drawing
from szpo.analysis import features, posterior, vote_rows
from szpo.analysis.posterior import BradleyTerry
from szpo.errors import StorageError, UsageError
from szpo.ledger.database import Ledger
from szpo.seeds import derive
from szpo.types import Comparison, Floats
from szpo.visible_text import visible
from szpo_ui import http_server, login
from szpo_ui.markup import environment, head, static
from szpo_ui.request_rules import Body, OwnSiteOnly, read_body
from szpo_ui.site import POSTERIOR, Site

_Answers: TypeAlias = tuple[tuple[float, float], ...]
EXTENT = 4.0
"""Weights and differences are shown from −4 to 4."""
CELLS = 61
PARTICLES, STEPS, EVERY = 120, 30, 3
TRAINING, DRAWN = 100, 8
"""Training steps of the initial sampler, and snapshots taken between its start and end."""
CANDIDATES = 48
ANGLES: Final = np.pi * np.arange(CANDIDATES) / CANDIDATES
FAN: Final = 2.0 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
"""Default candidates (c, 2) for the next pair: of length 2, evenly spaced over half a turn. The
other half would be the same questions with the two answers swapped."""
TAU = 1.5
"""Standard deviation of the prior of each weight."""
MAX_VOTES = 200
"""Most votes in a picture: with more it is slow and hard to read."""
INK, DOT, ASK = "#1d1f24", "#8a2f5d", "#8a4b08"
STILL_MS = 120
SKIP = 3
"""The animation shows every third snapshot of the particles."""
MOST_ROUNDS = 16
NAMES = ("first weight", "second weight")
PATH: Final = "/visualize"
EXAMPLE: Final = ((1.5, 0.5), (0.5, 1.8), (-0.6, 1.2))
Number = Annotated[float, Field(ge=-EXTENT, le=EXTENT, allow_inf_nan=False)]
FEATURES: Final = "length,sentiment"
"""The default features of the two weights."""
CLOSED: Final = (
    "SELECT count(*) AS rounds, sum(last_amendment) AS amended FROM steps "
    "WHERE state IN ('closed', 'applied')"
)
"""A run's page changes when this changes: the closed rounds and their amendments."""
LATEST: Final = 40
"""Votes that a page begins with: more arrows would hide each other."""
command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One picture; see `scene`.

    Shapes: deltas (n, 2), winner − loser; log_density (CELLS, CELLS), with maximum 0 and rows from
    the largest second weight down; frames (f, m, 2), the particles' path; mean (2,).
    """

    deltas: Floats
    log_density: Floats
    frames: Floats
    rounds: tuple[dict[str, float], ...]
    """After each answer the posterior's entropy in nats, estimated in three ways: gaussian;
    neighbours; svgd, by the particles' change of variables, drifts down."""
    mean: Floats
    log_likelihood: float
    """The log-likelihood of the answers at the mean weights; at w = 0 it is −n log 2."""
    suggested: Floats | None
    """The candidate with the largest information gain, (2,); None if every gain is 0."""
    information: float
    """Its information gain, nats."""


def scene(
    deltas: Sequence[Sequence[float]] | Floats,
    candidates: Floats | None = None,
) -> Scene:
    """The picture for these answers.

    Args:
        deltas: (n, 2), winner − loser, within ±`EXTENT`, at most `MAX_VOTES`.
        candidates: (c, 2) differences of the pairs that may be asked next.
    """
    rows = np.asarray(deltas, dtype=np.float64).reshape(-1, 2)
    answers: _Answers = tuple((float(x), float(y)) for x, y in rows)
    shown = _trace_particles(answers)
    posterior = _posterior(rows)
    mean = shown[-1].x.mean(0)
    suggested, information = _next(shown[-1].x, FAN if candidates is None else candidates)
    return Scene(
        deltas=rows,
        log_density=_map(posterior),
        frames=np.stack([part.x for part in shown]),
        rounds=tuple(_round(answers[:n]) for n in range(len(answers) + 1)),
        mean=mean,
        log_likelihood=float(posterior.log_likelihood(mean[None])[0]),
        suggested=suggested,
        information=information,
    )


def scenes(deltas: Sequence[Sequence[float]] | Floats, candidates: Floats | None) -> list[Scene]:
    """The scenes after 0, 1, … of these answers, but only the last `MOST_ROUNDS`; see `scene`."""
    first = max(0, len(deltas) + 1 - MOST_ROUNDS)
    return [scene(deltas[:n], candidates) for n in range(first, len(deltas) + 1)]


def _posterior(rows: Floats) -> BradleyTerry:
    return BradleyTerry(rows, np.ones(len(rows)), TAU)


@lru_cache(maxsize=64)
def _trace_particles(answers: _Answers) -> tuple[posterior.Particles, ...]:
    """Snapshots of the particles from the prior to the posterior of these answers."""
    target = _posterior(np.array(answers).reshape(-1, 2))
    key, broad = derive(0, "scene"), np.full(2, TAU)
    mean, sd = posterior.train_particles(
        target, key=key, steps=TRAINING, start=(np.zeros(2), broad)
    )
    shares = np.linspace(0, 1, DRAWN)
    drawn = [
        posterior.draw_particles(share * mean, broad ** (1 - share) * sd**share, PARTICLES, key)
        for share in shares
    ]
    view = posterior.whiten(target)
    wide = float(np.log(np.diag(view.root)).sum())
    start = posterior.Particles(view.z(drawn[-1].x), drawn[-1].log_q + wide)
    moved = posterior.run_svgd(view, start, steps=STEPS, every=EVERY)
    return (*drawn[:-1], *map(view.back, moved))


@lru_cache(maxsize=1024)
def _round(answers: _Answers) -> dict[str, float]:
    """The entropies after these answers; cached, since dragging changes few of the rounds."""
    found = _trace_particles(answers)[-1]
    return {
        "gaussian": posterior.gaussian_entropy(found.x),
        "neighbours": posterior.nearest_entropy(found.x),
        "svgd": found.entropy,
    }


def _map(posterior: BradleyTerry) -> Floats:
    line = (np.arange(CELLS) + 0.5) / CELLS * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(line, line[::-1])
    found = posterior.log_density(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    return np.asarray(found - found.max())


def _next(x: Floats, candidates: Floats) -> tuple[Floats | None, float]:
    if not len(candidates):
        return None, 0.0
    worth = posterior.gains(x, np.asarray(candidates, dtype=np.float64))
    best = int(np.argmax(worth))
    return (candidates[best], float(worth[best])) if worth[best] > 0 else (None, 0.0)


def draw_svg(shown: Scene, names: Sequence[str]) -> bytes:
    """Two plots: density, answers and final particles; entropy over the number of answers."""
    with drawing.figure(9.6, 5.0) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        _plane(left, shown, names)
        _dots(left, shown, -1)
        for label, style, line in (
            ("Gaussian", "-", [r["gaussian"] for r in shown.rounds]),
            ("nearest neighbours", "--", [r["neighbours"] for r in shown.rounds]),
        ):
            right.plot(range(len(line)), line, linestyle=style, marker="", label=label)
        right.set(xlabel="answers", ylabel="entropy of the posterior, nats")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.legend()
        return drawing.svg(figure)


def draw_gif(rounds: Sequence[Scene], names: Sequence[str]) -> bytes:
    """The particles' path to the posterior of each scene."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    stills = []
    with drawing.figure(5.2, 5.0, {"figure.dpi": 80}) as figure:
        canvas: Any = FigureCanvasAgg(figure)  # which has no types
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.13, 0.11, 0.85, 0.8))
        for shown in rounds:
            axes.clear()
            _plane(axes, shown, names)
            entropy = shown.rounds[-1]["gaussian"]
            axes.set_title(f"{len(shown.deltas)} answers, entropy {entropy:.2f} nats")
            dots = _dots(axes, shown, 0)
            for frame in [*shown.frames[:-1:SKIP], shown.frames[-1]]:
                dots.set_offsets(frame)
                canvas.draw()
                size = canvas.get_width_height()
                still = Image.frombuffer("RGBA", size, canvas.buffer_rgba())
                stills.append(still.convert("RGB").quantize(64, dither=Image.Dither.NONE))
    file = io.BytesIO()
    stills[0].save(file, "GIF", save_all=True, append_images=stills[1:], duration=STILL_MS, loop=0)
    return file.getvalue()


def _plane(axes: Any, shown: Scene, names: Sequence[str]) -> None:
    from numpy import exp, maximum

    axes.imshow(
        exp(maximum(shown.log_density, -12) / 2), cmap="Blues", vmin=0, vmax=1.4,
        extent=(-EXTENT, EXTENT, -EXTENT, EXTENT), interpolation="nearest",
    )  # fmt: skip
    for delta in shown.deltas:
        axes.annotate("", delta, (0, 0), arrowprops={"arrowstyle": "->", "color": INK})
    if shown.suggested is not None:
        axes.annotate(
            "", shown.suggested, (0, 0),
            arrowprops={"arrowstyle": "->", "color": ASK, "linestyle": "--", "linewidth": 2},
        )  # fmt: skip
    axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal")
    axes.grid(visible=False)


def _dots(axes: Any, shown: Scene, frame: int) -> Any:
    x, y = shown.frames[frame].T
    return axes.scatter(x, y, s=7, color=DOT, zorder=3)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The page's first content: differences (n, 2), and the names of the two weights.

    ``candidates`` (c, 2) are the pairs that may be asked next; None for evenly spaced directions.
    """

    deltas: Floats
    names: tuple[str, str] = NAMES
    about: str = "An example of three answers."
    candidates: Floats | None = None
    texts: tuple[tuple[str, str, str], ...] = ()
    """(prompt, first, second) of each candidate, which is first minus second; may be empty."""


def example() -> Start:
    """Three answers, after which the posterior is still wide."""
    return Start(np.array(EXAMPLE))


class SceneRequest(Body):
    """The page's request for a scene or a picture of it."""

    deltas: list[tuple[Number, Number]] = Field(max_length=MAX_VOTES)


def blocks(api: str, back: str = "") -> Any:
    """Build the page; ``api`` is the prefix of its requests, ``back`` the page to return to."""
    import gradio as gr

    settings = json.dumps({"api": api, "extent": EXTENT})
    page = environment({}, {}).get_template("visualize/page.html")
    made = gr.Blocks(title="szpo: posterior", analytics_enabled=False, fill_width=True)
    with made:
        gr.HTML(
            page.render(settings=settings, back=back, particles=PARTICLES),
            elem_id="vz-page",
            apply_default_css=False,
        )
    return made


def router(prefix: str, start: Callable[[], Start], allow: Callable[[Request], Any]) -> APIRouter:
    """The routes of the page: its start, a scene, pictures of it.

    ``allow`` raises for clients without access.
    """
    made = APIRouter(prefix=prefix)

    @made.get("/start")
    def begin(request: Request) -> dict[str, Any]:
        allow(request)
        found = start()
        return {"deltas": found.deltas.tolist(), "names": found.names, "about": found.about}

    @made.post("/{form}")
    async def draw(request: Request, form: Literal["scene", "svg", "gif"]) -> Response:
        allow(request)
        asked = await read_body(SceneRequest, request)
        return await asyncio.to_thread(lambda: _draw(form, asked.deltas, start()))

    return made


def page_head() -> str:
    """Style and script of the page, inline."""
    return f"{head('visualize')}<script>{static('visualize.js')}</script>\n"


def _draw(form: str, deltas: list[tuple[float, float]], begun: Start) -> Response:
    if form == "gif":
        rounds = scenes(deltas, begun.candidates)
        return Response(draw_gif(rounds, begun.names), media_type="image/gif")
    shown = scene(deltas, begun.candidates)
    if form == "svg":
        return Response(draw_svg(shown, begun.names), media_type="image/svg+xml")
    return Response(json.dumps(as_json(shown, begun)), media_type="application/json")


def _read_texts(shown: Scene, begun: Start) -> tuple[str, str, str] | None:
    """The texts of the suggested pair; None if it has none."""
    if shown.suggested is None or begun.candidates is None or not begun.texts:
        return None
    return begun.texts[int((begun.candidates == shown.suggested).all(1).argmax())]


def as_json(shown: Scene, begun: Start) -> dict[str, Any]:
    """A scene as JSON for the page's script."""
    return {
        "cells": CELLS,
        "log_density": np.round(shown.log_density.ravel(), 3).tolist(),
        "frames": np.round(shown.frames, 3).tolist(),
        "rounds": list(shown.rounds),
        "mean": shown.mean.tolist(),
        "more": (shown.frames[-1] > 0).mean(0).tolist(),
        "log_likelihood": shown.log_likelihood,
        "log_likelihood_at_zero": -len(shown.deltas) * float(np.log(2)),
        "suggested": None
        if shown.suggested is None
        else {
            "delta": shown.suggested.tolist(),
            "information": shown.information,
            "texts": _read_texts(shown, begun),
        },
    }


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


def of_site(site: Site) -> tuple[Any, APIRouter]:
    """The page behind the operator's login, with the run's own votes, and its routes."""

    @lru_cache(maxsize=1)
    def read_start(_closed: tuple[Any, ...]) -> Start:
        try:
            return of_run(site.ledger)
        except UsageError as why:
            made = example()
            return Start(made.deltas, made.names, f"{made.about} (This run: {why}.)")

    def start() -> Start:
        # Called whenever a handle moves; texts are read again only after a round has closed.
        (closed,) = site.ledger.query(CLOSED)
        return read_start(tuple(closed.values()))

    api = f"{POSTERIOR}-api"
    routes = router(api, start, partial(login.identity, role="operator"))
    back = login.home_of("operator")
    return blocks(f"{api}/", back=back), routes


def application(start: Callable[[], Start]) -> FastAPI:
    """An application with only this page, at /visualize/, for browsers on this machine."""
    from szpo_ui.security import LOCAL, bare_app, call_in_loop, mount  # late: it loads Gradio

    made = bare_app()
    made.include_router(router("/visualize-api", start, lambda request: None))
    call_in_loop(lambda: mount(made, blocks("/visualize-api/"), PATH, head=page_head()))
    made.add_middleware(OwnSiteOnly)
    made.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL, www_redirect=False)
    return made


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
    begun = example()
    if run is not None:
        from szpo.cli import run_paths

        with Ledger.open(run_paths.find(run, folder), readonly=True) as ledger:
            begun = of_run(ledger, chosen)
    if svg:
        _write(svg, draw_svg(scene(begun.deltas, begun.candidates), begun.names))
    if gif:
        rounds = scenes(begun.deltas, begun.candidates)
        _write(gif, draw_gif(rounds, begun.names))
    if svg or gif:
        return
    with http_server.listening("127.0.0.1", port, insecure=False) as listener:
        made, port = application(lambda: begun), listener.getsockname()[1]
        print(f"open http://127.0.0.1:{port}{PATH}/  (Ctrl-C ends it)", flush=True)
        http_server.answer(made, listener)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    print(f"wrote {path}")
